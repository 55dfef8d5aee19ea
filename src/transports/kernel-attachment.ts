/**
 * The engine of the kernel transports: binds a port, that is a driver in the kernel, to a back end.
 *
 *   back end ◄─ relay ─► engine ◄─ port ─► kernel
 *      └────── rings, eventfds ──────────────┘     requests take this way only
 *
 * The port says what the driver has set up, the relay has the back end serve that. Either side may
 * go and come back: a driver is reset and starts anew; a back end dies and its successor goes on;
 * this process dies, and another one takes the port over, with the in-flight memory that the kernel
 * kept.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VloError } from '../errors.js';
import { Relay, type RelayTarget } from '../vhost-user/index.js';
import { F } from '../virtio/index.js';
import type { Attachment, AttachmentState, AttachOptions, TransportName } from './attachment.js';
import type { DeviceType } from './device-types.js';
import { ConfigMirror } from './kernel-config.js';
import { countersOf } from './kernel-counters.js';
import { checkTakenOver, deviceType, planDevice } from './kernel-plan.js';
import type { KernelPort, KernelTransport, PortHandler, PortState } from './kernel-port.js';

/** How long an orderly removal may take, in ms; then requests fail. */
const REMOVE_MS_MAX = 10_000;
/** How long applications' node is waited for, in ms: a driver may have to be loaded first. */
const NODE_MS_MAX = 10_000;
/** How long a driver may be held up by a back end that answers a write to config space, in ms. */
const CONFIG_MS_MAX = 1000;
/** A back end that breaks its rings more often than this, within this time in ms, is given up. */
const BREAKS_MAX = 5;
const BREAKS_MS = 60_000;

/**
 * Attaches a back end to the kernel.
 * @throws VloError as the back end answers; as {@link KernelTransport.open} does;
 * VLO_DEVICE_MISMATCH when there is a device of that name that the back end cannot serve
 */
export async function attachKernel(
  transport: KernelTransport,
  options: AttachOptions,
): Promise<Attachment> {
  const attachment = new KernelAttachment(transport.name, deviceType(options.type), options);
  await attachment.open(transport);
  return attachment;
}

class KernelAttachment implements Attachment, PortHandler {
  readonly transport: TransportName;
  state: AttachmentState = 'ready';
  note: string | null = null;
  presentation: string | null = null;
  private readonly type: DeviceType;
  private readonly options: AttachOptions;
  private relay!: Relay;
  private port!: KernelPort;
  private config!: ConfigMirror;
  private failure: VloError | null = null;
  private isBroken = false;
  /** When rings were broken, in ms. */
  private breaks: number[] = [];
  private closing: Promise<void> | null = null;
  private readonly aborter = new AbortController();
  /** Resolves when the kernel has removed the device, or can do no more about it. */
  private readonly ended: Promise<void>;
  private resolveEnded!: () => void;
  /** Resolves when rings have been handed to the back end for the first time. */
  private readonly served: Promise<void>;
  private resolveServed!: () => void;
  /** Config space is dealt with in one place at a time. */
  private configTurn: Promise<void> = Promise.resolve();

  constructor(transport: TransportName, type: DeviceType, options: AttachOptions) {
    this.transport = transport;
    this.type = type;
    this.options = options;
    this.ended = new Promise((resolve) => {
      this.resolveEnded = resolve;
    });
    this.served = new Promise((resolve) => {
      this.resolveServed = resolve;
    });
  }

  get queueCount(): number {
    return this.port.identity.queueSizes.length;
  }

  get counters() {
    return countersOf(this.presentation);
  }

  async open(transport: KernelTransport): Promise<void> {
    this.relay = await this.connect();
    try {
      const spec = await planDevice(this.relay, this.type, this.options, transport);
      this.port = await transport.open(spec);
      if (this.port.isTakenOver) this.takeOver(spec);
    } catch (error) {
      this.relay.destroy();
      this.port?.close();
      throw error;
    }
    const { features, queueSizes } = this.port.identity;
    // Bits that stand for a substitute are between the driver and us.
    const promised = features & this.relay.offered;
    this.relay.promise(promised, queueSizes.length, Math.max(...queueSizes));
    this.config = new ConfigMirror(this.relay, this.port, this.type, this.options);
    this.port.listen(this);
    if (this.port.isTakenOver) {
      this.config.adopt();
      void this.configure(() => this.config.restore());
    }
    await this.show();
    if (this.failure === null) return;
    await this.close();
    throw this.failure;
  }

  private connect(): Promise<Relay> {
    const { socket, log, reconnectMs = Number.POSITIVE_INFINITY } = this.options;
    return Relay.connect({
      path: socket,
      reconnect: { limitMs: reconnectMs },
      log,
      renew: () => this.renewed(),
      failRequests: () => this.port.failRequests?.() ?? null,
      keepInflight: (memory, size) => this.port.keepInflight?.(memory, size) ?? null,
      events: {
        onDisconnect: () => {
          this.change('waiting', null);
          // An orderly removal needs a back end.
          if (this.closing !== null) this.resolveEnded();
        },
        onReconnect: () => {
          this.change('ready', null);
          void this.configure(() => this.config.restore());
        },
        onFail: (error) => this.fail(error),
        onDeviceError: (error) => this.fail(error),
        onConfigChange: () => void this.configure(() => this.config.fromBackEnd()),
        onPast: (past) => this.port.stash?.(past),
      },
    });
  }

