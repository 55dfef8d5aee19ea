/**
 * A driver without a machine: opens a device, shares memory with it, and places requests in its
 * queues over the same rings and eventfds that a real driver uses.
 *
 *   const driver = await MockDriver.open(rng, {}, { packed: true });
 *   const { bytes } = await driver.request(0, { writable: [16] });
 *   await driver.close();
 */
import { VloError } from '../errors.js';
import { type AnyDeviceDefinition, DeviceProcess } from '../kit/index.js';
import { type DriverFault, F, ringFeatures, type Struct } from '../virtio/index.js';
import { EventQueue } from './event-queue.js';
import { MockMemory } from './mock-memory.js';
import {
  type KickKind,
  MockQueue,
  type MockQueueHost,
  type MockRequest,
  type MockResult,
} from './mock-queue.js';
import type { MalformedKind, RawDescriptor, RawOptions } from './raw-ring.js';

/** How a {@link MockDriver} behaves. */
export interface MockDriverOptions {
  /** Use the packed ring layout; default false. */
  readonly packed?: boolean;
  /** Use indirect tables for requests of several segments; default true. */
  readonly indirect?: boolean;
  /** Use event indices; default true. */
  readonly eventIndex?: boolean;
  /** Let the device complete in order only; default false. */
  readonly inOrder?: boolean;
  /** Device-specific features to accept; default all that are offered. */
  readonly features?: bigint;
  /** Entries of each queue, a power of two; default 64, or less where the device allows less. */
  readonly queueSize?: number;
  /** How many queues to use, from the first on; default all that the device has. */
  readonly queueCount?: number;
  /** Longest time in microseconds that the device looks at its rings; default that of the kit. */
  readonly pollUs?: number;
  /** How kicks reach the device; default `eventfd`. */
  readonly kick?: KickKind;
  /** Size in bytes of the shared memory; default 16 MiB. */
  readonly memorySize?: number;
  /** How long to wait for anything, in milliseconds; default 5000. */
  readonly timeoutMs?: number;
}

/** A queue that the device stopped: by a fault of the driver, or (null) by a bug of its own. */
export interface MockFault {
  readonly queueIndex: number;
  readonly fault: DriverFault | null;
}

const MEMORY_SIZE_DEFAULT = 16 * 1024 * 1024;
const QUEUE_SIZE_DEFAULT = 64;
const TIMEOUT_MS_DEFAULT = 5000;

/** Drives one device. */
export class MockDriver {
  /** The device under test. */
  readonly device: DeviceProcess;
  /** Lines that the device wrote to its log. */
  readonly log: readonly string[];
  /** Features that were negotiated. */
  features = 0n;
  private readonly options: MockDriverOptions;
  private readonly memory: MockMemory;
  private readonly timeoutMs: number;
  private readonly faults = new EventQueue<MockFault>('faults');
  private readonly configChanges = new EventQueue<Uint8Array>('changes of the config space');
  private queues: MockQueue[] = [];
  private isClosed = false;

  private constructor(device: DeviceProcess, options: MockDriverOptions, log: readonly string[]) {
    this.device = device;
    this.options = options;
    this.log = log;
    this.timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
    this.memory = new MockMemory(options.memorySize ?? MEMORY_SIZE_DEFAULT);
    device.listener = {
      reportFault: ({ index }, fault) => {
        this.queues[index]?.failed(fault);
        this.faults.push({ queueIndex: index, fault });
      },
      configChanged: () => this.configChanges.push(this.readConfig()),
    };
  }

  /**
   * Opens a device from its definition and options, negotiates features, and starts all queues.
   * @throws VloError as the device's `open` does.
   */
  static async open(
    definition: AnyDeviceDefinition,
    deviceOptions: unknown = {},
    options: MockDriverOptions = {},
  ): Promise<MockDriver> {
    const log: string[] = [];
    const { pollUs } = options;
    const device = await DeviceProcess.open(definition, deviceOptions, {
      packed: true,
      inOrder: true,
      log: (line) => void log.push(line),
      ...(pollUs === undefined ? {} : { pollUs }),
    });
    let driver: MockDriver | null = null;
    try {
      driver = new MockDriver(device, options, log);
      await driver.negotiate(options.features);
      return driver;
    } catch (error) {
      await (driver ?? device).close();
      throw error;
    }
  }

