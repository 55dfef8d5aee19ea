/**
 * Memory mappings with one owner.
 *
 * JavaScript views of a mapping outlive `munmap`, and a read through one would kill the process.
 * A mapping is therefore *retired*: anonymous memory replaces it at the same address, so that stale
 * views read zeros and the file behind it is let go at once; the address range itself is unmapped
 * when the garbage collector has taken the last view.
 */
import { fstatSync } from 'node:fs';
import { assert, SystemError, VloError } from '../errors.js';
import { errnoName, lastErrno, libc, viewMemory } from './libc.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
export const PAGE_SIZE = 4096;

const GIB = 2 ** 30;
/** Distance in bytes between the starts of two neighbouring windows of a mapping. */
export const WINDOW_STRIDE = GIB;
/** Size in bytes of a window: twice the stride, so any range of up to 1 GiB lies in one window. */
export const WINDOW_SIZE = 2 * GIB;

function mapMemory(
  fixedAddress: number,
  size: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
): number {
  const address = libc.mmap(fixedAddress, size, protection, flags, fd, offset);
  // MAP_FAILED is all ones: as an unsigned value beyond what a number can hold (koffi: a BigInt).
  if (!Number.isSafeInteger(address)) {
    throw new SystemError('mmap', errnoName(lastErrno()), `${size} bytes`);
  }
  return address;
}

/** Address ranges that wait for their last view to be collected. */
interface RetiredRange {
  readonly address: number;
  readonly size: number;
  viewCount: number;
  retired: boolean;
}

let liveCount = 0;
let retiredCount = 0;

const collected = new FinalizationRegistry<RetiredRange>((range) => {
  range.viewCount -= 1;
  if (range.viewCount === 0 && range.retired) unmapRange(range);
});

function unmapRange(range: RetiredRange): void {
  libc.munmap(range.address, range.size);
  retiredCount -= 1;
}

/** How many mappings are owned, and how many retired ranges wait for the garbage collector. */
export function mappingCounts(): { live: number; retired: number } {
  return { live: liveCount, retired: retiredCount };
}

export interface MapOptions {
  /** Offset in the file, in bytes, a multiple of the page size. */
  readonly offset?: number;
  /** Map without write permission. */
  readonly readOnly?: boolean;
}

/** A range of memory, of a file or anonymous, that this object owns until {@link retire}. */
export class Mapping {
  /** Address of the first byte; 0 after {@link retire}. */
  address: number;
  /** Size in bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  private readonly windows: (Uint8Array | undefined)[] = [];
  private readonly dataViews: (DataView | undefined)[] = [];
  private readonly range: RetiredRange;

  private constructor(address: number, size: number, mappedSize: number, readOnly: boolean) {
    this.address = address;
    this.size = size;
    this.readOnly = readOnly;
    this.range = { address, size: mappedSize, viewCount: 0, retired: false };
    liveCount += 1;
  }

  /**
   * Maps `size` bytes of the file `fd`, shared. The descriptor may be closed afterwards.
   *
   * @throws VloError VLO_PROTOCOL when a regular file is shorter than the range (access past its
   * end would end the process); {@link SystemError} when the kernel refuses.
   */
  static shared(fd: number, size: number, options: MapOptions = {}): Mapping {
    const offset = options.offset ?? 0;
    const stat = fstatSync(fd);
    if (stat.isFile() && offset + size > stat.size) {
      throw new VloError(
        'VLO_PROTOCOL',
        `a memory region of ${size} bytes at file offset ${offset} is larger than its file ` +
          `(${stat.size} bytes)`,
      );
    }
    // Huge page files want whole huge pages; their block size tells. Elsewhere this only rounds up.
    const unit = Math.max(PAGE_SIZE, stat.isFile() ? Math.min(stat.blksize, GIB) : PAGE_SIZE);
    const mappedSize = Math.ceil(size / unit) * unit;
    const protection = options.readOnly === true ? PROT_READ : PROT_READ | PROT_WRITE;
    const address = mapMemory(0, mappedSize, protection, MAP_SHARED, fd, offset);
    return new Mapping(address, size, mappedSize, options.readOnly === true);
  }

  /** Maps `size` bytes of zeroed private memory. */
  static anonymous(size: number): Mapping {
    const mappedSize = Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS;
    const address = mapMemory(0, mappedSize, PROT_READ | PROT_WRITE, flags, -1, 0);
    return new Mapping(address, size, mappedSize, false);
  }

  /** Index of the window that holds any range of up to 1 GiB which starts at `offset`. */
  windowIndex(offset: number): number {
    if (this.size <= WINDOW_SIZE) return 0; // Nearly always, and asked for each segment.
    const index = Math.floor(offset / WINDOW_STRIDE);
    // The last window may start up to 2 GiB before the end.
    return index > 0 && index * WINDOW_STRIDE + GIB >= this.size ? index - 1 : index;
  }

  /** Bytes of the window with the given index, made at its first use and kept. */
  window(index: number): Uint8Array {
    return this.windows[index] ?? this.openWindow(index);
  }

  /** The same window for numbers at any alignment. */
  windowData(index: number): DataView {
    const data = this.dataViews[index];
    if (data !== undefined) return data;
    const { buffer, byteOffset, byteLength } = this.window(index);
    const opened = new DataView(buffer, byteOffset, byteLength);
    this.dataViews[index] = opened;
    return opened;
  }

  private openWindow(index: number): Uint8Array {
    assert(this.address !== 0, 'a view of a retired mapping was asked for');
    const start = index * WINDOW_STRIDE;
    assert(start < this.size, `window ${index} lies outside a mapping of ${this.size} bytes`);
    const size = Math.min(WINDOW_SIZE, this.size - start);
    const buffer = viewMemory(this.address + start, size);
    this.range.viewCount += 1;
    collected.register(buffer, this.range);
    const bytes = new Uint8Array(buffer);
    this.windows[index] = bytes;
    return bytes;
  }

  /** A view of `size` bytes (at most 1 GiB) from `offset`. Allocates: not for the data path. */
  bytes(offset: number, size: number): Uint8Array {
    assert(offset >= 0 && size >= 0 && size <= GIB, 'a view is limited to 1 GiB');
    assert(offset + size <= this.size, `range ${offset}+${size} lies outside the mapping`);
    if (size === 0) return new Uint8Array(0);
    const index = this.windowIndex(offset);
    const start = offset - index * WINDOW_STRIDE;
    return this.window(index).subarray(start, start + size);
  }

  /** Lets the memory go. Existing views stay safe to read and then see zeros. Idempotent. */
  retire(): void {
    if (this.address === 0) return;
    const { range } = this;
    this.windows.length = 0;
    this.dataViews.length = 0;
    this.address = 0;
    liveCount -= 1;
    range.retired = true;
    retiredCount += 1;
    if (range.viewCount === 0) {
      unmapRange(range);
      return;
    }
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    mapMemory(range.address, range.size, PROT_READ | PROT_WRITE, flags, -1, 0);
  }

  [Symbol.dispose](): void {
    this.retire();
  }
}
