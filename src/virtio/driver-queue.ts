/**
 * The driver's side of a queue: what split and packed rings have in common.
 *
 *   begin, addReadable, addWritable, commit ──► publish ──► (device works) ──► next
 *
 * `commit` makes nothing visible; `publish` makes all committed requests visible with one store and
 * kicks at most once. `next` returns false when there is nothing and throws {@link DeviceFault}
 * when the device broke the ring. What the driver needs to know of its requests is kept outside of
 * shared memory: nothing that the device writes is trusted.
 */
import { assert } from '../errors.js';
import { signalEvent } from '../native/index.js';
import { DESC_NEXT, DESC_WRITE } from './chain.js';
import { type RingAreas, ringAreaSizes } from './device-queue.js';
import { DeviceFault } from './fault.js';
import { QUEUE_SIZE_MAX, type RingFeatures } from './features.js';

/** Memory from which indirect tables are taken, one for each request that needs one. */
export interface IndirectArea {
  readonly bytes: Uint8Array;
  /** Address of the first byte as the device sees it, a multiple of 16. */
  readonly address: number;
  /** Number of descriptors in each table. */
  readonly tableLength: number;
}

export interface DriverQueueOptions {
  /** Index of the queue in its device. */
  readonly index: number;
  /** Number of entries, to 32768; a power of two for a split ring. */
  readonly size: number;
  readonly features: RingFeatures;
  /** The ring's memory, all zeros, as {@link layoutQueue} cuts it. */
  readonly areas: RingAreas;
  /** Used when INDIRECT_DESC was negotiated and a request has more than one segment. */
  readonly indirect?: IndirectArea | null;
  /** Eventfd that kicks the device, or -1. */
  readonly kickFd: number;
  /**
   * Cut a used length that exceeds the writable part down to it, instead of throwing: for devices
   * known to count the readable part as well.
   */
  readonly clampLengths?: boolean;
}

/** Counters of one queue on the driver's side; they only grow. */
export interface DriverQueueCounters {
  /** Requests placed. */
  committed: number;
  /** Requests that came back. */
  used: number;
  /** Kicks sent to the device. */
  kicks: number;
}

/** Where the parts of a queue lie in one area of memory, in bytes from its start. */
export interface QueueLayout {
  readonly size: number;
  readonly packed: boolean;
  readonly descriptor: number;
  readonly driver: number;
  readonly device: number;
  /** Start of the indirect tables, if any. */
  readonly indirect: number;
  /** Number of descriptors in each indirect table; 0 without tables. */
  readonly tableLength: number;
  /** Bytes that all parts take together, a multiple of {@link CACHE_LINE_SIZE}. */
  readonly byteLength: number;
}

/** What the two sides write starts on cache lines of its own, so that they do not fight for one. */
export const CACHE_LINE_SIZE = 64;

function alignUp(offset: number): number {
  return Math.ceil(offset / CACHE_LINE_SIZE) * CACHE_LINE_SIZE;
}

/**
 * Lays out a queue of `size` entries in one area whose start is a multiple of 64, with one indirect
 * table of `tableLength` descriptors for each entry unless that is 0.
 */
export function layoutQueue(size: number, packed: boolean, tableLength = 0): QueueLayout {
  const sizes = ringAreaSizes(size, packed);
  const driver = alignUp(sizes.descriptor);
  const device = alignUp(driver + sizes.driver);
  const indirect = alignUp(device + sizes.device);
  const byteLength = alignUp(indirect + size * tableLength * 16);
  return { size, packed, descriptor: 0, driver, device, indirect, tableLength, byteLength };
}

/** The ring's areas as views, for a layout placed at the start of `bytes`. */
export function layoutAreas(layout: QueueLayout, bytes: Uint8Array): RingAreas {
  const sizes = ringAreaSizes(layout.size, layout.packed);
  return {
    descriptor: bytes.subarray(layout.descriptor, layout.descriptor + sizes.descriptor),
    driver: bytes.subarray(layout.driver, layout.driver + sizes.driver),
    device: bytes.subarray(layout.device, layout.device + sizes.device),
  };
}

/**
 * The indirect tables of a layout placed at the start of `bytes`, which the device has at
 * `address`.
 */
export function layoutIndirect(
  layout: QueueLayout,
  bytes: Uint8Array,
  address: number,
): IndirectArea | null {
  const { size, tableLength, indirect } = layout;
  if (tableLength === 0) return null;
  const tables = bytes.subarray(indirect, indirect + size * tableLength * 16);
  return { bytes: tables, address: address + indirect, tableLength };
}

