/**
 * Bytes that were taken from a driver and that the other end has not taken yet: for drivers that
 * must not be held up by it.
 */
import { IovecList, NativeBuffer } from '../native/index.js';
import type { ChainReader } from '../virtio/index.js';
import type { ByteEnd } from './byte-stream.js';

export class ByteBacklog {
  private readonly buffer: NativeBuffer;
  private readonly list = new IovecList(1);
  private start = 0;
  private end = 0;

  /** Holds up to `size` bytes. */
  constructor(size: number) {
    this.buffer = new NativeBuffer(size);
  }

  get isEmpty(): boolean {
    return this.start === this.end;
  }

  /** Takes as much as there is room for. Returns how many bytes. */
  push(reader: ChainReader): number {
    this.makeRoom(reader.remaining);
    const size = reader.read(this.buffer.bytes.subarray(this.end));
    this.end += size;
    return size;
  }

  /** Takes one byte, or loses it. */
  pushByte(byte: number): void {
    this.makeRoom(1);
    if (this.end === this.buffer.bytes.length) return;
    this.buffer.bytes[this.end] = byte;
    this.end += 1;
  }

  private makeRoom(size: number): void {
    if (this.end + size <= this.buffer.bytes.length || this.start === 0) return;
    this.buffer.bytes.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
  }

  /** Gives as much as the end takes; what nobody is there for is forgotten. */
  flush(to: ByteEnd): void {
    while (this.start < this.end) {
      this.list.clear();
      this.list.push(this.buffer.address + this.start, this.end - this.start);
      const size = to.write(this.list);
      if (size === 0) return;
      this.start = size < 0 ? this.end : this.start + size;
    }
    this.clear();
  }

  clear(): void {
    this.start = 0;
    this.end = 0;
  }

  free(): void {
    this.list.free();
    this.buffer.free();
  }
}
