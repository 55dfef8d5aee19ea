/**
 * One ring as the back end's side of a session knows it (section Ring states).
 *
 *   stopped ── kick descriptor (or in-band kick) ──► started ── and enabled ──► running
 *      ▲                                                │
 *      └────────────── GET_VRING_BASE ──────────────────┘
 *
 * Messages only change the description; {@link Vring.settle} then makes the device serve the ring,
 * or not, as the description has it. A ring that stops is drained, so its base is exact.
 */
import { VloError } from '../errors.js';
import { type Fd, signalEvent } from '../native/index.js';
import {
  type DeviceQueue,
  type DeviceQueueOptions,
  type MemoryMap,
  PackedDeviceQueue,
  QUEUE_SIZE_MAX,
  type RingAreas,
  ringAreaAlignments,
  ringAreaSizes,
  ringFeatures,
  SplitDeviceQueue,
} from '../virtio/index.js';
import type { BackEndDevice } from './back-end-device.js';
import { KICK_IN_BAND, KICK_POLL } from './back-end-device.js';
import type { LogBitmap } from './dirty-log.js';
import type { InflightRegion, Recovery } from './inflight.js';
import { attachPacked } from './inflight-packed.js';
import { attachSplit } from './inflight-split.js';
import { VRING_ADDR_FLAG } from './messages-constants.js';

/** What a ring needs of its session. */
export interface VringHost {
  readonly device: BackEndDevice;
  readonly memory: MemoryMap;
  /** Negotiated virtio features. */
  readonly features: bigint;
  /** In-flight memory, if the front end gave some. */
  readonly inflight: InflightRegion | null;
  /** The log, while writes are to be logged. */
  readonly activeLog: LogBitmap | null;
  /** Notifies in-band; null when that was not negotiated. */
  readonly notifyInBand: ((index: number) => void) | null;
  log(line: string): void;
}

/** SET_VRING_ADDR, as user addresses. */
export interface VringAddresses {
  readonly descriptor: number;
  readonly available: number;
  readonly used: number;
  readonly flags: number;
  readonly log: bigint;
}

/** A packed ring that nobody has used yet: both indices 0, both wrap counters 1. */
const PACKED_BASE_FIRST = 0x80008000;

/** How the driver says that there are new requests. */
type Kick = Fd | 'poll' | 'in-band';

export class Vring {
  readonly index: number;
  /** Number of entries; 0 until SET_VRING_NUM. */
  size = 0;
  enabled = false;
  /** The queue as the device serves it; null while nothing was built for the ring. */
  queue: DeviceQueue | null = null;
  /** Eventfd that tells the front end of a broken ring. */
  errFd: Fd | null = null;
  private readonly host: VringHost;
  private base: number | null = null;
  private addresses: VringAddresses | null = null;
  private kick: Kick | null = null;
  private callFd: Fd | null = null;
  /** The front end polls the used ring and wants no call at all. */
  private callPolled = false;
  private isRunning = false;
  /** The ring was stopped in an orderly way since it ran: nothing is in flight. */
  private wasStopped = false;
  /** A predecessor may have published without notifying: the next call descriptor is signalled. */
  private owesCall = false;

  constructor(index: number, host: VringHost) {
    this.index = index;
    this.host = host;
  }

  /** The base for GET_VRING_BASE. The ring has been stopped. */
  get currentBase(): number {
    return this.base ?? (this.isPacked ? PACKED_BASE_FIRST : 0);
  }

  /** True while the device serves the ring. */
  get running(): boolean {
    return this.isRunning;
  }

  private get isPacked(): boolean {
    return ringFeatures(this.host.features).packed;
  }

  /** SET_VRING_NUM. A ring in use stops until it gets its next kick descriptor. */
  async setSize(size: number): Promise<void> {
    // How long a ring is says the front end: QEMU's, for one, makes some longer than others do.
    if (size < 1 || size > QUEUE_SIZE_MAX) {
      throw this.fault(`a size of ${size}; 1 to ${QUEUE_SIZE_MAX} are possible`);
    }
    await this.reconfigure();
    this.size = size;
  }

  /** SET_VRING_BASE, in the format of `DeviceQueueOptions.base`. As {@link setSize}. */
  async setBase(base: number): Promise<void> {
    await this.reconfigure();
    this.base = base;
  }

  /** Front ends that do not stop a ring before they describe a new one (User-Mode Linux). */
  private async reconfigure(): Promise<void> {
    if (this.queue === null) return;
    await this.stop();
    this.addresses = null;
  }

  /** SET_VRING_ADDR. A running ring goes on where only its flags change (logging). */
  async setAddresses(addresses: VringAddresses): Promise<void> {
    const old = this.addresses;
    this.addresses = addresses;
    if (this.queue === null) return;
    const isSame =
      old !== null &&
      old.descriptor === addresses.descriptor &&
      old.available === addresses.available &&
      old.used === addresses.used;
    if (isSame) this.applyLog();
    else await this.discard();
  }

