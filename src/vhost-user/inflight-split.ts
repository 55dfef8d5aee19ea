/**
 * In-flight tracking of a split ring. Layout of a queue's part, all little-endian:
 *
 *   header  features:u64 version:u16 entries:u16 lastBatchHead:u16 usedIndex:u16
 *   entry   inflight:u8 padding[5] next:u16 counter:u64        one for each head index
 *
 * A death between the store of the ring's used index and the clearing of `inflight` leaves entries
 * marked that the driver has back already; the list from `lastBatchHead` names them, and the
 * difference between the two used indices says how many.
 */
import type { SplitInflight } from '../virtio/index.js';
import {
  type Found,
  INFLIGHT_VERSION,
  inOrder,
  isInUse,
  OrderCounter,
  type Recovery,
} from './inflight.js';

// Positions of header fields, in 16-bit words.
const VERSION = 4;
const ENTRY_COUNT = 5;
const LAST_BATCH_HEAD = 6;
const USED_INDEX = 7;
// Positions of entry fields, relative to 16 bytes * (1 + head).
const NEXT_WORD = 3;

export class SplitTracker implements SplitInflight {
  private readonly bytes: Uint8Array;
  private readonly words: Uint16Array;
  private readonly counters: Uint32Array;
  private readonly counter = new OrderCounter();
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private lastBatchHead = 0;

  /** @param entryCount entries of the part; at least the size of the ring. */
  constructor(part: Uint8Array, entryCount: number) {
    const { buffer, byteOffset, length } = part;
    this.bytes = part;
    this.words = new Uint16Array(buffer, byteOffset, length >> 1);
    this.counters = new Uint32Array(buffer, byteOffset, length >> 2);
    this.batch = new Uint16Array(entryCount);
  }

  /** Forgets whatever the part holds and starts anew at a used index. */
  initialize(usedIndex: number): void {
    const { words } = this;
    words[VERSION] = 0; // A death from here on leaves memory that counts as unused.
    this.bytes.fill(0);
    words[ENTRY_COUNT] = this.batch.length;
    words[USED_INDEX] = usedIndex;
    words[VERSION] = INFLIGHT_VERSION;
  }

  /**
   * Finds what a dead predecessor left, in memory that is in use.
   *
   * @param usedIndex index of the ring's used ring; @param availIndex of its available ring.
   * @returns null when the memory belongs to another history of the ring: it can be of no use.
   */
  recover(usedIndex: number, availIndex: number, ringSize: number): Recovery | null {
    const { bytes, words, counters } = this;
    const entryCount = this.batch.length;
    const batchCount = (usedIndex - words[USED_INDEX]!) & 0xffff;
    if (batchCount > ringSize) return null;
    let head = words[LAST_BATCH_HEAD]!;
    for (let i = 0; i < batchCount; i += 1) {
      if (head >= entryCount) return null;
      bytes[16 * (1 + head)] = 0;
      head = words[8 * (1 + head) + NEXT_WORD]!;
    }
    words[USED_INDEX] = usedIndex;
    const found: Found[] = [];
    for (let id = 0; id < entryCount; id += 1) {
      if (bytes[16 * (1 + id)] === 0) continue;
      if (id >= ringSize) return null;
      const low = counters[4 * (1 + id) + 2]!;
      const high = counters[4 * (1 + id) + 3]!;
      this.counter.passBeyond(low, high);
      found.push({ request: { id, entry: -1, descriptors: [] }, low, high });
    }
    // Every request in flight was made available and not used: more cannot be.
    if (found.length > ((availIndex - usedIndex) & 0xffff)) return null;
    const lastBatchHead = words[LAST_BATCH_HEAD]!;
    this.lastBatchHead = lastBatchHead < entryCount ? lastBatchHead : 0;
    return { base: (usedIndex + found.length) & 0xffff, unfinished: inOrder(found) };
  }

  /** True when no request is marked as in flight. For the control path. */
  isIdle(): boolean {
    for (let id = 0; id < this.batch.length; id += 1) {
      if (this.bytes[16 * (1 + id)] !== 0) return false;
    }
    return true;
  }

  take(head: number): void {
    const { counter, counters } = this;
    const at = 4 * (1 + head);
    counters[at + 2] = counter.low;
    counters[at + 3] = counter.high;
    counter.next();
    this.bytes[16 * (1 + head)] = 1; // Last: from here on the request is known.
  }

  untake(head: number): void {
    this.bytes[16 * (1 + head)] = 0;
  }

  complete(head: number): void {
    // A driver that offers one head twice can complete more than the ring holds; its own loss.
    if (this.batchCount === this.batch.length) return;
    this.batch[this.batchCount] = head;
    this.batchCount += 1;
    this.words[8 * (1 + head) + NEXT_WORD] = this.lastBatchHead;
    this.words[LAST_BATCH_HEAD] = head;
    this.lastBatchHead = head;
  }

  published(usedIndex: number): void {
    const { batch, bytes } = this;
    for (let i = 0; i < this.batchCount; i += 1) bytes[16 * (1 + batch[i]!)] = 0;
    this.batchCount = 0;
    this.words[USED_INDEX] = usedIndex;
  }
}

/** Takes a part into use for a ring: recovers, or starts anew with the front end's base. */
export function attachSplit(
  part: Uint8Array,
  entryCount: number,
  ring: { usedIndex: number; availIndex: number; size: number; base: number; wasStopped: boolean },
): { tracker: SplitTracker; recovery: Recovery; isForeign: boolean } {
  const tracker = new SplitTracker(part, entryCount);
  const inUse = isInUse(part, entryCount);
  // After an orderly stop nothing is in flight and the front end's base is the truth.
  if (inUse && !(ring.wasStopped && tracker.isIdle())) {
    const recovery = tracker.recover(ring.usedIndex, ring.availIndex, ring.size);
    if (recovery !== null) return { tracker, recovery, isForeign: false };
  }
  const isForeign = inUse && !ring.wasStopped;
  const fresh = new SplitTracker(part, entryCount);
  fresh.initialize(ring.usedIndex);
  return { tracker: fresh, recovery: { base: ring.base, unfinished: [] }, isForeign };
}
