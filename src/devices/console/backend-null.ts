/** An end of a port without any resource: says nothing and swallows all, or what a test wants. */
import { type IovecList, NativeBuffer, type TerminalSize } from '../../native/index.js';
import { GONE, type PortEnd, type PortEvents } from './backend.js';

const COPY_SIZE = 65536;

export class NullEnd implements PortEnd {
  readonly place = 'nowhere';
  isOpen = true;
  size: TerminalSize | null = null;
  /** Set by tests: what the driver sent is kept. */
  heard: Uint8Array | null = null;
  /** Set by tests: how many bytes it takes until it is full. */
  room = Number.POSITIVE_INFINITY;
  /** What is wished for. */
  wanted = { readable: false, writable: false };
  private said = new Uint8Array(0);
  private copyBuffer: NativeBuffer | null = null;
  private readonly events: PortEvents;

  constructor(events: PortEvents) {
    this.events = events;
  }

  read(list: IovecList): number {
    if (!this.isOpen) return GONE;
    if (this.said.length === 0) return 0;
    const copy = this.copies();
    const part = this.said.subarray(0, COPY_SIZE);
    copy.bytes.set(part);
    const size = list.copyFrom(copy.address, part.length);
    this.said = this.said.subarray(size);
    return size;
  }

  write(list: IovecList): number {
    if (!this.isOpen) return GONE;
    let size = Math.min(list.size, this.room);
    if (this.heard !== null) {
      const copy = this.copies();
      size = list.copyTo(copy.address, Math.min(size, COPY_SIZE));
      this.heard = Buffer.concat([this.heard, copy.bytes.subarray(0, size)]);
    }
    this.room -= size;
    return size;
  }

  want(readable: boolean, writable: boolean): void {
    this.wanted = { readable, writable };
  }

  /** For tests: these bytes are there to be read. */
  say(bytes: Uint8Array): void {
    this.said = Buffer.concat([this.said, bytes]);
    if (this.wanted.readable) this.events.ready();
  }

  /** For tests: there is room again. */
  drain(size = Number.POSITIVE_INFINITY): void {
    this.room = size;
    if (this.wanted.writable) this.events.ready();
  }

  /** For tests: somebody came or went, or the size changed. */
  change(isOpen: boolean, size: TerminalSize | null = this.size): void {
    this.isOpen = isOpen;
    this.size = size;
    this.events.changed();
  }

  close(): void {
    this.isOpen = false;
    this.copyBuffer?.free();
    this.copyBuffer = null;
  }

  private copies(): NativeBuffer {
    this.copyBuffer ??= new NativeBuffer(COPY_SIZE);
    return this.copyBuffer;
  }
}
