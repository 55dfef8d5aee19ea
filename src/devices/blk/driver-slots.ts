/**
 * The block driver's path of requests: slots in shared memory that are used again and again, so
 * that a request allocates nothing.
 *
 *   acquire ─► fill bytes(slot) ─► write(slot, …) ─► … ─► handler.done(slot, status) ─► release
 *
 *   per slot:  meta  | header (16 bytes) | status (1) | … |  64 bytes
 *              data  | slotSize bytes                     |  a multiple of the page size
 */
import { assert, type VloError } from '../../errors.js';
import type { DriverClient, DriverHost } from '../../kit/driver-host.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import { BLK_T, BlkRange, BlkRequestHeader, ID_SIZE, SECTOR_SIZE } from './wire.js';

/** Distance of two slots' headers: a cache line, because the device writes the status into it. */
const META_SIZE = 64;
const STATUS_OFFSET = 16;
/** What the status byte holds until the device answers. */
const STATUS_NONE = 0xff;
/** Status of a request that was given up because the driver ended: see `BlkDriver.error`. */
export const STATUS_LOST = 0x100;
/** Status of a request that came back without a status: the device is broken. */
export const STATUS_MISSING = STATUS_NONE;

/** Hears of the end of a request. One object may serve many slots. */
export interface SlotHandler {
  /**
   * The request came back: `status` is one of BLK_S, or STATUS_LOST or STATUS_MISSING. The slot is
   * still the handler's: it places the next request or releases it.
   */
  done(slot: number, status: number): void;
}

const NOBODY: SlotHandler = { done: () => {} };

/** How many slots there are, and how large they are. */
export interface SlotPlan {
  readonly queueCount: number;
  /** Slots of each queue. */
  readonly depth: number;
  /** Bytes of data that a slot holds. */
  readonly slotSize: number;
  /** Bytes of one segment of data at most. */
  readonly segmentSize: number;
}

/** Slots of all queues: those of queue `q` are `q * depth` to `(q + 1) * depth - 1`. */
export class BlkSlots implements DriverClient {
  /** Slots of each queue. */
  readonly depth: number;
  /** Bytes of data that a slot holds. */
  readonly slotSize: number;
  /** Bytes of one segment of data at most: larger requests have several. */
  readonly segmentSize: number;
  /** Called when a slot was released. */
  onRelease: () => void = () => {};
  onConfigChange: () => void = () => {};
  onFail: (error: VloError) => void = () => {};
  private readonly host: DriverHost;
  private readonly rings: readonly DriverQueue[];
  private readonly free: Uint32Array;
  private readonly freeCounts: Uint32Array;
  private readonly handlers: SlotHandler[];
  private readonly isPlaced: Uint8Array;
  private isFailed = false;
  // Requests as they were placed, for a ring that starts anew.
  private readonly types: Uint8Array;
  private readonly sectors: Float64Array;
  private readonly addresses: Float64Array;
  private readonly sizes: Uint32Array;
  private meta!: SharedBlock;
  private data!: SharedBlock;
  private dataLocal = 0;
  private metaWords!: Uint32Array;
  private readonly views: Uint8Array[] = [];

  constructor(host: DriverHost, { queueCount, depth, slotSize, segmentSize }: SlotPlan) {
    const count = queueCount * depth;
    this.host = host;
    this.rings = host.rings;
    this.depth = depth;
    this.slotSize = slotSize;
    this.segmentSize = segmentSize;
    this.free = new Uint32Array(count);
    this.freeCounts = new Uint32Array(queueCount).fill(depth);
    // Taken from the end: the first slot first.
    for (let i = 0; i < count; i += 1) {
      const queue = Math.floor(i / depth);
      this.free[i] = queue * depth + (depth - 1 - (i % depth));
    }
    this.handlers = new Array<SlotHandler>(count).fill(NOBODY);
    this.isPlaced = new Uint8Array(count);
    this.types = new Uint8Array(count);
    this.sectors = new Float64Array(count);
    this.addresses = new Float64Array(count);
    this.sizes = new Uint32Array(count);
  }

  /** Shared memory in bytes that so many slots take. */
  static bytesNeeded({ queueCount, depth, slotSize }: SlotPlan): number {
    return queueCount * depth * (META_SIZE + slotSize) + 2 * 4096;
  }

  /** @internal Takes the shared memory, which is there now. */
  attach(): void {
    const { count, slotSize } = this;
    this.meta = this.host.allocate(count * META_SIZE);
    this.data = this.host.allocate(count * slotSize, 4096);
    const { region, address } = this.data;
    this.dataLocal = region.mapping.address + address - region.guestAddress;
    const { buffer, byteOffset, length } = this.meta.bytes;
    this.metaWords = new Uint32Array(buffer, byteOffset, length >> 2);
    for (let slot = 0; slot < count; slot += 1) {
      this.views.push(this.data.bytes.subarray(slot * slotSize, (slot + 1) * slotSize));
    }
  }

  /** Number of slots. */
  get count(): number {
    return this.handlers.length;
  }

  get queueCount(): number {
    return this.freeCounts.length;
  }

  /** Free slots of a queue. */
  freeCount(queue: number): number {
    return this.freeCounts[queue]!;
  }

