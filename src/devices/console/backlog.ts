/**
 * What a console said and nobody read yet. The driver of a console waits for each request with its
 * processor doing nothing else, so a slow reader must not hold a request up: it is put aside here,
 * and what is too much is lost.
 */
import { IovecList, NativeBuffer } from '../../native/index.js';
import type { ChainReader } from '../../virtio/index.js';
import type { PortEnd } from './backend.js';

const BACKLOG_SIZE = 256 * 1024;

export class Backlog {
  private readonly buffer = new NativeBuffer(BACKLOG_SIZE);
  private readonly list = new IovecList(1);
  private start = 0;
  private end = 0;

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

  pushByte(byte: number): void {
    this.makeRoom(1);
    if (this.end === BACKLOG_SIZE) return;
    this.buffer.bytes[this.end] = byte;
    this.end += 1;
  }

  private makeRoom(size: number): void {
    if (this.end + size <= BACKLOG_SIZE || this.start === 0) return;
    this.buffer.bytes.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
  }

  /** Gives as much as the end takes; what nobody is there for is forgotten. */
  flush(to: PortEnd): void {
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