  /** Number of queues that the device has. */
  get queueCount(): number {
    return this.device.queueCount;
  }

  /**
   * Resets the device, accepts features (device-specific bits; default all that are offered, with
   * the ring's features as the options say), and starts all queues.
   */
  async negotiate(features: bigint = this.deviceFeatures): Promise<void> {
    await this.reset();
    for (const queue of this.queues.splice(0)) queue.close();
    const unknown = features & ~this.deviceFeatures;
    if (unknown !== 0n) {
      const bits = unknown.toString(16);
      throw new VloError('VLO_REQUEST_INVALID', `features 0x${bits} are not offered`);
    }
    this.features = features | this.chosenRingFeatures;
    this.device.setFeatures(this.features);
    const ring = ringFeatures(this.features);
    const host = this.queueHost();
    const wanted = this.options.queueSize ?? QUEUE_SIZE_DEFAULT;
    const used = this.device.queueDefinitions.slice(0, this.options.queueCount);
    for (const [index, { name }] of used.entries()) {
      this.queues.push(new MockQueue(host, index, name, wanted, ring));
    }
    for (let index = 0; index < this.queues.length; index += 1) this.startQueue(index);
  }

  /** Device-specific features that the device offers. */
  get deviceFeatures(): bigint {
    const ring = F.INDIRECT_DESC | F.EVENT_IDX | F.RING_PACKED | F.IN_ORDER;
    return this.device.features & ~(ring | F.VERSION_1 | F.RING_RESET);
  }

  private get chosenRingFeatures(): bigint {
    const { packed = false, indirect = true, eventIndex = true, inOrder = false } = this.options;
    return (
      F.VERSION_1 |
      (packed ? F.RING_PACKED : 0n) |
      (indirect ? F.INDIRECT_DESC : 0n) |
      (eventIndex ? F.EVENT_IDX : 0n) |
      (inOrder ? F.IN_ORDER : 0n)
    );
  }

  private queueHost(): MockQueueHost {
    return {
      memory: this.memory,
      timeoutMs: this.timeoutMs,
      kick: this.options.kick ?? 'eventfd',
      kickInBand: (ring) => this.device.kickQueue(ring),
    };
  }

  private queue(index: number): MockQueue {
    const queue = this.queues[index];
    if (queue !== undefined) return queue;
    throw new VloError(
      this.isClosed ? 'VLO_CLOSED' : 'VLO_REQUEST_INVALID',
      this.isClosed ? 'the mock driver was closed' : `there is no queue ${index}`,
    );
  }

  /**
   * Places a request and resolves with what the device made of it.
   * @throws VloError VLO_TIMEOUT when no answer comes; VLO_DEVICE_FAILED when the device stopped
   * the queue, or wrote where it must not; VLO_REQUEST_INVALID when ring or memory is full.
   */
  request(queueIndex: number, request: MockRequest): Promise<MockResult> {
    return this.batch(queueIndex, [request])[0]!;
  }

  /** Places several requests at once, with at most one kick. */
  batch(queueIndex: number, requests: readonly MockRequest[]): Promise<MockResult>[] {
    const queue = this.queue(queueIndex);
    const results = requests.map((request) => queue.place(request));
    queue.publish();
    return results;
  }

  /** Supplies empty buffers, one for each size; {@link nextFilled} tells what became of them. */
  supply(queueIndex: number, sizes: readonly number[], request: MockRequest = {}): void {
    const queue = this.queue(queueIndex);
    for (const size of sizes) {
      queue.place({ ...request, writable: [size] }, true).then(
        (result) => queue.filled.push(result),
        () => {}, // The queue was reset or closed: the buffer is the driver's again.
      );
    }
    queue.publish();
  }

  /** The next supplied buffer that the device filled. @throws VloError VLO_TIMEOUT */
  nextFilled(queueIndex: number, timeoutMs = this.timeoutMs): Promise<MockResult> {
    return this.queue(queueIndex).filled.next(timeoutMs);
  }