  /** SET_VRING_KICK: starts the ring. Takes the descriptor over; null: the device polls. */
  async setKick(fd: Fd | null): Promise<void> {
    fd?.setNonBlocking();
    // The descriptor that the device watches must not be closed under it.
    await this.halt();
    this.closeKick();
    this.kick = fd ?? 'poll';
  }

  /** VRING_KICK: starts the ring if it is stopped, and tells the device. */
  async kickInBand(): Promise<void> {
    this.kick ??= 'in-band';
    await this.settle(true);
    if (this.isRunning) this.host.device.kickQueue(this.queue!);
  }

  /** SET_VRING_CALL. Takes the descriptor over; null: the front end polls. */
  setCall(fd: Fd | null): void {
    fd?.setNonBlocking();
    this.callFd?.close();
    this.callFd = fd;
    this.callPolled = fd === null;
    this.applyCall();
  }

  /** SET_VRING_ERR. Takes the descriptor over. */
  setErr(fd: Fd | null): void {
    fd?.setNonBlocking();
    this.errFd?.close();
    this.errFd = fd;
  }

  /**
   * Makes the device serve the ring, or not, as its description has it.
   * @param strict addresses outside of the shared memory are a fault, not a reason to wait.
   */
  async settle(strict = false): Promise<void> {
    const isWanted = this.kick !== null && this.enabled;
    if (!isWanted) return this.halt();
    if (this.isRunning) return;
    if (this.queue === null && !this.build(strict)) return;
    this.isRunning = true;
    this.wasStopped = false;
    const { kick } = this;
    const kickFd =
      kick === 'poll' ? KICK_POLL : kick === 'in-band' ? KICK_IN_BAND : (kick as Fd).number;
    this.host.device.startQueue(this.queue!, kickFd);
  }

  /** Ends the device's service; the queue stays as it is and can go on. */
  async halt(): Promise<void> {
    if (!this.isRunning) return;
    await this.host.device.stopQueue(this.queue!);
    this.isRunning = false;
    this.wasStopped = true;
  }

  /** Ends the service and lets go of the ring's memory; the base is kept, so it can go on. */
  async discard(): Promise<void> {
    await this.halt();
    if (this.queue === null) return;
    this.base = this.queue.base;
    this.queue = null;
  }

  /** GET_VRING_BASE: stops the ring until it gets its next kick; nothing is reset. */
  async stop(): Promise<void> {
    await this.discard();
    this.closeKick();
  }

  /** Back to the state of a new ring, save its call and error descriptors. */
  async reset(): Promise<void> {
    await this.stop();
    this.enabled = false;
    this.addresses = null;
    this.base = null;
    this.size = 0;
  }

  /** Releases all that the ring owns. The ring has been stopped. */
  release(): void {
    this.closeKick();
    this.callFd?.close();
    this.errFd?.close();
    this.callFd = null;
    this.errFd = null;
  }

  /** Takes over a change of what is logged, and where. */
  applyLog(): void {
    const { queue, addresses } = this;
    if (queue === null || addresses === null) return;
    queue.log = this.host.activeLog;
    queue.logUsedAddress = -1;
    if (queue.log === null || (addresses.flags & VRING_ADDR_FLAG.LOG) === 0) return;
    // The device writes the descriptor ring of a packed queue, and the front end logs by the
    // address of what it calls the used ring: the region knows where the former lies.
    if (this.isPacked) {
      const region = this.host.memory.findUser(addresses.descriptor);
      if (region === null) return;
      queue.logUsedAddress = region.guestAddress + addresses.descriptor - region.userAddress;
    } else if (addresses.log < BigInt(Number.MAX_SAFE_INTEGER)) {
      queue.logUsedAddress = Number(addresses.log);
    }
  }

  private closeKick(): void {
    if (this.kick !== null && typeof this.kick !== 'string') this.kick.close();
    this.kick = null;
  }

  private applyCall(): void {
    const { queue, callFd, host } = this;
    if (queue === null) return;
    queue.callFd = callFd?.number ?? -1;
    const { notifyInBand } = host;
    const isInBand = callFd === null && !this.callPolled && notifyInBand !== null;
    queue.onNotify = isInBand ? () => notifyInBand(this.index) : null;
    if (!this.owesCall || callFd === null) return;
    this.owesCall = false;
    signalEvent(callFd.number);
  }

  /** Builds the queue from the description; false when something is missing yet. */
  private build(strict: boolean): boolean {
    const { host, size } = this;
    if (this.addresses === null || size === 0 || host.memory.regions.length === 0) return false;
    const features = ringFeatures(host.features);
    if (!features.packed && (size & (size - 1)) !== 0) {
      throw this.fault(`a size of ${size}; a split ring's is a power of two`);
    }
    const areas = this.findAreas(this.addresses, features.packed, strict);
    if (areas === null) return false;
    const options: Omit<DeviceQueueOptions, 'base'> = {
      index: this.index,
      size,
      features,
      memory: host.memory,
      areas,
      callFd: this.callFd?.number ?? -1,
    };
    this.queue = features.packed ? this.buildPacked(options) : this.buildSplit(options);
    this.applyLog();
    this.applyCall();
    return true;
  }

