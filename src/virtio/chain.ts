/**
 * A chain: one request as the driver placed it. It exists only if it is well formed:
 *
 * - every index is below the queue size, and there are no more descriptors than allowed;
 * - every range lies in the memory that the driver shared;
 * - readable ranges come before writable ones;
 * - all sizes together are below 4 GiB;
 * - an indirect table was negotiated, is a whole number of descriptors, and is not nested.
 *
 * Each descriptor is read from shared memory once; changing it afterwards has no effect.
 */
import { assert } from '../errors.js';
import { ChainReader, ChainWriter, SegmentList } from './cursor.js';
import type { UnfinishedRequest } from './device-queue.js';
import { DriverFault } from './fault.js';
import type { MemoryMap } from './memory-map.js';

/** Descriptor flags (sections 2.7.5 and 2.8.1). */
export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;

/** Most descriptors of an indirect table where the queue is smaller; Linux and QEMU go to 1024. */
export const INDIRECT_COUNT_MAX = 1024;

const GIB = 2 ** 30;
const SIZE_LIMIT = 2 ** 32;

/** Where a chain is in its life. */
export const CHAIN_FREE = 0;
export const CHAIN_TAKEN = 1;
export const CHAIN_DONE = 2;

/** A validated request. Objects are reused; hold one only until it is completed. */
export class Chain {
  /** Split ring: index of the head descriptor. Packed ring: buffer id. */
  id = 0;
  /** Ring slots that the chain occupies (packed ring). */
  slotCount = 0;
  /** The ring's position after this chain was taken; packed ring: the wrap counter in bit 15. */
  position = 0;
  /** Entry of the in-flight region that stands for this chain. */
  inflightEntry = -1;
  /** @internal The request of a killed predecessor that this chain serves again, if it is one. */
  unfinished: UnfinishedRequest | null = null;
  /** @internal One of CHAIN_FREE, CHAIN_TAKEN, CHAIN_DONE. */
  state = CHAIN_FREE;
  /** What the device wants to remember of the request until it completes. */
  context: unknown = null;
  /** The readable part. */
  readonly reader: ChainReader;
  /** The writable part. */
  readonly writer: ChainWriter;
  readonly segments = new SegmentList();
  private readableCount = 0;
  private readableSize = 0;
  private writableSize = 0;

  constructor() {
    this.reader = new ChainReader(this.segments);
    this.writer = new ChainWriter(this.segments);
  }

  /** Number of segments in the writable part. */
  get writableCount(): number {
    return this.segments.count - this.readableCount;
  }

  /** Index of the first writable segment. */
  get writableStart(): number {
    return this.readableCount;
  }

  /** @internal Empties the chain for a new request. */
  begin(): void {
    assert(this.state === CHAIN_FREE, 'a chain was reused before it was completed');
    this.segments.count = 0;
    this.readableCount = 0;
    this.readableSize = 0;
    this.writableSize = 0;
    this.context = null;
    this.unfinished = null;
    this.inflightEntry = -1;
  }

  /** @internal Adds the range of one descriptor; one range may span several regions. */
  addRange(
    memory: MemoryMap,
    addressLow: number,
    addressHigh: number,
    size: number,
    flags: number,
  ): void {
    if ((flags & DESC_WRITE) !== 0) this.writableSize += size;
    else if (this.writableSize > 0) throw new DriverFault('order', 'readable after writable');
    else this.readableSize += size;
    if (this.readableSize + this.writableSize >= SIZE_LIMIT) {
      throw new DriverFault('size', 'the lengths of a chain add up to 4 GiB or more');
    }
    // An address of 2^53 or more is no memory of anybody; the sum below stays exact.
    let address =
      addressHigh < 0x200000 ? addressHigh * 4294967296 + addressLow : Number.MAX_SAFE_INTEGER;
    while (size > 0) {
      const region = memory.find(address);
      if (region === null) {
        throw new DriverFault('address', `address 0x${address.toString(16)} is not shared memory`);
      }
      const offset = address - region.guestAddress;
      const part = Math.min(size, region.size - offset, GIB);
      const view = region.window(offset);
      const start = region.windowOffset(offset);
      this.segments.push(region.hostAddress + offset, address, part, view, start);
      if ((flags & DESC_WRITE) === 0) this.readableCount += 1;
      address += part;
      size -= part;
    }
  }

  /** @internal Ends the construction: the chain is whole. */
  finish(): void {
    this.reader.place(0, 0, this.readableSize);
    this.writer.place(this.readableCount, 0, this.writableSize);
    this.state = CHAIN_TAKEN;
  }
}

/** Reads the descriptors of an indirect table, wherever and however it lies, into a chain. */
export function addIndirect(
  chain: Chain,
  memory: MemoryMap,
  addressLow: number,
  addressHigh: number,
  tableSize: number,
  countMax: number,
  packed: boolean,
): void {
  const count = tableSize / 16;
  if (count === 0 || !Number.isInteger(count) || count > countMax) {
    throw new DriverFault('indirect', `an indirect table of ${tableSize} bytes`);
  }
  const address = addressHigh < 0x200000 ? addressHigh * 4294967296 + addressLow : -1;
  const region = memory.find(address);
  const offset = region === null ? 0 : address - region.guestAddress;
  if (region === null || tableSize > region.size - offset) {
    throw new DriverFault('indirect', 'an indirect table outside of shared memory');
  }
  const data = region.windowData(offset);
  const start = region.windowOffset(offset);
  let index = 0;
  for (let steps = 0; ; steps += 1) {
    if (steps === count) throw new DriverFault('chain-length', 'a cycle in an indirect table');
    const at = start + index * 16;
    const low = data.getUint32(at, true);
    const high = data.getUint32(at + 4, true);
    const size = data.getUint32(at + 8, true);
    const flagWord = data.getUint32(at + 12, true);
    // A split table has flags and next in the last word, a packed one id and flags.
    const flags = packed ? flagWord >>> 16 : flagWord & 0xffff;
    if ((flags & DESC_INDIRECT) !== 0) {
      throw new DriverFault('indirect', 'an indirect table within an indirect table');
    }
    chain.addRange(memory, low, high, size, flags);
    if (packed) {
      // Section 2.8.8: only WRITE counts here, and the table's size says where it ends.
      if (steps + 1 === count) return;
      index += 1;
      continue;
    }
    if ((flags & DESC_NEXT) === 0) return;
    index = flagWord >>> 16;
    if (index >= count) throw new DriverFault('index-range', `indirect index ${index}`);
  }
}
