/**
 * Requests of a split ring that nobody will serve: given back to the driver as failed. VDUSE has no
 * way to have them fail, and a driver waits for each of them, even to let the device go.
 *
 * Which requests are out has to be known: one that is given back and was not out stops the driver
 * for good. It is known where the back end kept in-flight memory, and from a {@link QueueTracker}.
 */
import { VloError } from '../../errors.js';
import { decodeRequest } from '../../vhost-user/codec.js';
import type { StashedInflight } from '../../vhost-user/index.js';
import { InflightRegion, isInUse } from '../../vhost-user/inflight.js';
import { SplitTracker } from '../../vhost-user/inflight-split.js';
import { DESCRIPTOR_SIZE, type DeviceMemory, type SplitRing } from './ring.js';

const NEXT = 1;
const WRITABLE = 2;
const INDIRECT = 4;

/** Heads of the requests that a back end took and did not finish; null when its memory has none. */
function unfinishedHeads(
  index: number,
  { fd, note }: StashedInflight,
  ring: SplitRing,
): number[] | null {
  try {
    const region = InflightRegion.map(fd, decodeRequest('SET_INFLIGHT_FD', note, 1));
    try {
      const part = region.part(index, false);
      const entryCount = region.entryCount(false);
      if (part === null || !isInUse(part, entryCount)) return null;
      const tracker = new SplitTracker(part, entryCount);
      const found = tracker.recover(ring.usedIndex, ring.availableIndex, ring.size);
      return found?.unfinished.map(({ id }) => id) ?? null;
    } finally {
      region.retire();
    }
  } catch (error) {
    // Of a layout that is not known here.
    if (error instanceof VloError && error.code === 'VLO_PROTOCOL') return null;
    throw error;
  }
}

/**
 * Heads of the requests of a queue that are out, by the in-flight memory of its back end, which
 * has died: those that it took, and those behind the last one. Null when that is of no use.
 */
export function outstandingByInflight(
  index: number,
  inflight: StashedInflight,
  ring: SplitRing,
): number[] | null {
  const count = ring.outstandingCount;
  if (count > ring.size) return null;
  const taken = unfinishedHeads(index, inflight, ring);
  if (taken === null || taken.length > count) return null;
  const end = ring.availableIndex;
  const rest = count - taken.length;
  return [...taken, ...Array.from({ length: rest }, (_, i) => ring.availableAt(end - rest + i))];
}

/** A split ring that nobody serves any more. */
export class DeadRing {
  private readonly ring: SplitRing;
  private readonly memory: DeviceMemory;
  /** What a driver is to find in the last byte that a request has for the device; null: nothing. */
  private readonly failure: number | null;
  /** Index of the available ring from which on requests are new. */
  private next: number;

  constructor(ring: SplitRing, memory: DeviceMemory, failure: number | null) {
    this.ring = ring;
    this.memory = memory;
    this.failure = failure;
    this.next = ring.availableIndex;
  }

  /** Gives requests back. */
  fail(heads: readonly number[]): void {
    for (const head of heads) {
      if (this.failure !== null) {
        const last = this.lastWritable(head);
        if (last !== null) last[0] = this.failure;
      }
      this.ring.giveBack(head, this.failure === null ? 0 : 1);
    }
    this.ring.askToTell(this.next);
  }

  /** Gives back what has come since; returns how many those were. */
  failNew(): number {
    let count = 0;
    while (this.next !== this.ring.availableIndex) {
      const head = this.ring.availableAt(this.next);
      this.next = (this.next + 1) & 0xffff;
      // Before the index is looked at again: what comes from then on is told.
      this.fail([head]);
      count += 1;
    }
    return count;
  }

  /** The last byte that the device may write of a request. */
  private lastWritable(head: number): Uint8Array | null {
    let table = this.ring.descriptors;
    let index = head;
    let last: number | null = null;
    for (let steps = 0; steps <= this.ring.size; steps += 1) {
      const at = index * DESCRIPTOR_SIZE;
      if (at + DESCRIPTOR_SIZE > table.byteLength) return null;
      const address = table.getUint32(at, true) + table.getUint32(at + 4, true) * 2 ** 32;
      const size = table.getUint32(at + 8, true);
      const flags = table.getUint16(at + 12, true);
      if ((flags & INDIRECT) !== 0) {
        const bytes = this.memory.bytes(address, size);
        if (bytes === null) return null;
        table = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        index = 0;
        continue;
      }
      if ((flags & WRITABLE) !== 0 && size > 0) last = address + size - 1;
      if ((flags & NEXT) === 0) break;
      index = table.getUint16(at + 14, true);
    }
    return last === null ? null : this.memory.bytes(last, 1);
  }
}