  /** Goes on with the device of an adapter that died. One that does not fit stays as it is. */
  private takeOver(spec: Parameters<typeof checkTakenOver>[0]): void {
    const { port, relay, options } = this;
    options.log(`took over the device '${options.name}', whose adapter had died`);
    checkTakenOver(spec, port.identity, relay);
    const past = port.takeStash?.() ?? null;
    if (past === null) return;
    try {
      relay.adopt(past);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      // As good as none: the requests that nobody knows of fail.
      options.log(`the in-flight memory that it left makes no sense: ${error.message}`);
    }
  }

  /** Finds what applications open, within a time. */
  private async show(): Promise<void> {
    const signal = AbortSignal.any([this.aborter.signal, AbortSignal.timeout(NODE_MS_MAX)]);
    this.presentation = await this.port.findNode(signal);
    // Drivers make it before the rings are served, and from then on nobody needs this process.
    if (this.presentation !== null) await this.served;
    if (this.presentation !== null || this.failure !== null) return;
    this.note = `no driver of the kernel took the device: is there one for '${this.type.name}'?`;
    this.options.log(this.note);
  }

  /** @internal What the driver has set up has changed. */
  async changed(state: PortState, wasReset: boolean): Promise<void> {
    const target = this.target(state);
    await this.relay.withdraw(target, wasReset);
    if (wasReset) {
      this.config.forget();
      void this.configure(() => this.config.fromBackEnd());
    }
    if (target === null) return;
    // Not waited for: a back end that is away may take its time.
    this.relay
      .serve(target)
      .catch((error: unknown) => this.serveFailed(error))
      .finally(this.resolveServed);
  }

  private target({ isRunning, features, regions, queues }: PortState): RelayTarget | null {
    if (!isRunning || this.failure !== null) return null;
    return { features: features & this.relay.offered, regions, queues };
  }

  /** The rings for another back end, where the port makes them anew. */
  private renewed(): RelayTarget | null {
    const { port } = this;
    return port.renew === undefined ? null : this.target(port.renew());
  }

  /** @internal */
  ringFeatures(): bigint {
    const { packed = false } = this.options.kernel ?? {};
    return this.relay.offered & (F.EVENT_IDX | F.INDIRECT_DESC | (packed ? F.RING_PACKED : 0n));
  }

  private serveFailed(error: unknown): void {
    if (!(error instanceof VloError)) throw error;
    if (this.closing === null) this.fail(error);
  }

  /** @internal */
  async configWritten(): Promise<void> {
    const turn = this.configure(() => this.config.fromDriver());
    if (!this.type.isConfigWindow) return;
    const { signal } = this.aborter;
    await Promise.race([turn, sleep(CONFIG_MS_MAX, undefined, { signal }).catch(() => {})]);
  }

  private configure(work: () => Promise<void>): Promise<void> {
    this.configTurn = this.configTurn.then(async () => {
      if (this.closing !== null || this.failure !== null) return;
      try {
        await work();
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        this.options.log(`config space: ${error.message}`);
      }
    });
    return this.configTurn;
  }

  /** @internal */
  broken(): void {
    if (this.port.renew !== undefined) this.replaceBackEnd();
    else this.driverStopped();
  }

  /** The kernel hears that back end no more. Requests wait for another, which may be the same. */
  private replaceBackEnd(): void {
    const message = 'the back end broke a ring: it wrote what no device may write';
    const error = new VloError('VLO_DEVICE_FAILED', message);
    const now = performance.now();
    this.breaks = [...this.breaks.filter((time) => now - time < BREAKS_MS), now];
    if (this.breaks.length > BREAKS_MAX) this.fail(error);
    else this.relay.replace(error);
  }

  /** The device stays until it is taken down: its other queues may go on. */
  private driverStopped(): void {
    this.isBroken = true;
    const message = 'the driver found a ring broken: the back end wrote what no device may write';
    this.change('failed', new VloError('VLO_DEVICE_FAILED', message));
  }

  /** @internal */
  failed(error: VloError): void {
    if (this.closing === null) this.fail(error);
    else this.options.log(`${error.code}: ${error.message}`);
  }

  /** @internal */
  gone(): void {
    this.resolveEnded();
    if (this.closing !== null) return;
    this.change('failed', new VloError('VLO_DEVICE_FAILED', 'the kernel has removed the device'));
  }

  /** Nothing will be served any more: requests fail, and none waits. */
  private fail(error: VloError): void {
    this.failure ??= error;
    this.change('failed', error);
    this.close().catch((reason: VloError) => this.options.log(reason.message));
  }

  private change(state: AttachmentState, error: VloError | null): void {
    if (this.state === 'failed' || this.state === state || this.closing !== null) return;
    this.state = state;
    this.options.onState?.(state, error);
  }

  abandon(error: VloError): void {
    // What the driver found broken stays there to be looked at.
    if (!this.isBroken) this.fail(error);
  }

  close(): Promise<void> {
    this.closing ??= this.takeDown();
    return this.closing;
  }

  private async takeDown(): Promise<void> {
    const { relay, port } = this;
    this.aborter.abort();
    this.resolveServed();
    port.remove();
    // The driver has its last requests served, and resets the device.
    if (relay.isConnected && this.failure === null) {
      const timeout = new AbortController();
      const { signal } = timeout;
      const late = sleep(REMOVE_MS_MAX, undefined, { signal }).catch(() => {});
      await Promise.race([this.ended, late]);
      timeout.abort();
    }
    // Nobody touches the memory any more when the kernel lets the last requests fail.
    await relay.close();
    // What dealt with config space has come to its end too: there is no back end to ask.
    await this.configTurn;
    port.close();
  }
}
