/** One queue of a mock driver: places requests, waits for their ends, checks what came back. */
import { VloError } from '../errors.js';
import { consumeEvent, createEventFd, type Fd, signalEvent, Watch } from '../native/index.js';
import {
  type DeviceQueue,
  type DriverFault,
  type DriverQueue,
  layoutAreas,
  layoutIndirect,
  layoutQueue,
  PackedDeviceQueue,
  PackedDriverQueue,
  type RingAreas,
  type RingFeatures,
  SplitDeviceQueue,
  SplitDriverQueue,
} from '../virtio/index.js';
import { EventQueue } from './event-queue.js';
import type { Block, MockMemory, Placement } from './mock-memory.js';
import { join } from './payload.js';
import {
  type MalformedKind,
  malformedChain,
  type RawDescriptor,
  type RawOptions,
  writePacked,
  writeSplit,
} from './raw-ring.js';

/** A request to place. Each array element becomes one segment with an address of its own. */
export interface MockRequest {
  /** What the device may read. */
  readonly readable?: readonly Uint8Array[];
  /** Sizes in bytes of what the device may write. */
  readonly writable?: readonly number[];
  /** Power of two that segments are aligned to; default 64. */
  readonly alignment?: number;
  /** Bytes by which segments miss that alignment; default 0. 1 gives odd addresses. */
  readonly misalignment?: number;
  /** How long to wait for the answer; default that of the driver. */
  readonly timeoutMs?: number;
}

/** What came back. */
export interface MockResult {
  /** Used length: bytes that the device claims to have written from the start. */
  readonly length: number;
  /** False where IN_ORDER left the length out: it is then the size of the writable part. */
  readonly isLengthKnown: boolean;
  /** The first `length` bytes of the writable part. */
  readonly bytes: Uint8Array;
  /** The whole writable part; {@link UNWRITTEN} where the device wrote nothing. */
  readonly buffer: Uint8Array;
}

/** Content of writable segments before the device writes. */
export const UNWRITTEN = 0xee;

/** How kicks reach the device: a descriptor, not at all (it polls), or a call for each. */
export type KickKind = 'eventfd' | 'poll' | 'in-band';

/** @internal What a queue needs from its driver. */
export interface MockQueueHost {
  readonly memory: MockMemory;
  readonly timeoutMs: number;
  readonly kick: KickKind;
  kickInBand(ring: DeviceQueue): void;
}

interface Pending {
  readonly readable: readonly Block[];
  readonly sent: readonly Uint8Array[];
  readonly writable: readonly Block[];
  readonly resolve: (result: MockResult) => void;
  readonly reject: (error: VloError) => void;
  timer: NodeJS.Timeout | null;
}

const INDIRECT_TABLE_LENGTH = 64;
const RING_PLACEMENT: Placement = { alignment: 4096, misalignment: 0 };
/** Interval in milliseconds of looking whether a faulty queue has returned what it will. */
const FAULT_GRACE_MS = 10;

/** @internal */
export class MockQueue {
  readonly index: number;
  readonly name: string;
  readonly driver: DriverQueue;
  /** The device's side while the queue runs. */
  device: DeviceQueue | null = null;
  /** Buffers of a supply queue that the device filled. */
  readonly filled: EventQueue<MockResult>;
  private readonly host: MockQueueHost;
  private readonly features: RingFeatures;
  private readonly block: Block;
  private readonly areas: RingAreas;
  private readonly kickFd: Fd;
  private readonly callFd: Fd;
  private readonly watch: Watch;
  private readonly pending = new Map<number, Pending>();
  private nextToken = 0;
  private base: number;
  private fault: VloError | null = null;
  private graceTimer: NodeJS.Timeout | null = null;

