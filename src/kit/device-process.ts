/**
 * A device ready to be served: binds an open device to the service loop and presents it to a
 * vhost-user session as a {@link BackEndDevice}.
 */
import { assert, VloError } from '../errors.js';
import type { BackEndDevice } from '../vhost-user/back-end-device.js';
import { type DeviceQueue, type DriverFault, F } from '../virtio/index.js';
import { CHANNELS, publishEvent } from './channels.js';
import {
  type AnyDeviceDefinition,
  type DeviceHost,
  type OpenDevice,
  parseOptions,
  type QueueDefinition,
  type ResetCause,
} from './define.js';
import { LogLimit } from './log-limit.js';
import { ServedQueue } from './served-queue.js';
import { POLL_US_DEFAULT, QueueService } from './service.js';

/** How a device is run, whatever its type. */
export interface RunOptions {
  /** Offer the packed ring layout; default true. */
  readonly packed?: boolean;
  /** Offer IN_ORDER; default false, because a slow request then holds up those behind it. */
  readonly inOrder?: boolean;
  /** Longest time in microseconds to look at the rings before sleeping; 0 sleeps at once. */
  readonly pollUs?: number;
  /** Takes one line of the log. */
  readonly log?: (line: string) => void;
}

/** Hears of what the front end has to know; a `BackEndServer` is one. */
export interface DeviceListener {
  /** A queue stopped: by a fault of the driver, or (null) by a bug of the device. */
  reportFault(queue: DeviceQueue, fault: DriverFault | null): void;
  configChanged(): void;
}

/** Counters of a device; see also the counters of each queue. */
export interface DeviceStatistics {
  /** Queues that a driver's fault stopped. */
  faults: number;
  /** Handlers that failed by a bug. */
  bugs: number;
}

const RING_FEATURES = F.VERSION_1 | F.INDIRECT_DESC | F.EVENT_IDX | F.RING_RESET;

export class DeviceProcess implements BackEndDevice {
  readonly definition: AnyDeviceDefinition;
  readonly statistics: DeviceStatistics = { faults: 0, bugs: 0 };
  /** Set by whoever connects the device to a front end. */
  listener: DeviceListener | null = null;
  private device!: OpenDevice;
  private service!: QueueService;
  private readonly queueNames: string[] = [];
  private readonly served = new Map<DeviceQueue, ServedQueue>();
  private readonly runOptions: RunOptions;
  private readonly logLimit: LogLimit;
  private configBytes: Uint8Array = new Uint8Array(0);

  private constructor(definition: AnyDeviceDefinition, runOptions: RunOptions) {
    this.definition = definition;
    this.runOptions = runOptions;
    this.logLimit = new LogLimit((line) => runOptions.log?.(`${this.name}: ${line}`));
  }

  /**
   * Opens a device from its options.
   * @throws VloError VLO_OPTION_INVALID, or what the device's own `open` throws.
   */
  static async open(
    definition: AnyDeviceDefinition,
    options: unknown,
    runOptions: RunOptions = {},
  ): Promise<DeviceProcess> {
    const process = new DeviceProcess(definition, runOptions);
    const host: DeviceHost = {
      log: (line) => process.log(line),
      setConfig: (bytes) => process.setConfig(bytes),
      // While the device opens there is no service yet, and nothing to wake.
      wake: () => process.service?.wake(),
      queues: (name) => process.service?.queues.filter((queue) => queue.name === name) ?? [],
      queue: (name) => process.service?.find(name) ?? null,
    };
    const device = await definition.open(parseOptions(definition, options), host);
    process.device = device;
    process.configBytes = device.config ?? new Uint8Array(0);
    const events = {
      onFault: (queue: ServedQueue, fault: DriverFault) => process.onFault(queue, fault),
      onBug: (queue: ServedQueue, error: unknown) => process.onBug(queue, error),
    };
    process.service = new QueueService(device, events, runOptions.pollUs ?? POLL_US_DEFAULT);
    process.queueNames.push(...(device.queueOrder ?? process.queuesByKind()));
    const isKnown = (name: string): boolean => definition.queues.some((kind) => kind.name === name);
    assert(process.queueNames.every(isKnown), `an unknown queue of '${definition.name}'`);
    return process;
  }

