/**
 * The memory that a front end shares (SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG): descriptors become
 * mappings, mappings become regions of a {@link MemoryMap}.
 */
import { fstatSync } from 'node:fs';
import { VloError } from '../errors.js';
import { type Fd, Mapping, PAGE_SIZE, sealAgainstShrinking } from '../native/index.js';
import { MemoryMap, MemoryRegion } from '../virtio/index.js';
import { MEM_SLOTS_MAX } from './messages-constants.js';

/** A region as messages describe it; all in bytes. */
export interface RegionDescription {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  /** Where the region starts in its file. */
  readonly mmapOffset: number;
}

const GIB = 2 ** 30;

function mapRegion(fd: Fd, description: RegionDescription): MemoryRegion {
  const { guestAddress, size, userAddress, mmapOffset } = description;
  const isSane =
    size > 0 &&
    Number.isSafeInteger(guestAddress + size) &&
    Number.isSafeInteger(userAddress + size) &&
    Number.isSafeInteger(mmapOffset + size);
  if (!isSane) {
    throw new VloError(
      'VLO_PROTOCOL',
      `a memory region of ${size} bytes at guest address 0x${guestAddress.toString(16)}`,
    );
  }
  // Huge page files map at multiples of their page only, which their block size tells.
  const stat = fstatSync(fd.number);
  const { blksize } = stat;
  const isHuge = stat.isFile() && blksize > PAGE_SIZE && blksize <= GIB;
  const unit = isHuge && Number.isInteger(Math.log2(blksize)) ? blksize : PAGE_SIZE;
  const lead = mmapOffset % unit;
  sealAgainstShrinking(fd.number);
  const mapping = Mapping.shared(fd.number, lead + size, { offset: mmapOffset - lead });
  return new MemoryRegion(mapping, lead, guestAddress, userAddress, size);
}

function overlap({ guestAddress, size }: RegionDescription): VloError {
  const end = guestAddress + size - 1;
  return new VloError(
    'VLO_PROTOCOL',
    `the memory region 0x${guestAddress.toString(16)}-0x${end.toString(16)} overlaps another one`,
  );
}

export class GuestMemory {
  /** What rings and requests look addresses up in; the same object for the session's life. */
  readonly map = new MemoryMap();

  /**
   * Maps a whole new table without touching the present one.
   * @throws VloError when a region cannot be mapped, or overlaps another.
   */
  prepare(descriptions: readonly RegionDescription[], fds: readonly Fd[]): MemoryRegion[] {
    const trial = new MemoryMap();
    try {
      for (const [index, description] of descriptions.entries()) {
        const region = mapRegion(fds[index]!, description);
        if (trial.add(region)) continue;
        region.mapping.retire();
        throw overlap(description);
      }
    } catch (error) {
      for (const region of trial.clear()) region.mapping.retire();
      throw error;
    }
    return [...trial.regions];
  }

  /** Puts a prepared table in place of the present one. Nobody may be using the memory. */
  replace(regions: readonly MemoryRegion[]): void {
    this.clear();
    for (const region of regions) this.map.add(region);
  }

  /** Adds one region; those that are there stay as they are. @throws VloError */
  add(description: RegionDescription, fd: Fd): void {
    if (this.map.regions.length >= MEM_SLOTS_MAX) {
      throw new VloError('VLO_PROTOCOL', `more than ${MEM_SLOTS_MAX} memory regions`);
    }
    const region = mapRegion(fd, description);
    if (this.map.add(region)) return;
    region.mapping.retire();
    throw overlap(description);
  }

  /** Whether a region with exactly these addresses and this size is there. */
  has({ guestAddress, userAddress, size }: RegionDescription): boolean {
    return this.map.regions.some(
      (r) => r.guestAddress === guestAddress && r.userAddress === userAddress && r.size === size,
    );
  }

  /** Removes the region with exactly these addresses and this size. Nobody may be using it. */
  remove({ guestAddress, userAddress, size }: RegionDescription): void {
    this.map.remove(guestAddress, userAddress, size)?.mapping.retire();
  }

  /** Lets all memory go. */
  clear(): void {
    for (const region of this.map.clear()) region.mapping.retire();
  }
}