  /** The config space, or a part of it. */
  readConfig(offset = 0, size = this.device.configSize - offset): Uint8Array {
    return this.device.readConfig(offset, size);
  }

  /** The config space as a structure. */
  config<T>(struct: Struct<T>): T {
    return struct.decode(this.readConfig(0, struct.size));
  }

  /** Writes to the config space. @throws VloError when the device refuses. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    this.device.writeConfig(offset, bytes);
  }

  /** The config space after its next change by the device that was not waited for yet. */
  nextConfigChange(timeoutMs = this.timeoutMs): Promise<Uint8Array> {
    return this.configChanges.next(timeoutMs);
  }

  /** The next queue that the device stopped and that was not waited for yet. */
  nextFault(timeoutMs = this.timeoutMs): Promise<MockFault> {
    return this.faults.next(timeoutMs);
  }

  /**
   * Makes a malformed chain available; the device is to answer with a fault. Nothing may be
   * outstanding in the queue, and it then serves again only after {@link restartQueue}.
   */
  placeMalformed(queueIndex: number, kind: MalformedKind): void {
    this.queue(queueIndex).placeMalformed(kind);
  }

  /** The same for descriptors of your own making. */
  placeRaw(
    queueIndex: number,
    descriptors: readonly RawDescriptor[],
    options: RawOptions = {},
  ): void {
    this.queue(queueIndex).placeRaw(descriptors, options);
  }

  /** Kicks a queue whether the device asked for it or not. */
  kick(queueIndex: number): void {
    this.queue(queueIndex).kick();
  }

  /** Counters of a queue on both sides: kicks sent, and what the device did. */
  counters(queueIndex: number): { kicks: number; notifications: number; popped: number } {
    const { driver, device } = this.queue(queueIndex);
    const { notifications = 0, popped = 0 } = device?.counters ?? {};
    return { kicks: driver.counters.kicks, notifications, popped };
  }

  /** Starts a stopped queue; it goes on where it stopped. */
  startQueue(queueIndex: number): void {
    const queue = this.queue(queueIndex);
    if (queue.device !== null) {
      throw new VloError('VLO_REQUEST_INVALID', `queue ${queueIndex} runs already`);
    }
    this.device.startQueue(queue.makeDevice(), queue.deviceKickFd);
  }

  /**
   * Stops a queue; requests that the device has not taken stay in the ring.
   * @throws VloError VLO_TIMEOUT when the device does not finish those that it has.
   */
  async stopQueue(queueIndex: number): Promise<void> {
    const queue = this.queue(queueIndex);
    const { device } = queue;
    if (device === null) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const count = `${device.inflightCount} requests in flight`;
        const text = `queue ${queueIndex} did not stop within ${this.timeoutMs} ms: ${count}`;
        reject(new VloError('VLO_TIMEOUT', text));
      }, this.timeoutMs);
    });
    try {
      await Promise.race([this.device.stopQueue(device), late]);
      queue.stopped();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Stops a queue, empties it, and starts it anew. What was outstanding fails with VLO_CLOSED. */
  async restartQueue(queueIndex: number): Promise<void> {
    await this.stopQueue(queueIndex);
    this.queue(queueIndex).reset();
    this.startQueue(queueIndex);
  }

  /** Stops and empties all queues and resets the device; {@link negotiate} starts it again. */
  async reset(): Promise<void> {
    await Promise.all(this.queues.map((queue) => this.stopQueue(queue.index)));
    for (const queue of this.queues) queue.reset();
    this.device.reset();
  }

  /** Stops everything and releases all descriptors and memory. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    try {
      // The first one that does not stop is the error; the others are stopped all the same.
      const stops = await Promise.allSettled(this.queues.map(({ index }) => this.stopQueue(index)));
      for (const stop of stops) if (stop.status === 'rejected') throw stop.reason;
      await this.device.close();
    } finally {
      for (const queue of this.queues.splice(0)) queue.close();
      this.faults.close();
      this.configChanges.close();
      this.memory.close();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
