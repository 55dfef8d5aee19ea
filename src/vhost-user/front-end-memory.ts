/**
 * Memory that a front end shares with its back end: sealed memory files, mapped here, with places
 * in an address space of our own and an allocator for rings and buffers.
 *
 *   guest addresses   0 … 1 MiB unused │ region │ region │ … gaps are filled first
 *   in a region       │ block │ free │ block │ free … │     free ranges sorted, merged, first fit
 *
 * Addresses stay low so that the bitmap of a dirty log, which has a bit for each page up to the
 * highest one, stays small. The allocator is for set-up, not for each request.
 */
import { assert } from '../errors.js';
import { createMemfd, type Fd, Mapping, PAGE_SIZE } from '../native/index.js';
import type { Payload } from './messages.js';

/** First guest address in use: address 0 means "none" to some back ends. */
const GUEST_ADDRESS_FIRST = 2 ** 20;
/** Largest region in bytes: one view holds it whole. */
export const SHARED_REGION_SIZE_MAX = 2 ** 30;

interface Range {
  start: number;
  end: number;
}

/** A piece of a region. */
export interface SharedBlock {
  readonly region: SharedRegion;
  /** Address of the first byte as descriptors name it. */
  readonly address: number;
  readonly size: number;
  readonly bytes: Uint8Array;
}

/** One memory file, its mapping, and its place in the guest's address space. */
export class SharedRegion {
  readonly fd: Fd;
  readonly mapping: Mapping;
  readonly guestAddress: number;
  readonly size: number;
  private free: Range[];

  /** @internal */
  constructor(guestAddress: number, size: number) {
    this.guestAddress = guestAddress;
    this.size = size;
    this.fd = createMemfd('vlo-shared', size);
    try {
      this.mapping = Mapping.shared(this.fd.number, size);
    } catch (error) {
      this.fd.close();
      throw error;
    }
    this.free = [{ start: 0, end: size }];
  }

  /** First address as ring addresses name it: the one in this process, as the protocol has it. */
  get userAddress(): number {
    return this.mapping.address;
  }

  /** Payload for the memory messages. */
  get description(): Payload<'ADD_MEM_REG'> {
    const { guestAddress, size, userAddress } = this;
    return { guestAddress, size, userAddress, mmapOffset: 0 };
  }

  /** True when no block of it is in use. */
  get isUnused(): boolean {
    const [first] = this.free;
    return first !== undefined && first.start === 0 && first.end === this.size;
  }

  /** Takes the first free range that is large enough; null when there is none. */
  allocate(size: number, alignment: number): SharedBlock | null {
    for (const [index, range] of this.free.entries()) {
      const start = Math.ceil(range.start / alignment) * alignment;
      const end = start + size;
      if (end > range.end) continue;
      const rest = [
        { start: range.start, end: start },
        { start: end, end: range.end },
      ];
      this.free.splice(index, 1, ...rest.filter((part) => part.end > part.start));
      const bytes = this.mapping.bytes(start, size);
      return { region: this, address: this.guestAddress + start, size, bytes };
    }
    return null;
  }

  /** Gives a block back and merges it with its neighbours. */
  release({ address, size }: SharedBlock): void {
    const start = address - this.guestAddress;
    const range = { start, end: start + size };
    const isFree = this.free.some((other) => other.start < range.end && range.start < other.end);
    assert(!isFree, 'a block of shared memory was freed twice');
    const sorted = [...this.free, range].sort((a, b) => a.start - b.start);
    this.free = [];
    for (const next of sorted) {
      const last = this.free.at(-1);
      if (last !== undefined && last.end === next.start) last.end = next.end;
      else this.free.push(next);
    }
  }

  /** @internal Lets memory and file go. */
  retire(): void {
    this.mapping.retire();
    this.fd.close();
  }
}

/** All regions of a front end. */
export class SharedMemory {
  private sorted: SharedRegion[] = [];

  /** Sorted by guest address. */
  get regions(): readonly SharedRegion[] {
    return this.sorted;
  }

  /** First guest address above all regions. */
  get guestAddressEnd(): number {
    const last = this.sorted.at(-1);
    return last === undefined ? 0 : last.guestAddress + last.size;
  }

  /** Makes a region of at least `size` bytes at the lowest guest address that has room. */
  add(size: number): SharedRegion {
    assert(size > 0 && size <= SHARED_REGION_SIZE_MAX, `a region of ${size} bytes`);
    const whole = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
    let guestAddress = GUEST_ADDRESS_FIRST;
    for (const region of this.sorted) {
      if (guestAddress + whole <= region.guestAddress) break;
      guestAddress = region.guestAddress + region.size;
    }
    const added = new SharedRegion(guestAddress, whole);
    this.sorted = [...this.sorted, added].sort((a, b) => a.guestAddress - b.guestAddress);
    return added;
  }

  /** Takes a region out of the list and lets it go. */
  remove(region: SharedRegion): void {
    assert(this.sorted.includes(region), 'an unknown region was removed');
    this.sorted = this.sorted.filter((other) => other !== region);
    region.retire();
  }

  /** Takes `size` bytes, with an alignment in bytes; null when no region has room. */
  allocate(size: number, alignment = 64): SharedBlock | null {
    for (const region of this.sorted) {
      const block = region.allocate(size, alignment);
      if (block !== null) return block;
    }
    return null;
  }

  /** Lets everything go. Views stay safe to read. */
  retire(): void {
    for (const region of this.sorted) region.retire();
    this.sorted = [];
  }
}
