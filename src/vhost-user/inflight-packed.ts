/**
 * In-flight tracking of a packed ring. Layout of a queue's part, all little-endian:
 *
 *   header  features:u64 version:u16 entries:u16 freeHead:u16 oldFreeHead:u16
 *           usedIndex:u16 oldUsedIndex:u16 usedWrap:u8 oldUsedWrap:u8 padding
 *   entry   inflight:u8 padding:u8 next:u16 last:u16 count:u16 counter:u64
 *           id:u16 flags:u16 size:u32 address:u64              one for each descriptor
 *
 *   freeHead ──► completed, not published ──► oldFreeHead ──► free ──► free ──► …
 *                └─ the batch: empty when the two are equal
 *
 * The driver overwrites descriptors of a packed ring, so chains are kept here whole. `old…` is the
 * state without the batch: a death before the ring's store rolls the batch back, one after it
 * commits the batch, and the descriptor at `oldUsedIndex` tells which it was.
 */
import { DriverFault, type KeptDescriptor, type PackedInflight } from '../virtio/index.js';
import {
  type Found,
  INFLIGHT_VERSION,
  inOrder,
  isInUse,
  OrderCounter,
  type Recovery,
} from './inflight.js';

// Positions of header fields: in 16-bit words, and in bytes.
const VERSION = 4;
const ENTRY_COUNT = 5;
const FREE_HEAD = 6;
const OLD_FREE_HEAD = 7;
const USED_INDEX = 8;
const OLD_USED_INDEX = 9;
const USED_WRAP_BYTE = 20;
const OLD_USED_WRAP_BYTE = 21;
const PACKED_HEADER_WORDS = 11;
/** Position of both used states in 64-bit words: one store replaces them all. */
const USED_STATES = 2;
// Positions of entry fields: an entry starts at byte 32 * (1 + entry).
const NEXT = 1;
const LAST = 2;
const COUNT = 3;
const COUNTER = 2;
const ID_AND_FLAGS = 4;
const SIZE = 5;
const ADDRESS = 6;

const FLAG_AVAIL = 1 << 7;
const FLAG_USED = 1 << 15;

export class PackedTracker implements PackedInflight {
  private readonly bytes: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly f64: Float64Array;
  private readonly counter = new OrderCounter();
  private readonly ringSize: number;
  // Private copies of what is in the shared memory, and is decided on here.
  private readonly next: Uint16Array;
  private readonly last: Uint16Array;
  private readonly count: Uint16Array;
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private freeCount = 0;
  private freeHead = 0;
  private oldFreeHead = 0;
  private usedIndex = 0;
  private usedWrap = true;
  private oldUsedIndex = 0;
  private oldUsedWrap = true;
  // The chain under construction: its first entry is `oldFreeHead`.
  private chainCount = 0;
  private cursor = 0;
  // Both used states, put together here to be stored at once.
  private readonly statesAsF64 = new Float64Array(1);
  private readonly statesAsU16 = new Uint16Array(this.statesAsF64.buffer);

  /** @param entryCount entries of the part; at least the size of the ring. */
  constructor(part: Uint8Array, entryCount: number, ringSize: number) {
    const { buffer, byteOffset, length } = part;
    this.bytes = part;
    this.u16 = new Uint16Array(buffer, byteOffset, length >> 1);
    this.u32 = new Uint32Array(buffer, byteOffset, length >> 2);
    this.f64 = new Float64Array(buffer, byteOffset, length >> 3);
    this.ringSize = ringSize;
    this.next = new Uint16Array(entryCount);
    this.last = new Uint16Array(entryCount);
    this.count = new Uint16Array(entryCount);
    this.batch = new Uint16Array(entryCount);
  }