const NOT_IN_FLIGHT = -1;
const NO_TABLE = -1;
const TOTAL_SIZE_MAX = 2 ** 32 - 1;

export abstract class DriverQueue {
  readonly index: number;
  readonly size: number;
  readonly features: RingFeatures;
  readonly counters: DriverQueueCounters = { committed: 0, used: 0, kicks: 0 };
  /** Most segments that a request may have. */
  readonly segmentCountMax: number;
  /** Eventfd that kicks the device; -1 when the device polls. */
  kickFd: number;
  /** Called instead of a write to {@link kickFd}. */
  onKick: (() => void) | null = null;
  /** Token of the request that {@link next} took last. */
  usedToken = 0;
  /** Bytes that the device wrote into its writable part. */
  usedLength = 0;
  /**
   * False when the device left this request out of a batch (IN_ORDER): it then counts as used
   * completely, and `usedLength` is the size of its writable part.
   */
  usedLengthKnown = true;
  /** Ring entries that are free. */
  freeCount: number;
  /** Requests placed that did not come back yet. */
  outstandingCount = 0;

  // The request that is being put together.
  protected stagedCount = 0;
  protected stagedReadable = 0;
  protected stagedWritableSize = 0;
  protected readonly stagedAddresses: Float64Array;
  protected readonly stagedSizes: Uint32Array;
  private stagedSize = 0;

  // By id: the head descriptor (split) or the buffer id (packed).
  protected readonly tokens: Uint32Array;
  private readonly writableSizes: Uint32Array;
  /** Position of each request in the order of submission; NOT_IN_FLIGHT for an id that is free. */
  private readonly sequences: Float64Array;
  private readonly tableOf: Int32Array;
  private nextSequence = 0;
  private publishedSequence = 0;

  // Under IN_ORDER, ids in the order of submission: a ring with `outstandingCount` entries.
  private readonly order: Uint16Array;
  private orderIn = 0;
  private orderOut = 0;
  /** Id that ends the batch being handed out; -1 when there is none. */
  protected batchLast = NOT_IN_FLIGHT;
  private batchLength = 0;

  private readonly clampLengths: boolean;
  private readonly areas: RingAreas;
  // Indirect tables: a stack of those that are free.
  private readonly tables: Uint32Array;
  private readonly tableAddress: number;
  private readonly tableLength: number;
  private readonly freeTables: Uint16Array;
  private freeTableCount = 0;

  protected constructor(options: DriverQueueOptions) {
    const { size, features } = options;
    assert(Number.isInteger(size) && size > 0 && size <= QUEUE_SIZE_MAX, 'a queue size is 1-32768');
    this.index = options.index;
    this.size = size;
    this.features = features;
    this.areas = options.areas;
    this.kickFd = options.kickFd;
    this.clampLengths = options.clampLengths === true;
    this.freeCount = size;
    // No chain may be longer than the queue, indirect or not (sections 2.7.5.3.1 and 2.8.6).
    this.segmentCountMax = size;
    this.stagedAddresses = new Float64Array(size);
    this.stagedSizes = new Uint32Array(size);
    this.tokens = new Uint32Array(size);
    this.writableSizes = new Uint32Array(size);
    this.sequences = new Float64Array(size).fill(NOT_IN_FLIGHT);
    this.tableOf = new Int32Array(size).fill(NO_TABLE);
    this.order = new Uint16Array(features.inOrder ? size : 0);

    const indirect = features.indirect ? (options.indirect ?? null) : null;
    const bytes = indirect?.bytes ?? new Uint8Array(0);
    this.tables = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    this.tableAddress = indirect?.address ?? 0;
    this.tableLength = indirect?.tableLength ?? 0;
    assert(indirect === null || this.tableLength > 0, 'an indirect table has a length');
    const tableCount = indirect === null ? 0 : bytes.length / (16 * this.tableLength);
    this.freeTables = new Uint16Array(Math.min(size, Math.floor(tableCount)));
    this.fillTables();
  }

  /** Starts a new request; one that was not committed is dropped. */
  begin(): void {
    this.stagedCount = 0;
    this.stagedReadable = 0;
    this.stagedWritableSize = 0;
    this.stagedSize = 0;
  }

