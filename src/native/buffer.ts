/** Memory at a known address, for the structures that system calls take. */
import { libc } from './libc.js';
import { Mapping } from './mapping.js';

/** Private memory with typed views and its address; 64-bit fields are written as two halves. */
export class NativeBuffer {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  private readonly mapping: Mapping;

  constructor(size: number) {
    this.mapping = Mapping.anonymous(size);
    this.address = this.mapping.address;
    this.bytes = this.mapping.bytes(0, size);
    const { buffer } = this.bytes;
    this.u16 = new Uint16Array(buffer, 0, size >> 1);
    this.u32 = new Uint32Array(buffer, 0, size >> 2);
    this.i32 = new Int32Array(buffer, 0, size >> 2);
  }

  /** Writes a 64-bit value below 2^53 at a byte offset that is a multiple of 4. */
  setU64(offset: number, value: number): void {
    this.u32[offset >> 2] = value;
    this.u32[(offset >> 2) + 1] = value / 4294967296;
  }

  /** Reads a 64-bit value at a byte offset that is a multiple of 4; exact below 2^53. */
  getU64(offset: number): number {
    return this.u32[offset >> 2]! + this.u32[(offset >> 2) + 1]! * 4294967296;
  }

  /** Frees the memory. Idempotent. */
  free(): void {
    this.mapping.retire();
  }
}

/** Most segments that the kernel takes in one vectored call (UIO_MAXIOV). */
export const IOV_MAX = 1024;

/** A growable list of `struct iovec`, reused from call to call. */
export class IovecList {
  /** Number of segments in the list. */
  count = 0;
  /** Sum of the segments' lengths, in bytes. */
  size = 0;
  /** Address of the first segment's memory. */
  firstAddress = 0;
  private buffer: NativeBuffer;
  private capacity: number;

  constructor(capacity = IOV_MAX) {
    this.capacity = capacity;
    this.buffer = new NativeBuffer(capacity * 16);
  }

  /** Address of the first `struct iovec`. It changes when the list grows. */
  get address(): number {
    return this.buffer.address;
  }

  clear(): void {
    this.count = 0;
    this.size = 0;
  }

  push(address: number, size: number): void {
    if (this.count === this.capacity) this.grow();
    if (this.count === 0) this.firstAddress = address;
    const { u32 } = this.buffer;
    const word = this.count << 2;
    u32[word] = address;
    u32[word + 1] = address / 4294967296;
    u32[word + 2] = size;
    u32[word + 3] = size / 4294967296;
    this.count += 1;
    this.size += size;
  }

  private grow(): void {
    const larger = new NativeBuffer(this.capacity * 2 * 16);
    larger.bytes.set(this.buffer.bytes);
    this.buffer.free();
    this.buffer = larger;
    this.capacity *= 2;
  }

  /** Removes the first `size` bytes, as after a short read or write. */
  advance(size: number): void {
    const { buffer } = this;
    let skipped = 0;
    while (skipped < this.count && size >= buffer.getU64(skipped * 16 + 8)) {
      const length = buffer.getU64(skipped * 16 + 8);
      size -= length;
      this.size -= length;
      skipped += 1;
    }
    buffer.bytes.copyWithin(0, skipped * 16, this.count * 16);
    this.count -= skipped;
    if (this.count > 0) this.firstAddress = buffer.getU64(0);
    if (size === 0 || this.count === 0) return;
    buffer.setU64(0, buffer.getU64(0) + size);
    buffer.setU64(8, buffer.getU64(8) - size);
    this.firstAddress = buffer.getU64(0);
    this.size -= size;
  }

  /** Copies the first bytes of the list's memory to `address`: at most `size`. Returns how many. */
  copyTo(address: number, size: number): number {
    return this.copy(size, (part, at, length) => libc.memcpy(address + at, part, length));
  }

  /** Copies `size` bytes at `address`, as many as fit, to the list's memory. Returns how many. */
  copyFrom(address: number, size: number): number {
    return this.copy(size, (part, at, length) => libc.memcpy(part, address + at, length));
  }

  private copy(size: number, move: (part: number, at: number, length: number) => void): number {
    let done = 0;
    for (let i = 0; i < this.count && done < size; i += 1) {
      const length = Math.min(size - done, this.buffer.getU64(i * 16 + 8));
      move(this.buffer.getU64(i * 16), done, length);
      done += length;
    }
    return done;
  }

  /** Frees the memory. */
  free(): void {
    this.buffer.free();
  }
}