  /** Forgets whatever the part holds and starts anew at a base. */
  initialize(base: number): void {
    const { u16 } = this;
    u16[VERSION] = 0; // A death from here on leaves memory that counts as unused.
    this.bytes.fill(0);
    const entryCount = this.next.length;
    for (let i = 0; i < entryCount; i += 1) this.link(i, i + 1); // The list ends beyond its end.
    this.freeCount = entryCount;
    this.usedIndex = (base >>> 16) & 0x7fff;
    this.usedWrap = base >>> 31 === 1;
    this.storeSettled();
    u16[ENTRY_COUNT] = entryCount;
    u16[VERSION] = INFLIGHT_VERSION;
  }

  /**
   * Finds what a dead predecessor left, in memory that is in use.
   * @param ring the descriptor ring.
   * @returns null when the memory makes no sense for this ring.
   */
  recover(ring: Uint32Array): Recovery | null {
    if (!this.settleBatch(ring)) return null;
    this.clearFreeList();
    const found: Found[] = [];
    const isTaken = new Uint8Array(this.next.length);
    let slots = 0;
    for (let entry = 0; entry < this.next.length; entry += 1) {
      if (this.bytes[32 * (1 + entry)] === 0) continue;
      const descriptors = this.readChain(entry, isTaken);
      if (descriptors === null) return null;
      slots += descriptors.length;
      const low = this.u32[8 * (1 + entry) + COUNTER]!;
      const high = this.u32[8 * (1 + entry) + COUNTER + 1]!;
      this.counter.passBeyond(low, high);
      const id = this.u16[16 * (1 + this.last[entry]!) + 8]!;
      found.push({ request: { id, entry, descriptors }, low, high });
    }
    if (slots > this.ringSize) return null;
    this.relinkFree(isTaken);
    return { base: this.baseBeyond(slots), unfinished: inOrder(found) };
  }

  /** Commits or rolls back the batch that was under way. */
  private settleBatch(ring: Uint32Array): boolean {
    const { u16, bytes, ringSize } = this;
    const usedWrap = bytes[USED_WRAP_BYTE] === 1;
    const oldWrap = bytes[OLD_USED_WRAP_BYTE] === 1;
    const [used, old] = [u16[USED_INDEX]!, u16[OLD_USED_INDEX]!];
    if (used >= ringSize || old >= ringSize) return false;
    this.usedIndex = old;
    this.usedWrap = oldWrap;
    if (used !== old || usedWrap !== oldWrap) {
      const flags = ring[(old << 2) + 3]! >>> 16;
      const available = (flags & FLAG_AVAIL) !== 0;
      // Still as the driver made it available: the batch was not published.
      const isPublished = available !== oldWrap || available === ((flags & FLAG_USED) !== 0);
      if (isPublished) {
        this.usedIndex = used;
        this.usedWrap = usedWrap;
        u16[OLD_FREE_HEAD] = u16[FREE_HEAD]!;
      }
    }
    u16[FREE_HEAD] = u16[OLD_FREE_HEAD]!;
    this.storeSettled();
    return true;
  }

  /** What is on the free list is not in flight, whatever its mark says. */
  private clearFreeList(): void {
    const { u16, bytes } = this;
    const entryCount = this.next.length;
    let entry = u16[OLD_FREE_HEAD]!;
    // As many steps as entries: a list that was tampered with may be a cycle.
    for (let steps = 0; entry < entryCount && steps < entryCount; steps += 1) {
      bytes[32 * (1 + entry)] = 0;
      entry = u16[16 * (1 + entry) + NEXT]!;
    }
  }

  /** The kept descriptors of a chain; null when the entries do not form one. */
  private readChain(head: number, isTaken: Uint8Array): KeptDescriptor[] | null {
    const { u16, u32 } = this;
    const entryCount = this.next.length;
    const last = u16[16 * (1 + head) + LAST]!;
    const count = u16[16 * (1 + head) + COUNT]!;
    if (count < 1 || count > this.ringSize) return null;
    const descriptors: KeptDescriptor[] = [];
    let entry = head;
    for (let i = 1; ; i += 1) {
      if (entry >= entryCount || isTaken[entry] !== 0) return null;
      isTaken[entry] = 1;
      const at = 8 * (1 + entry);
      const low = u32[at + ADDRESS]!;
      const high = u32[at + ADDRESS + 1]!;
      descriptors.push({ low, high, size: u32[at + SIZE]!, flags: u32[at + ID_AND_FLAGS]! >>> 16 });
      this.next[entry] = u16[16 * (1 + entry) + NEXT]!;
      if (i === count) break;
      entry = this.next[entry]!;
    }
    if (entry !== last) return null;
    this.last[head] = last;
    this.count[head] = count;
    return descriptors;
  }