  /** All queues of a name follow each other. */
  private queuesByKind(): string[] {
    const counts = this.device.queueCounts as Record<string, number> | undefined;
    return this.definition.queues.flatMap(({ name }) =>
      new Array<string>(counts?.[name] ?? 1).fill(name),
    );
  }

  get name(): string {
    return this.definition.name;
  }

  get features(): bigint {
    const { packed = true, inOrder = false } = this.runOptions;
    return (
      this.device.features |
      RING_FEATURES |
      (packed ? F.RING_PACKED : 0n) |
      (inOrder && this.definition.isUnordered !== true ? F.IN_ORDER : 0n)
    );
  }

  get queueCount(): number {
    return this.queueNames.length;
  }

  /** What kind of queue each index is. */
  get queueDefinitions(): readonly QueueDefinition[] {
    const { queues } = this.definition;
    return this.queueNames.map((name) => queues.find((queue) => queue.name === name)!);
  }

  get configSize(): number {
    return this.configBytes.length;
  }

  /** Queues that are served now, for metrics. */
  get queues(): readonly ServedQueue[] {
    return this.service.queues;
  }

  readConfig(offset: number, size: number): Uint8Array {
    // A front end built for a longer config space than ours reads zeros past its end.
    const bytes = new Uint8Array(size);
    bytes.set(this.configBytes.subarray(offset, offset + size));
    return bytes;
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    if (this.device.writeConfig === undefined) {
      throw new VloError('VLO_PROTOCOL', `the config space of ${this.name} is read-only`);
    }
    this.device.writeConfig(offset, bytes);
  }

  private setConfig(bytes: Uint8Array): void {
    this.configBytes = bytes;
    this.listener?.configChanged();
  }

  setFeatures(features: bigint): void {
    this.device.setFeatures?.(features);
  }

  startQueue(ring: DeviceQueue, kickFd: number): void {
    assert(!this.served.has(ring), 'a queue was started twice');
    const name = this.queueNames[ring.index];
    assert(name !== undefined, `queue ${ring.index} does not exist`);
    const definition = this.definition.queues.find((queue) => queue.name === name)!;
    const isSupply = definition.kind === 'supply';
    const handler = this.device.handlers[name] ?? null;
    assert(isSupply || handler !== null, `queue '${name}' has no handler`);
    const queue = new ServedQueue(ring, name, handler, isSupply, kickFd, this.service);
    this.served.set(ring, queue);
    this.service.add(queue);
    publishEvent(CHANNELS.queueStart, { device: this.name, queue });
    this.service.announce(queue);
  }

  async stopQueue(ring: DeviceQueue): Promise<void> {
    const queue = this.served.get(ring);
    if (queue === undefined) return;
    await this.service.remove(queue);
    this.served.delete(ring);
    publishEvent(CHANNELS.queueStop, { device: this.name, queue });
  }

  kickQueue(ring: DeviceQueue): void {
    const queue = this.served.get(ring);
    if (queue !== undefined) this.service.kickInBand(queue);
  }

  reset(cause: ResetCause = 'driver'): void {
    this.device.reset?.(cause);
  }

  /** Frees the device. All queues have been stopped. */
  async close(): Promise<void> {
    assert(this.served.size === 0, 'a device was closed while queues run');
    await this.device.close();
  }

  private log(line: string): void {
    this.logLimit.log(line);
  }

  private onFault(queue: ServedQueue, fault: DriverFault): void {
    this.statistics.faults += 1;
    publishEvent(CHANNELS.queueFault, { device: this.name, queue, cause: fault });
    this.log(
      `queue ${queue.index} stopped: the driver broke the ring (${fault.reason}): ${fault.message}`,
    );
    this.listener?.reportFault(queue.ring, fault);
  }

  private onBug(queue: ServedQueue, error: unknown): void {
    this.statistics.bugs += 1;
    publishEvent(CHANNELS.queueFault, { device: this.name, queue, cause: error });
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.log(`queue ${queue.index} stopped by a bug of the device, please report it: ${text}`);
    this.listener?.reportFault(queue.ring, null);
  }
}