  constructor(
    host: MockQueueHost,
    index: number,
    name: string,
    size: number,
    features: RingFeatures,
  ) {
    const { packed } = features;
    this.host = host;
    this.index = index;
    this.name = name;
    this.features = features;
    this.filled = new EventQueue(`${this.label}: filled buffers`);
    const layout = layoutQueue(size, packed, INDIRECT_TABLE_LENGTH);
    this.block = host.memory.allocate(layout.byteLength, RING_PLACEMENT);
    this.block.bytes.fill(0);
    this.areas = layoutAreas(layout, this.block.bytes);
    this.base = this.firstBase;
    this.kickFd = createEventFd();
    this.callFd = createEventFd();
    const Driver = packed ? PackedDriverQueue : SplitDriverQueue;
    this.driver = new Driver({
      index,
      size,
      features,
      areas: this.areas,
      indirect: layoutIndirect(layout, this.block.bytes, this.block.address),
      kickFd: host.kick === 'eventfd' ? this.kickFd.number : -1,
    });
    if (host.kick === 'in-band') this.driver.onKick = () => this.kick();
    this.watch = new Watch(this.callFd.number, () => {
      consumeEvent(this.callFd.number);
      this.drain();
    });
  }

  private get label(): string {
    return `queue ${this.index} (${this.name})`;
  }

  private get firstBase(): number {
    return this.features.packed ? 0x80008000 : 0;
  }

  /** Descriptor on which the device hears kicks; -1 without one. */
  get deviceKickFd(): number {
    return this.host.kick === 'eventfd' ? this.kickFd.number : -1;
  }

  /** Makes the device's side, which goes on where the last one stopped. */
  makeDevice(): DeviceQueue {
    const Device = this.features.packed ? PackedDeviceQueue : SplitDeviceQueue;
    this.device = new Device({
      index: this.index,
      size: this.driver.size,
      features: this.features,
      memory: this.host.memory.map,
      areas: this.areas,
      base: this.base,
      callFd: this.callFd.number,
    });
    return this.device;
  }

  /** The device has stopped serving the queue. */
  stopped(): void {
    if (this.device !== null) this.base = this.device.base;
    this.device = null;
    this.drain();
  }

  /** Places a request, not yet visible to the device. */
  place(request: MockRequest, isSupply = false): Promise<MockResult> {
    const { readable = [], writable = [], alignment = 64, misalignment = 0 } = request;
    const promise = new Promise<MockResult>((resolve, reject) => {
      if (this.fault !== null) {
        reject(this.fault);
        return;
      }
      const { memory } = this.host;
      const placement = { alignment, misalignment };
      const take = (size: number): Block => memory.allocate(size, placement);
      const token = this.nextToken;
      this.nextToken += 1;
      const pending: Pending = {
        readable: readable.map((bytes) => take(bytes.length)),
        sent: readable.map((bytes) => bytes.slice()),
        writable: writable.map(take),
        resolve,
        reject,
        timer: null,
      };
      if (!this.commit(pending, token)) {
        this.releaseBlocks(pending);
        reject(new VloError('VLO_REQUEST_INVALID', `${this.label}: the ring has no room`));
        return;
      }
      this.pending.set(token, pending);
      if (!isSupply) this.startTimer(pending, token, request.timeoutMs ?? this.host.timeoutMs);
    });
    // A test that closes the driver early need not await each request.
    promise.catch(() => {});
    return promise;
  }

  private commit(pending: Pending, token: number): boolean {
    const { driver } = this;
    driver.begin();
    for (const [index, block] of pending.readable.entries()) {
      block.bytes.set(pending.sent[index]!);
      driver.addReadable(block.address, block.size);
    }
    for (const block of pending.writable) {
      block.bytes.fill(UNWRITTEN);
      driver.addWritable(block.address, block.size);
    }
    return driver.commit(token);
  }

  private startTimer(pending: Pending, token: number, timeoutMs: number): void {
    pending.timer = setTimeout(() => {
      // Its memory stays: the device may still write there. Its end, if it comes, is dropped.
      this.pending.delete(token);
      const inflight = this.device?.inflightCount ?? 0;
      const state = this.device === null ? 'the queue is stopped' : `${inflight} are in flight`;
      pending.reject(
        new VloError(
          'VLO_TIMEOUT',
          `${this.label}: no answer within ${timeoutMs} ms; ` +
            `${this.driver.outstandingCount} requests are outstanding, ${state}`,
        ),
      );
    }, timeoutMs);
  }

  /** Makes all placed requests visible, with at most one kick. */
  publish(): void {
    this.driver.publish();
  }