  /** Takes a free slot of a queue for `handler`; -1 when there is none. */
  acquire(handler: SlotHandler, queue = 0): number {
    const left = this.freeCounts[queue]!;
    if (left === 0) return -1;
    this.freeCounts[queue] = left - 1;
    const slot = this.free[queue * this.depth + left - 1]!;
    this.handlers[slot] = handler;
    return slot;
  }

  /** Gives a slot back. None of its requests is under way. */
  release(slot: number): void {
    assert(this.isPlaced[slot] === 0, 'a slot was released while its request is under way');
    assert(this.handlers[slot] !== NOBODY, 'a slot was released twice');
    this.handlers[slot] = NOBODY;
    const queue = Math.floor(slot / this.depth);
    const left = this.freeCounts[queue]!;
    this.free[queue * this.depth + left] = slot;
    this.freeCounts[queue] = left + 1;
    this.onRelease();
  }

  /** The slot's own data area. */
  bytes(slot: number): Uint8Array {
    return this.views[slot]!;
  }

  /** Address of the slot's own data area in this process, for system calls. */
  localAddress(slot: number): number {
    return this.dataLocal + slot * this.slotSize;
  }

  /** Address of the slot's own data area, as the device sees it. */
  address(slot: number): number {
    return this.data.address + slot * this.slotSize;
  }

  /**
   * Reads `size` bytes at `offset` of the disk into shared memory at `address`: the slot's own data
   * area, or any other shared memory. Nothing is checked here.
   */
  read(slot: number, offset: number, size: number, address = this.address(slot)): void {
    this.request(slot, BLK_T.IN, offset / SECTOR_SIZE, address, size);
  }

  /** Writes `size` bytes of shared memory at `address` to the disk. */
  write(slot: number, offset: number, size: number, address = this.address(slot)): void {
    this.request(slot, BLK_T.OUT, offset / SECTOR_SIZE, address, size);
  }

  /** Makes all writes that were completed before durable. */
  flush(slot: number): void {
    this.request(slot, BLK_T.FLUSH, 0, 0, 0);
  }

  /** Puts the device's serial number, 20 bytes filled with zeros, into the slot's data area. */
  getId(slot: number): void {
    this.request(slot, BLK_T.GET_ID, 0, this.address(slot), ID_SIZE);
  }

  /** DISCARD or WRITE_ZEROES of one range; `flags` as in the specification. */
  range(slot: number, type: number, offset: number, size: number, flags: number): void {
    const range = { sector: offset / SECTOR_SIZE, sectorCount: size / SECTOR_SIZE, flags };
    this.bytes(slot).set(BlkRange.encode(range));
    this.request(slot, type, 0, this.address(slot), BlkRange.size);
  }

  private request(slot: number, type: number, sector: number, address: number, size: number): void {
    assert(this.isPlaced[slot] === 0, 'a slot was used twice at a time');
    this.types[slot] = type;
    this.sectors[slot] = sector;
    this.addresses[slot] = address;
    this.sizes[slot] = size;
    this.isPlaced[slot] = 1;
    if (this.isFailed) {
      // As every end of a request: later, not in here.
      setImmediate(() => this.lose(slot));
      return;
    }
    this.place(this.rings[Math.floor(slot / this.depth)]!, slot);
    this.host.loop.wake();
  }

  /** @internal Puts a slot's request into the ring; published by the loop. */
  place(ring: DriverQueue, slot: number): void {
    const { metaWords } = this;
    const type = this.types[slot]!;
    const sector = this.sectors[slot]!;
    const size = this.sizes[slot]!;
    const word = slot * (META_SIZE / 4);
    metaWords[word] = type;
    metaWords[word + 1] = 0;
    metaWords[word + 2] = sector;
    metaWords[word + 3] = sector / 4294967296;
    this.meta.bytes[slot * META_SIZE + STATUS_OFFSET] = STATUS_NONE;
    const metaAddress = this.meta.address + slot * META_SIZE;
    ring.begin();
    ring.addReadable(metaAddress, BlkRequestHeader.size);
    const address = this.addresses[slot]!;
    const isIn = type === BLK_T.IN || type === BLK_T.GET_ID;
    for (let at = 0; at < size; at += this.segmentSize) {
      const length = Math.min(this.segmentSize, size - at);
      if (isIn) ring.addWritable(address + at, length);
      else ring.addReadable(address + at, length);
    }
    ring.addWritable(metaAddress + STATUS_OFFSET, 1);
    assert(ring.commit(slot), 'the ring has no room for a slot');
  }

  /** @internal */
  used(slot: number): void {
    this.isPlaced[slot] = 0;
    this.handlers[slot]!.done(slot, this.meta.bytes[slot * META_SIZE + STATUS_OFFSET]!);
  }

  /** @internal */
  failed(error: VloError): void {
    this.isFailed = true;
    for (let slot = 0; slot < this.count; slot += 1) if (this.isPlaced[slot] === 1) this.lose(slot);
    this.onFail(error);
  }

  private lose(slot: number): void {
    this.isPlaced[slot] = 0;
    this.handlers[slot]!.done(slot, STATUS_LOST);
  }

  /** @internal */
  configChanged(): void {
    this.onConfigChange();
  }
}
