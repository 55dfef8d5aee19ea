/** Memory that io_uring has pinned: a fixed buffer, as the kernel calls it. */

import { IoUring, NativeBuffer } from '../../../dist/native/index.js';
import { errnoName, lastErrno, libc } from '../../../dist/native/libc.js';

const SYS_IO_URING_REGISTER = 427;
const REGISTER_BUFFERS = 0;
export const READ_FIXED = 4;
export const WRITE_FIXED = 5;
const ENTRIES = 1;

/** A region of memory, as the only fixed buffer of a ring. */
export class FixedRegion {
  /** Null when the kernel does not pin the memory. @type {IoUring | null} */
  ring = null;

  /** @param {number} address in this process @param {number} size in bytes */
  constructor(address, size) {
    this.address = address;
    this.size = size;
    const ring = IoUring.create(ENTRIES);
    if (ring === null) throw new Error('this kernel has no io_uring');
    const vector = new NativeBuffer(16);
    vector.setU64(0, address);
    vector.setU64(8, size);
    const words = [ring.descriptor, REGISTER_BUFFERS, vector.address, 1, 0, 0];
    const result = libc.syscall(SYS_IO_URING_REGISTER, ...words);
    /** Why the kernel does not pin it; null when it does. */
    this.error = result < 0 ? errnoName(lastErrno()) : null;
    vector.free();
    if (this.error === null) this.ring = ring;
    else ring.close();
  }

  holds({ address, size }) {
    return address >= this.address && address + size <= this.address + this.size;
  }

  /** Reads or writes a segment; true when all of it went well. */
  transfer(operation, fd, { address, size }, offset) {
    const { ring } = this;
    if (ring === null) return false;
    ring.prepare(operation, fd, address, size, offset, 0);
    ring.submit(1);
    while (!ring.next()) ring.submit(1);
    return ring.completedResult === size;
  }

  close() {
    this.ring?.close();
  }
}