  /** Kicks whether the device asked for it or not. */
  kick(): void {
    if (this.host.kick === 'eventfd') signalEvent(this.kickFd.number);
    else if (this.host.kick === 'in-band' && this.device !== null) {
      this.host.kickInBand(this.device);
    }
  }

  /** Takes all that came back. */
  private drain(): void {
    const { driver } = this;
    do {
      while (driver.next()) this.ended(driver.usedToken);
    } while (driver.armNotifications());
  }

  private ended(token: number): void {
    const pending = this.pending.get(token);
    if (pending === undefined) return; // It timed out before.
    this.pending.delete(token);
    if (pending.timer !== null) clearTimeout(pending.timer);
    const { usedLength: length, usedLengthKnown: isLengthKnown } = this.driver;
    const buffer = join(...pending.writable.map((block) => block.bytes));
    const isHarmed = pending.readable.some(
      (block, index) => Buffer.compare(block.bytes, pending.sent[index]!) !== 0,
    );
    const isIntact = this.releaseBlocks(pending);
    if (isHarmed || !isIntact) {
      const where = isHarmed ? 'in its readable part' : 'beside its buffers';
      pending.reject(new VloError('VLO_DEVICE_FAILED', `${this.label}: the device wrote ${where}`));
      return;
    }
    pending.resolve({ length, isLengthKnown, bytes: buffer.subarray(0, length), buffer });
  }

  private releaseBlocks({ readable, writable }: Pending): boolean {
    const { memory } = this.host;
    return [...readable, ...writable].map((block) => memory.release(block)).every(Boolean);
  }

  /** Writes descriptors past all checks; nothing may be outstanding. Then only a reset helps. */
  placeRaw(descriptors: readonly RawDescriptor[], options: RawOptions = {}): void {
    if (this.driver.outstandingCount > 0) {
      throw new VloError('VLO_REQUEST_INVALID', `${this.label}: requests are outstanding`);
    }
    const { size } = this.driver;
    if (descriptors.length > size) {
      throw new VloError('VLO_REQUEST_INVALID', `${this.label} has only ${size} descriptors`);
    }
    if (this.features.packed) writePacked(this.areas, size, descriptors, this.driver.base);
    else writeSplit(this.areas, size, descriptors, options);
    this.kick();
  }

  placeMalformed(kind: MalformedKind): void {
    const { size } = this.driver;
    // The ring's own memory serves as a valid range; the device must not come to use it.
    const { packed } = this.features;
    const { descriptors, options } = malformedChain(kind, packed, size, this.block.address);
    this.placeRaw(descriptors, options);
  }

  /** The device has stopped the queue by itself: what it does not return, nobody will. */
  failed(fault: DriverFault | null): void {
    const cause = fault === null ? 'a bug of the device' : `${fault.reason}: ${fault.message}`;
    this.fault = new VloError('VLO_DEVICE_FAILED', `${this.label} was stopped by ${cause}`);
    const look = (): void => {
      this.graceTimer = null;
      this.drain();
      const { device } = this;
      if (device !== null && (device.inflightCount > 0 || device.unpublishedCount > 0)) {
        this.graceTimer = setTimeout(look, FAULT_GRACE_MS);
      } else this.rejectAll(this.fault!);
    };
    this.graceTimer = setTimeout(look, FAULT_GRACE_MS);
  }

  private rejectAll(error: VloError): void {
    for (const pending of this.pending.values()) {
      if (pending.timer !== null) clearTimeout(pending.timer);
      this.releaseBlocks(pending);
      pending.reject(error);
    }
    this.pending.clear();
  }

  /** Brings the ring to its initial state; the queue is stopped. Outstanding requests fail. */
  reset(): void {
    this.endGrace();
    this.driver.reset();
    this.base = this.firstBase;
    this.fault = null;
    this.rejectAll(new VloError('VLO_CLOSED', `${this.label} was reset`));
  }

  private endGrace(): void {
    if (this.graceTimer !== null) clearTimeout(this.graceTimer);
    this.graceTimer = null;
  }

  close(): void {
    this.endGrace();
    this.watch.close();
    this.kickFd.close();
    this.callFd.close();
    this.host.memory.release(this.block);
    this.rejectAll(new VloError('VLO_CLOSED', `${this.label} was closed`));
    this.filled.close();
  }
}