  /** Adds a range that the device may read, at an address below 2^53 as the device sees it. */
  addReadable(address: number, size: number): void {
    assert(this.stagedReadable === this.stagedCount, 'readable segments come before writable ones');
    this.addSegment(address, size);
    this.stagedReadable += 1;
  }

  /** Adds a range that the device may write. */
  addWritable(address: number, size: number): void {
    this.addSegment(address, size);
    this.stagedWritableSize += size;
  }

  private addSegment(address: number, size: number): void {
    const { stagedCount } = this;
    assert(
      stagedCount < this.segmentCountMax,
      'a request has more segments than the queue entries',
    );
    assert(size >= 0 && this.stagedSize + size <= TOTAL_SIZE_MAX, 'a request is below 4 GiB');
    this.stagedAddresses[stagedCount] = address;
    this.stagedSizes[stagedCount] = size;
    this.stagedSize += size;
    this.stagedCount = stagedCount + 1;
  }

  /**
   * Places the request that was put together since {@link begin}, not yet visible to the device.
   * `token`, below 2^32, comes back in {@link usedToken}. Returns false when the ring has no room;
   * nothing is placed then, and `commit` may be tried again later.
   */
  abstract commit(token: number): boolean;

  /** Makes all committed requests visible, and kicks the device once if it wants to know. */
  abstract publish(): void;

  /**
   * Takes the next used entry into {@link usedToken} and {@link usedLength}; false if there is
   * none.
   * @throws DeviceFault when the device broke the ring; the queue is then good for `reset` only.
   */
  abstract next(): boolean;

  /** True when {@link next} has something to take. */
  abstract hasUsed(): boolean;

  /** Asks the device not to notify: the driver is looking anyway. */
  abstract suppressNotifications(): void;

  /**
   * Asks the device to notify again. Returns true when a used entry is there already, one that came
   * between the last look and the asking and so brings no notification: look again.
   */
  abstract armNotifications(): boolean;

  /**
   * Where a new back end goes on with this ring, in the format of `DeviceQueueOptions.base`. Exact
   * only after {@link next} returned false. Requests that the old back end served out of order are
   * not told apart: without in-flight tracking, {@link reset} and place them anew instead.
   */
  abstract get base(): number;

  /** True when a request with so many segments can be committed now. */
  hasRoom(segmentCount: number): boolean {
    return this.freeCount >= (this.wantsTable(segmentCount) ? 1 : segmentCount);
  }

  /** Calls `visit` with the token of each request that did not come back, oldest first. */
  forEachOutstanding(visit: (token: number) => void): void {
    const { sequences, tokens } = this;
    const ids: number[] = [];
    for (let id = 0; id < this.size; id += 1) if (sequences[id] !== NOT_IN_FLIGHT) ids.push(id);
    ids.sort((a, b) => sequences[a]! - sequences[b]!);
    for (const id of ids) visit(tokens[id]!);
  }

  /**
   * Brings the ring to its initial state and returns the tokens of the requests that were
   * outstanding, oldest first. The device must have stopped using the ring.
   */
  reset(): number[] {
    const outstanding: number[] = [];
    this.forEachOutstanding((token) => outstanding.push(token));
    this.areas.descriptor.fill(0);
    this.areas.driver.fill(0);
    this.areas.device.fill(0);
    this.begin();
    this.sequences.fill(NOT_IN_FLIGHT);
    this.tableOf.fill(NO_TABLE);
    this.fillTables();
    this.freeCount = this.size;
    this.outstandingCount = 0;
    this.nextSequence = 0;
    this.publishedSequence = 0;
    this.orderIn = 0;
    this.orderOut = 0;
    this.batchLast = NOT_IN_FLIGHT;
    this.restart();
    return outstanding;
  }

  /** Sets the layout's own state back to that of a new ring. */
  protected abstract restart(): void;

  private fillTables(): void {
    const { freeTables } = this;
    // Taken from the end: table 0 first.
    for (let i = 0; i < freeTables.length; i += 1) freeTables[i] = freeTables.length - 1 - i;
    this.freeTableCount = freeTables.length;
  }

  /** True when a request goes through an indirect table: it then takes one ring entry. */
  protected wantsTable(segmentCount: number): boolean {
    return segmentCount > 1 && segmentCount <= this.tableLength && this.freeTableCount > 0;
  }