  private buildSplit(options: Omit<DeviceQueueOptions, 'base'>): DeviceQueue {
    const base = this.currentBase & 0xffff;
    const part = this.inflightPart(false);
    if (part === null) return new SplitDeviceQueue({ ...options, base });
    const { driver, device } = options.areas;
    const { tracker, recovery, isForeign } = attachSplit(part.bytes, part.entryCount, {
      usedIndex: Atomics.load(new Uint16Array(device.buffer, device.byteOffset, 2), 1),
      availIndex: Atomics.load(new Uint16Array(driver.buffer, driver.byteOffset, 2), 1),
      size: this.size,
      base,
      wasStopped: this.wasStopped,
    });
    const queue = new SplitDeviceQueue({ ...options, base: recovery.base });
    queue.inflight = tracker;
    return this.resume(queue, recovery, isForeign);
  }

  private buildPacked(options: Omit<DeviceQueueOptions, 'base'>): DeviceQueue {
    const { descriptor } = options.areas;
    const ring = new Uint32Array(descriptor.buffer, descriptor.byteOffset, this.size * 4);
    const base = this.packedBase(ring);
    const part = this.inflightPart(true);
    if (part === null) return new PackedDeviceQueue({ ...options, base });
    const { tracker, recovery, isForeign } = attachPacked(part.bytes, part.entryCount, {
      descriptors: ring,
      size: this.size,
      base,
      wasStopped: this.wasStopped,
    });
    const queue = new PackedDeviceQueue({ ...options, base: recovery.base });
    queue.inflight = tracker;
    return this.resume(queue, recovery, isForeign);
  }

  private packedBase(ring: Uint32Array): number {
    let base = this.currentBase;
    // User-Mode Linux sets 0 for a new packed ring too. Both wrap counters can only be 0 when the
    // driver has gone round the ring, and then the last descriptor's flags are not all 0.
    if (base === 0 && ring[this.size * 4 - 1]! >>> 16 === 0) base = PACKED_BASE_FIRST;
    // Front ends that know only the available half leave the used one 0; a stopped ring is
    // drained, so the two halves are equal.
    if (base >>> 16 === 0) base = ((base << 16) | base) >>> 0;
    if ((base & 0x7fff) >= this.size || ((base >>> 16) & 0x7fff) >= this.size) {
      throw this.fault(`the base 0x${base.toString(16)} lies outside of ${this.size} entries`);
    }
    return base;
  }

  private inflightPart(packed: boolean): { bytes: Uint8Array; entryCount: number } | null {
    const { inflight } = this.host;
    const bytes = inflight?.part(this.index, packed) ?? null;
    if (inflight === null || bytes === null) return null;
    const entryCount = inflight.entryCount(packed);
    if (this.size <= entryCount) return { bytes, entryCount };
    // The memory is another program's making; better to serve the ring untracked than not at all.
    this.host.log(`queue ${this.index}: in-flight memory for ${entryCount} entries is too small`);
    return null;
  }

  private resume(queue: DeviceQueue, recovery: Recovery, isForeign: boolean): DeviceQueue {
    const { unfinished } = recovery;
    if (isForeign) {
      this.host.log(`queue ${this.index}: the in-flight memory does not fit the ring, ignored`);
    }
    if (unfinished.length > 0) {
      this.host.log(`queue ${this.index}: resubmits ${unfinished.length} requests in flight`);
    }
    queue.resume(unfinished);
    this.owesCall = !this.wasStopped;
    return queue;
  }

  /** Views of the three areas; null when they are not in the shared memory. */
  private findAreas(addresses: VringAddresses, packed: boolean, strict: boolean): RingAreas | null {
    const sizes = ringAreaSizes(this.size, packed);
    const alignments = ringAreaAlignments(packed);
    const find = (name: string, address: number, size: number, alignment: number) => {
      const region = this.host.memory.findUser(address);
      const offset = region === null ? 0 : address - region.userAddress;
      if (region === null || offset + size > region.size) {
        if (!strict) return null;
        throw this.fault(`the ${name} at 0x${address.toString(16)} is not in one memory region`);
      }
      if (address % alignment !== 0 || (region.hostAddress + offset) % alignment !== 0) {
        throw this.fault(`the ${name} at 0x${address.toString(16)} is not aligned`);
      }
      return region.bytes(offset, size);
    };
    const { descriptor, available, used } = addresses;
    const table = find('descriptor area', descriptor, sizes.descriptor, alignments.descriptor);
    const driver = find('driver area', available, sizes.driver, alignments.driver);
    const device = find('device area', used, sizes.device, alignments.device);
    if (table === null || driver === null || device === null) return null;
    return { descriptor: table, driver, device };
  }

  private fault(problem: string): VloError {
    return new VloError('VLO_PROTOCOL', `queue ${this.index}: ${problem}`);
  }
}
