/**
 * Which requests are out, for a back end that keeps no in-flight memory: followed from outside, at
 * each interrupt, which VDUSE has go through this process anyway. It lies in a file, so that who
 * takes the device over knows too. What was offered less what was given back, whatever the order:
 *
 *   part of a queue:  which:u16 padding[6] | slot 0 | slot 1
 *   slot:             available:u16 used:u16 isValid:u16 padding[2] out:u8[size]
 *
 * A slot is written as a whole and then made the one that counts: a process can die at any time.
 */
import type { SplitRing } from './ring.js';

const HEADER_SIZE = 8;
// Places in 16-bit words.
const AVAILABLE = 0;
const USED = 1;
const IS_VALID = 2;

const slotSize = (size: number): number => HEADER_SIZE + Math.ceil(size / 8) * 8;

/** Bytes of the part of a queue. */
export const trackerSize = (size: number): number => HEADER_SIZE + 2 * slotSize(size);

interface Slot {
  readonly words: Uint16Array;
  readonly out: Uint8Array;
}

/** A queue's part: of the file, or of memory for tests; 8-byte aligned. */
export class QueueTracker {
  private readonly which: Uint16Array;
  private readonly slots: readonly [Slot, Slot];

  constructor(part: Uint8Array, size: number) {
    const { buffer, byteOffset } = part;
    const slot = (index: number): Slot => {
      const at = byteOffset + HEADER_SIZE + index * slotSize(size);
      return {
        words: new Uint16Array(buffer, at, HEADER_SIZE / 2),
        out: new Uint8Array(buffer, at + HEADER_SIZE, size),
      };
    };
    this.which = new Uint16Array(buffer, byteOffset, 1);
    this.slots = [slot(0), slot(1)];
  }

  /** No request is out; the next ones come at an index. */
  begin(index: number): void {
    const { words, out } = this.slots[this.other]!;
    out.fill(0);
    words.set([index, index, 1]);
    this.flip();
  }

  /** Nothing is known any more. */
  forget(): void {
    this.slots[this.other]!.words.fill(0);
    this.flip();
  }

  /**
   * Follows what the rings say now. More than a whole ring since the last time can not be followed:
   * then nothing is known until no request is out.
   */
  follow(ring: SplitRing): void {
    const { words: old, out: before } = this.slots[this.current]!;
    if (old[IS_VALID] !== 1) {
      const index = ring.availableIndex;
      if (ring.usedIndex === index) this.begin(index);
      return;
    }
    // In this order: what was given back was offered before.
    const used = ring.usedIndex;
    const available = ring.availableIndex;
    if (used === old[USED] && available === old[AVAILABLE]) return;
    const { words, out } = this.slots[this.other]!;
    out.set(before);
    for (let i = old[AVAILABLE]!; i !== available; i = (i + 1) & 0xffff) {
      this.count(out, ring.availableAt(i), 1);
    }
    for (let i = old[USED]!; i !== used; i = (i + 1) & 0xffff) {
      this.count(out, ring.usedAt(i), -1);
    }
    // Entries are overwritten when a ring has gone round; also while they were read.
    const isWhole =
      ((ring.availableIndex - old[AVAILABLE]!) & 0xffff) <= ring.size &&
      ((ring.usedIndex - old[USED]!) & 0xffff) <= ring.size;
    words.set([available, used, isWhole ? 1 : 0]);
    this.flip();
  }

  /** Heads of the requests that are out; null when it is not known. */
  outstanding(ring: SplitRing): number[] | null {
    this.follow(ring);
    const { words, out } = this.slots[this.current]!;
    if (words[IS_VALID] !== 1) return null;
    const found: number[] = [];
    for (let head = 0; head < out.length; head += 1) {
      if (out[head] === 1) found.push(head);
      else if (out[head] !== 0) return null;
    }
    return found.length === ring.outstandingCount ? found : null;
  }

  private count(out: Uint8Array, head: number, change: 1 | -1): void {
    if (head < out.length) out[head]! += change;
  }

  private get current(): 0 | 1 {
    return this.which[0] === 0 ? 0 : 1;
  }

  private get other(): 0 | 1 {
    return this.current === 0 ? 1 : 0;
  }

  private flip(): void {
    Atomics.store(this.which, 0, this.other);
  }
}
