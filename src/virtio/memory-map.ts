/**
 * The memory that a driver shares, as regions of its address space.
 *
 * An address of the driver (guest physical, or whatever the front end calls so) is found by
 * {@link MemoryMap.find}; the region then gives the same byte's address in this process and a view.
 */
import { assert } from '../errors.js';
import type { Mapping } from '../native/index.js';
import { WINDOW_STRIDE } from '../native/index.js';

/** A piece of the driver's memory, mapped here. */
export class MemoryRegion {
  /** First address as descriptors name it. */
  readonly guestAddress: number;
  /** First address as the front end's ring addresses name it. */
  readonly userAddress: number;
  /** Size in bytes. */
  readonly size: number;
  readonly mapping: Mapping;
  /** Offset of the region's first byte in the mapping. */
  readonly mappingOffset: number;
  /** Address of the region's first byte in this process. */
  readonly hostAddress: number;

  constructor(
    mapping: Mapping,
    mappingOffset: number,
    guestAddress: number,
    userAddress: number,
    size: number,
  ) {
    assert(mappingOffset + size <= mapping.size, 'a region exceeds its mapping');
    this.mapping = mapping;
    this.mappingOffset = mappingOffset;
    this.guestAddress = guestAddress;
    this.userAddress = userAddress;
    this.size = size;
    this.hostAddress = mapping.address + mappingOffset;
  }

  /** A view of a range of the region. Allocates: not for the data path. */
  bytes(offset: number, size: number): Uint8Array {
    return this.mapping.bytes(this.mappingOffset + offset, size);
  }

  /** The bytes around `offset`: a view in which any range of up to 1 GiB from there lies whole. */
  window(offset: number): Uint8Array {
    return this.mapping.window(this.mapping.windowIndex(this.mappingOffset + offset));
  }

  /** The same bytes as {@link window}, for numbers at any alignment. */
  windowData(offset: number): DataView {
    return this.mapping.windowData(this.mapping.windowIndex(this.mappingOffset + offset));
  }

  /** Where `offset` lies in {@link window}. */
  windowOffset(offset: number): number {
    const at = this.mappingOffset + offset;
    return at - this.mapping.windowIndex(at) * WINDOW_STRIDE;
  }
}

/** The regions that are shared now, sorted by guest address; they never overlap. */
export class MemoryMap {
  private sorted: MemoryRegion[] = [];
  private recent: MemoryRegion | null = null;

  get regions(): readonly MemoryRegion[] {
    return this.sorted;
  }

  /** Adds a region; false when it overlaps one that is there, in guest addresses. */
  add(region: MemoryRegion): boolean {
    const end = region.guestAddress + region.size;
    for (const other of this.sorted) {
      if (region.guestAddress < other.guestAddress + other.size && other.guestAddress < end) {
        return false;
      }
    }
    this.sorted = [...this.sorted, region].sort((a, b) => a.guestAddress - b.guestAddress);
    this.recent = null;
    return true;
  }

  /** Takes out the region with exactly these addresses and size; null when there is none. */
  remove(guestAddress: number, userAddress: number, size: number): MemoryRegion | null {
    const region = this.sorted.find(
      (r) => r.guestAddress === guestAddress && r.userAddress === userAddress && r.size === size,
    );
    if (region === undefined) return null;
    this.sorted = this.sorted.filter((r) => r !== region);
    this.recent = null;
    return region;
  }

  /** Takes out all regions and returns them. */
  clear(): MemoryRegion[] {
    const regions = this.sorted;
    this.sorted = [];
    this.recent = null;
    return regions;
  }

  /** The region that holds the guest address `address`, or null. */
  find(address: number): MemoryRegion | null {
    const { recent } = this;
    if (recent !== null) {
      const offset = address - recent.guestAddress;
      if (offset >= 0 && offset < recent.size) return recent;
    }
    let low = 0;
    let high = this.sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const region = this.sorted[middle]!;
      if (address < region.guestAddress) high = middle;
      else if (address >= region.guestAddress + region.size) low = middle + 1;
      else {
        this.recent = region;
        return region;
      }
    }
    return null;
  }

  /** The region that holds the front end's address `address`, or null. */
  findUser(address: number): MemoryRegion | null {
    for (const region of this.sorted) {
      if (address >= region.userAddress && address - region.userAddress < region.size) {
        return region;
      }
    }
    return null;
  }
}
