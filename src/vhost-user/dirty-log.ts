/**
 * The dirty log of live migration (vhost-user, section Migration): one bit for each page of 4 KiB
 * of guest memory, in memory that the front end shares. It reads and clears the bits while we set
 * them, so every access is atomic.
 */
import { VloError } from '../errors.js';
import { type Fd, Mapping, signalEvent } from '../native/index.js';
import type { DirtyLog } from '../virtio/index.js';

/** Size of a page of the log in bytes (VHOST_LOG_PAGE). */
export const LOG_PAGE_SIZE = 4096;
/** Largest log in bytes; it covers 32 TiB of guest memory. One view holds it whole. */
export const LOG_SIZE_MAX = 2 ** 30;

export class LogBitmap implements DirtyLog {
  /** Eventfd that is signalled when pages become dirty (SET_LOG_FD), or -1. */
  signalFd = -1;
  private readonly mapping: Mapping;
  private readonly bits: Uint8Array;

  private constructor(mapping: Mapping, bits: Uint8Array) {
    this.mapping = mapping;
    this.bits = bits;
  }

  /**
   * Maps the log that SET_LOG_BASE describes. The descriptor stays the caller's.
   * @throws VloError VLO_PROTOCOL when size, offset and file do not fit together.
   */
  static map(fd: Fd, offset: number, size: number): LogBitmap {
    if (size < 1 || size > LOG_SIZE_MAX || !Number.isSafeInteger(offset)) {
      throw new VloError('VLO_PROTOCOL', `a dirty log of ${size} bytes at offset ${offset}`);
    }
    // The offset need not be a multiple of the page size; a mapping's has to be.
    const lead = offset % LOG_PAGE_SIZE;
    const mapping = Mapping.shared(fd.number, lead + size, { offset: offset - lead });
    return new LogBitmap(mapping, mapping.bytes(lead, size));
  }

  /** Marks the pages of a range. Pages beyond the log's end are not the front end's concern. */
  mark(guestAddress: number, size: number): void {
    if (size <= 0) return;
    const { bits } = this;
    const pageEnd = bits.length * 8;
    const last = Math.min(Math.floor((guestAddress + size - 1) / LOG_PAGE_SIZE), pageEnd - 1);
    let changed = false;
    for (let page = Math.floor(guestAddress / LOG_PAGE_SIZE); page <= last; ) {
      const bit = page % 8;
      const at = (page - bit) / 8;
      const count = Math.min(8 - bit, last - page + 1);
      const mask = ((1 << count) - 1) << bit;
      // Always a read-modify-write: as a full barrier it puts our write to the page before the bit,
      // also where the bit was set before.
      if ((Atomics.or(bits, at, mask) & mask) !== mask) changed = true;
      page += count;
    }
    if (changed && this.signalFd >= 0) signalEvent(this.signalFd);
  }

  /** Lets the memory go. */
  retire(): void {
    this.mapping.retire();
  }
}