  /** Takes the free list over, or makes a new one of all free entries where it is not whole. */
  private relinkFree(isTaken: Uint8Array): void {
    const { u16 } = this;
    const entryCount = this.next.length;
    this.freeCount = 0;
    for (let i = 0; i < entryCount; i += 1) if (isTaken[i] === 0) this.freeCount += 1;
    let entry = u16[OLD_FREE_HEAD]!;
    this.oldFreeHead = entry;
    let count = 0;
    for (; entry < entryCount && isTaken[entry] === 0 && count < this.freeCount; count += 1) {
      this.next[entry] = u16[16 * (1 + entry) + NEXT]!;
      entry = this.next[entry]!;
    }
    if (count !== this.freeCount || entry !== entryCount) {
      let following = entryCount;
      for (let i = entryCount - 1; i >= 0; i -= 1) {
        if (isTaken[i] !== 0) continue;
        this.link(i, following);
        following = i;
      }
      this.oldFreeHead = following;
    }
    this.freeHead = this.oldFreeHead;
    u16[OLD_FREE_HEAD] = this.oldFreeHead;
    u16[FREE_HEAD] = this.oldFreeHead;
  }

  private baseBeyond(slots: number): number {
    let available = this.usedIndex + slots;
    let wrap = this.usedWrap;
    if (available >= this.ringSize) {
      available -= this.ringSize;
      wrap = !wrap;
    }
    const used = this.usedIndex | (this.usedWrap ? 0x8000 : 0);
    return ((used << 16) | available | (wrap ? 0x8000 : 0)) >>> 0;
  }

  private link(entry: number, next: number): void {
    this.next[entry] = next;
    this.u16[16 * (1 + entry) + NEXT] = next;
  }

  /** Stores both used states at once: no death can leave an index without its wrap counter. */
  private storeUsedStates(oldIndex: number, oldWrap: boolean): void {
    const { statesAsU16 } = this;
    statesAsU16[0] = this.usedIndex;
    statesAsU16[1] = oldIndex;
    statesAsU16[2] = (this.usedWrap ? 1 : 0) | (oldWrap ? 0x100 : 0);
    // The top 16 bits stay 0, so that this is never a NaN, whose bits might not be kept.
    this.f64[USED_STATES] = this.statesAsF64[0]!;
  }

  /** Stores the used state as the old one too: there is no batch. */
  private storeSettled(): void {
    this.oldUsedIndex = this.usedIndex;
    this.oldUsedWrap = this.usedWrap;
    this.storeUsedStates(this.usedIndex, this.usedWrap);
  }

  /** True when no request is marked as in flight. For the control path. */
  isIdle(): boolean {
    for (let entry = 0; entry < this.next.length; entry += 1) {
      if (this.bytes[32 * (1 + entry)] !== 0) return false;
    }
    return true;
  }

  descriptor(low: number, high: number, size: number, id: number, flags: number): void {
    const { u32, counter } = this;
    if (this.chainCount === this.freeCount) {
      throw new DriverFault('chain-length', 'more descriptors in flight than the ring holds');
    }
    if (this.chainCount === 0) {
      const head = this.oldFreeHead;
      this.cursor = head;
      u32[8 * (1 + head) + COUNTER] = counter.low;
      u32[8 * (1 + head) + COUNTER + 1] = counter.high;
      counter.next();
      this.bytes[32 * (1 + head)] = 1;
    }
    const { cursor } = this;
    const at = 8 * (1 + cursor);
    u32[at + ID_AND_FLAGS] = id | (flags << 16);
    u32[at + SIZE] = size;
    u32[at + ADDRESS] = low;
    u32[at + ADDRESS + 1] = high;
    this.last[this.oldFreeHead] = cursor;
    this.chainCount += 1;
    this.cursor = this.next[cursor]!;
  }

