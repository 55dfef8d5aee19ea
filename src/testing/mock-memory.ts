/**
 * The memory that a mock driver shares with the device: a memory file, mapped, as one region of
 * driver addresses, from which rings and buffers are taken.
 *
 *   … | guard | buffer | guard | …      guards hold a pattern: a device that writes beside its
 *                                       buffer, through a system call, is noticed
 */
import { VloError } from '../errors.js';
import { createMemfd, Mapping, mappingCounts, openFdCount } from '../native/index.js';
import { MemoryMap, MemoryRegion } from '../virtio/index.js';

/** Driver address of the first byte: above 2^32, and equal to no address of this process. */
export const MOCK_MEMORY_ADDRESS = 0x1_0000_0000;

const GUARD_SIZE = 16;
const GUARD_BYTE = 0xa5;

/** A range of the shared memory. */
export interface Block {
  /** Address as the driver names it. */
  readonly address: number;
  readonly size: number;
  readonly bytes: Uint8Array;
}

/** How a block lies in memory. */
export interface Placement {
  /** The address is a multiple of this, a power of two, … */
  readonly alignment: number;
  /** … plus this many bytes. */
  readonly misalignment: number;
}

interface FreeRange {
  start: number;
  end: number;
}

const alignUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

/** @internal */
export class MockMemory {
  readonly map = new MemoryMap();
  private readonly mapping: Mapping;
  private readonly free: FreeRange[];

  constructor(size: number) {
    const fd = createMemfd('virtio-loopback-mock', size);
    try {
      this.mapping = Mapping.shared(fd.number, size);
    } finally {
      fd.close();
    }
    const address = MOCK_MEMORY_ADDRESS;
    this.map.add(new MemoryRegion(this.mapping, 0, address, address, size));
    this.free = [{ start: 0, end: size }];
  }

  /** Takes a range. @throws VloError VLO_REQUEST_INVALID when the memory is used up. */
  allocate(size: number, { alignment, misalignment }: Placement): Block {
    for (const [index, range] of this.free.entries()) {
      const offset = alignUp(range.start + GUARD_SIZE, alignment) + misalignment;
      const start = offset - GUARD_SIZE;
      const end = offset + size + GUARD_SIZE;
      if (end > range.end) continue;
      const left = { start: range.start, end: start };
      const right = { start: end, end: range.end };
      this.free.splice(index, 1, ...[left, right].filter((part) => part.start < part.end));
      this.mapping.bytes(start, end - start).fill(GUARD_BYTE);
      const bytes = this.mapping.bytes(offset, size);
      return { address: MOCK_MEMORY_ADDRESS + offset, size, bytes };
    }
    throw new VloError(
      'VLO_REQUEST_INVALID',
      `the mock driver's memory has no ${size} bytes left; open it with a larger memorySize`,
    );
  }

  /** Gives a range back. Returns false when its guards were overwritten. */
  release({ address, size }: Block): boolean {
    const offset = address - MOCK_MEMORY_ADDRESS;
    const start = offset - GUARD_SIZE;
    const end = offset + size + GUARD_SIZE;
    const isIntact = [start, offset + size].every((guard) =>
      this.mapping.bytes(guard, GUARD_SIZE).every((byte) => byte === GUARD_BYTE),
    );
    this.giveBack(start, end);
    return isIntact;
  }

  /** Adds a range to the list, sorted by address, and joins it with its neighbours. */
  private giveBack(start: number, end: number): void {
    const { free } = this;
    let index = free.length;
    while (index > 0 && free[index - 1]!.start > start) index -= 1;
    const before = free[index - 1];
    const after = free[index];
    const joinsBefore = before !== undefined && before.end === start;
    const joinsAfter = after !== undefined && after.start === end;
    if (joinsBefore && joinsAfter) {
      before.end = after.end;
      free.splice(index, 1);
    } else if (joinsBefore) before.end = end;
    else if (joinsAfter) after.start = start;
    else free.splice(index, 0, { start, end });
  }

  close(): void {
    this.map.clear();
    this.mapping.retire();
  }
}

/** What this process holds of the kernel: compare before and after to find what a device leaks. */
export function resourceCounts(): { readonly fds: number; readonly mappings: number } {
  return { fds: openFdCount(), mappings: mappingCounts().live };
}