  /** Writes the staged segments into a free table of request `id`. Returns the table's address. */
  protected writeTable(id: number, packed: boolean): number {
    this.freeTableCount -= 1;
    const table = this.freeTables[this.freeTableCount]!;
    this.tableOf[id] = table;
    const { tables, tableLength, stagedAddresses, stagedSizes, stagedCount, stagedReadable } = this;
    let at = table * tableLength * 4;
    for (let i = 0; i < stagedCount; i += 1, at += 4) {
      const address = stagedAddresses[i]!;
      tables[at] = address;
      tables[at + 1] = address / 4294967296;
      tables[at + 2] = stagedSizes[i]!;
      const write = i < stagedReadable ? 0 : DESC_WRITE;
      // A split table is linked; of a packed one only WRITE counts, and the id above it does not.
      if (packed) tables[at + 3] = write << 16;
      else if (i + 1 < stagedCount) tables[at + 3] = write | DESC_NEXT | ((i + 1) << 16);
      else tables[at + 3] = write;
    }
    return this.tableAddress + table * tableLength * 16;
  }

  /** Records that request `id` takes `slotCount` ring entries from now on. */
  protected placed(id: number, token: number, slotCount: number): void {
    this.tokens[id] = token;
    this.writableSizes[id] = this.stagedWritableSize;
    this.sequences[id] = this.nextSequence;
    this.nextSequence += 1;
    this.freeCount -= slotCount;
    this.outstandingCount += 1;
    this.counters.committed += 1;
    if (!this.features.inOrder) return;
    this.order[this.orderIn] = id;
    this.orderIn = this.orderIn + 1 === this.size ? 0 : this.orderIn + 1;
  }

  /** Records that all that was placed is visible to the device now. */
  protected published(): void {
    this.publishedSequence = this.nextSequence;
  }

  /** Number of requests that the device knows of and that did not come back. */
  protected get visibleCount(): number {
    return this.outstandingCount - (this.nextSequence - this.publishedSequence);
  }

  /**
   * Checks a used entry that the device wrote and opens the batch that it ends. Without IN_ORDER
   * it is a batch of one. `countMax` bounds the batch where the device announced a number.
   */
  protected openBatch(id: number, length: number, countMax: number): void {
    const sequence = id < this.size ? this.sequences[id]! : NOT_IN_FLIGHT;
    if (sequence < 0 || sequence >= this.publishedSequence) {
      throw new DeviceFault('used-id', `queue ${this.index}: used id ${id} is not in flight`);
    }
    if (length > this.writableSizes[id]!) {
      if (!this.clampLengths) {
        throw new DeviceFault(
          'used-length',
          `queue ${this.index}: used length ${length} in a writable part of ${this.writableSizes[id]}`,
        );
      }
      length = this.writableSizes[id]!;
    }
    if (this.features.inOrder) {
      // What is in flight under IN_ORDER has sequences without a gap.
      const count = sequence - this.sequences[this.order[this.orderOut]!]! + 1;
      if (count > countMax) {
        throw new DeviceFault('index-jump', `queue ${this.index}: a batch of ${count} requests`);
      }
    }
    this.batchLast = id;
    this.batchLength = length;
  }

  /** Hands out the next request of the open batch and returns its id. */
  protected takeUsed(): number {
    let id = this.batchLast;
    if (this.features.inOrder) {
      id = this.order[this.orderOut]!;
      this.orderOut = this.orderOut + 1 === this.size ? 0 : this.orderOut + 1;
    }
    this.usedToken = this.tokens[id]!;
    if (id === this.batchLast) {
      this.usedLength = this.batchLength;
      this.usedLengthKnown = true;
      this.batchLast = NOT_IN_FLIGHT;
    } else {
      // Section 2.7.9 (and 2.8.9): a request that was left out counts as used completely.
      this.usedLength = this.writableSizes[id]!;
      this.usedLengthKnown = false;
    }
    this.sequences[id] = NOT_IN_FLIGHT;
    const table = this.tableOf[id]!;
    if (table !== NO_TABLE) {
      this.tableOf[id] = NO_TABLE;
      this.freeTables[this.freeTableCount] = table;
      this.freeTableCount += 1;
    }
    this.outstandingCount -= 1;
    this.counters.used += 1;
    return id;
  }

  protected kick(): void {
    this.counters.kicks += 1;
    if (this.kickFd >= 0) signalEvent(this.kickFd);
    else if (this.onKick !== null) this.onKick();
  }
}