  take(): number {
    const { u16, cursor } = this;
    const head = this.oldFreeHead;
    u16[16 * (1 + head) + LAST] = this.last[head]!;
    u16[16 * (1 + head) + COUNT] = this.chainCount;
    this.count[head] = this.chainCount;
    this.freeCount -= this.chainCount;
    this.chainCount = 0;
    this.setOldFreeHead(cursor); // From here on the request is known.
    return head;
  }

  /** Moves the start of the free list; the batch before it goes on to there. */
  private setOldFreeHead(entry: number): void {
    this.oldFreeHead = entry;
    this.u16[OLD_FREE_HEAD] = entry;
    if (this.batchCount > 0) {
      this.link(this.last[this.batch[0]!]!, entry);
    } else {
      this.freeHead = entry;
      this.u16[FREE_HEAD] = entry;
    }
  }

  untake(entry: number): void {
    this.link(this.last[entry]!, this.oldFreeHead);
    this.freeCount += this.count[entry]!;
    this.setOldFreeHead(entry);
    this.bytes[32 * (1 + entry)] = 0;
  }

  complete(entry: number): void {
    const { ringSize } = this;
    this.link(this.last[entry]!, this.freeHead);
    this.freeHead = entry;
    this.u16[FREE_HEAD] = entry;
    this.batch[this.batchCount] = entry;
    this.batchCount += 1;
    this.usedIndex += this.count[entry]!;
    if (this.usedIndex >= ringSize) {
      this.usedIndex -= ringSize;
      this.usedWrap = !this.usedWrap;
    }
    this.storeUsedStates(this.oldUsedIndex, this.oldUsedWrap);
  }

  published(usedIndex: number, usedWrap: boolean): void {
    const { batch, bytes } = this;
    for (let i = 0; i < this.batchCount; i += 1) {
      const entry = batch[i]!;
      bytes[32 * (1 + entry)] = 0;
      this.freeCount += this.count[entry]!;
    }
    this.batchCount = 0;
    this.oldFreeHead = this.freeHead;
    this.u16[OLD_FREE_HEAD] = this.freeHead;
    this.usedIndex = usedIndex;
    this.usedWrap = usedWrap;
    this.storeSettled();
  }
}

/** Takes a part into use for a ring: recovers, or starts anew with the front end's base. */
export function attachPacked(
  part: Uint8Array,
  entryCount: number,
  ring: { descriptors: Uint32Array; size: number; base: number; wasStopped: boolean },
): { tracker: PackedTracker; recovery: Recovery; isForeign: boolean } {
  const tracker = new PackedTracker(part, entryCount, ring.size);
  const inUse = isInUse(part, entryCount);
  // After an orderly stop nothing is in flight and the front end's base is the truth.
  if (inUse && !(ring.wasStopped && tracker.isIdle())) {
    const recovery = tracker.recover(ring.descriptors);
    if (recovery !== null) return { tracker, recovery, isForeign: false };
  }
  const isForeign = inUse && !ring.wasStopped;
  const fresh = new PackedTracker(part, entryCount, ring.size);
  fresh.initialize(ring.base);
  return { tracker: fresh, recovery: { base: ring.base, unfinished: [] }, isForeign };
}

/**
 * Where the last user of a part was in its ring, as a base whose halves are equal: the back end
 * finds what was in flight by itself. Null for a part that nobody has used.
 */
export function packedBaseOf(part: Uint8Array): number | null {
  const words = new Uint16Array(part.buffer, part.byteOffset, PACKED_HEADER_WORDS);
  if (words[VERSION] === 0) return null;
  const wrap = part[OLD_USED_WRAP_BYTE] === 1 ? 0x8000 : 0;
  const half = (words[OLD_USED_INDEX]! & 0x7fff) | wrap;
  return ((half << 16) | half) >>> 0;
}
