/**
 * Reader and writer: cursors over the segments of one chain.
 *
 * Nothing is assumed about how a request is cut into descriptors, nor about alignment: a header may
 * lie at an odd address and be split anywhere. A cursor cannot leave its request's own memory.
 */
import type { IovecList } from '../native/index.js';
import { DriverFault } from './fault.js';
import type { Struct } from './struct.js';

/**
 * Most segments of a chain: twice as many as the longest ring and the longest table have together.
 * Only ranges that lie across many tiny regions come near; they must not grow these arrays at will.
 */
const SEGMENT_COUNT_MAX = 131072;

/** Segments of a chain: parallel arrays that grow and are reused from request to request. */
export class SegmentList {
  count = 0;
  /** Address of each segment in this process. */
  addresses = new Float64Array(8);
  /** Address of each segment as the driver named it. */
  guestAddresses = new Float64Array(8);
  /** Size of each segment in bytes: 1 byte to 1 GiB. */
  sizes = new Uint32Array(8);
  /** Index of each segment's first byte in its view. */
  starts = new Uint32Array(8);
  views: Uint8Array[] = [];

  push(address: number, guestAddress: number, size: number, view: Uint8Array, start: number): void {
    const { count } = this;
    if (count === this.sizes.length) this.grow();
    this.addresses[count] = address;
    this.guestAddresses[count] = guestAddress;
    this.sizes[count] = size;
    this.starts[count] = start;
    this.views[count] = view;
    this.count = count + 1;
  }

  private grow(): void {
    const capacity = this.sizes.length * 2;
    if (capacity > SEGMENT_COUNT_MAX) {
      throw new DriverFault('chain-length', `a chain of more than ${this.sizes.length} segments`);
    }
    const enlarge = <T extends Float64Array | Uint32Array>(array: T, empty: T): T => {
      empty.set(array);
      return empty;
    };
    this.addresses = enlarge(this.addresses, new Float64Array(capacity));
    this.guestAddresses = enlarge(this.guestAddresses, new Float64Array(capacity));
    this.sizes = enlarge(this.sizes, new Uint32Array(capacity));
    this.starts = enlarge(this.starts, new Uint32Array(capacity));
  }
}

/** A range of memory of a request, for calls that work in place. */
export interface Segment {
  /** Address in this process. */
  readonly address: number;
  /** Size in bytes. */
  readonly size: number;
}

/** What reader and writer share: a position in a run of segments and a number of bytes left. */
abstract class Cursor {
  /** Bytes between the position and the end. */
  remaining = 0;
  protected readonly segments: SegmentList;
  protected segment = 0;
  protected offset = 0;

  constructor(segments: SegmentList) {
    this.segments = segments;
  }

  /** @internal */
  place(segment: number, offset: number, size: number): void {
    this.segment = segment;
    this.offset = offset;
    this.remaining = size;
  }

  protected require(size: number): void {
    if (size > this.remaining) {
      throw new DriverFault('short', `a request ends ${size - this.remaining} bytes too early`);
    }
  }

  /** Moves on by `size` bytes. @throws DriverFault `short` when fewer are left. */
  protected move(size: number): void {
    this.require(size);
    this.remaining -= size;
    const { sizes } = this.segments;
    let offset = this.offset + size;
    let { segment } = this;
    while (offset > 0 && offset >= sizes[segment]!) {
      offset -= sizes[segment]!;
      segment += 1;
    }
    this.segment = segment;
    this.offset = offset;
  }

  /** Appends the next `size` bytes, as segments, to `list`; the position stays. */
  gather(list: IovecList, size: number): void {
    this.require(size);
    const { addresses, sizes } = this.segments;
    let { segment, offset } = this;
    while (size > 0) {
      const part = Math.min(size, sizes[segment]! - offset);
      list.push(addresses[segment]! + offset, part);
      size -= part;
      segment += 1;
      offset = 0;
    }
  }

  /** Number of segments that the next `size` bytes lie in. */
  countSegments(size: number): number {
    this.require(size);
    const { sizes } = this.segments;
    let count = 0;
    for (let { segment, offset } = this; size > 0; segment += 1, offset = 0, count += 1) {
      size -= sizes[segment]! - offset;
    }
    return count;
  }

  /** True when the next `size` bytes lie in segments whose addresses and sizes all have `unit`. */
  isAligned(size: number, unit: number): boolean {
    this.require(size);
    const { addresses, sizes } = this.segments;
    for (let { segment, offset } = this; size > 0; segment += 1, offset = 0) {
      const part = Math.min(size, sizes[segment]! - offset);
      if ((addresses[segment]! + offset) % unit !== 0 || part % unit !== 0) return false;
      size -= part;
    }
    return true;
  }

  /** The memory from the position to the end of its segment; of size 0 at the end. Allocates. */
  nextSegment(): Segment {
    if (this.remaining === 0) return { address: 0, size: 0 };
    const { addresses, sizes } = this.segments;
    const size = Math.min(this.remaining, sizes[this.segment]! - this.offset);
    return { address: addresses[this.segment]! + this.offset, size };
  }

  /** The segments that are left. Allocates; the data path uses {@link gather}. */
  *[Symbol.iterator](): Generator<Segment> {
    const { addresses, sizes } = this.segments;
    let left = this.remaining;
    for (let { segment, offset } = this; left > 0; segment += 1, offset = 0) {
      const size = Math.min(left, sizes[segment]! - offset);
      yield { address: addresses[segment]! + offset, size };
      left -= size;
    }
  }
}

/** Reads the device-readable part of a request, from its start to its end. */
export class ChainReader extends Cursor {
  /** Next byte. @throws DriverFault `short` at the end, as do all reads. */
  readU8(): number {
    this.require(1);
    const { segments, segment, offset } = this;
    const value = segments.views[segment]![segments.starts[segment]! + offset]!;
    this.move(1);
    return value;
  }

  /** Next little-endian 16-bit number. */
  readU16(): number {
    return this.readU8() | (this.readU8() << 8);
  }

  /** Next little-endian 32-bit number. */
  readU32(): number {
    const { segments, segment, offset } = this;
    if (this.remaining >= 4 && segments.sizes[segment]! - offset >= 4) {
      const view = segments.views[segment]!;
      const at = segments.starts[segment]! + offset;
      const value = view[at]! | (view[at + 1]! << 8) | (view[at + 2]! << 16);
      this.move(4);
      return (value | (view[at + 3]! << 24)) >>> 0;
    }
    this.require(4);
    return (this.readU16() | (this.readU16() << 16)) >>> 0;
  }

  /** Next little-endian 64-bit number; inexact, but never smaller than 2^53, from there on. */
  readU64(): number {
    const low = this.readU32();
    return low + this.readU32() * 4294967296;
  }

  /** Copies the next bytes into `target` and returns how many: less than its size at the end. */
  read(target: Uint8Array): number {
    const size = Math.min(target.length, this.remaining);
    const { segments } = this;
    let done = 0;
    while (done < size) {
      const { segment, offset } = this;
      const part = Math.min(size - done, segments.sizes[segment]! - offset);
      const start = segments.starts[segment]! + offset;
      target.set(segments.views[segment]!.subarray(start, start + part), done);
      done += part;
      this.move(part);
    }
    return size;
  }

  /** Takes the next structure. @throws DriverFault `short` when it is not all there. */
  take<T>(struct: Struct<T>): T {
    this.require(struct.size);
    const bytes = new Uint8Array(struct.size);
    this.read(bytes);
    return struct.decode(bytes);
  }

  /** Leaves out the next `size` bytes. */
  skip(size: number): void {
    this.move(size);
  }
}

/** Writes the device-writable part of a request; the used length comes from what was written. */
export class ChainWriter extends Cursor {
  /** Bytes written so far, in one piece from the writer's start. */
  written = 0;
  /** Size of the whole part in bytes. */
  size = 0;
  private tail: ChainWriter | null = null;
  private tailTaken = false;

  /** @internal */
  override place(segment: number, offset: number, size: number): void {
    super.place(segment, offset, size);
    this.written = 0;
    this.size = size;
    this.tailTaken = false;
  }

  /** Bytes written in one piece from the start, the tail included when it follows on. */
  get usedLength(): number {
    if (!this.tailTaken || this.written < this.size) return this.written;
    return this.written + this.tail!.usedLength;
  }

  /**
   * Splits off the last `size` bytes as a writer of their own, for a status field whose place is
   * at the end. May be called once a request, before anything is written.
   *
   * @throws DriverFault `short` when the part is smaller than `size`.
   */
  splitTail(size: number): ChainWriter {
    this.require(size);
    const head = this.remaining - size;
    const { segments } = this;
    let { segment, offset } = this;
    for (let left = head; left > 0; ) {
      const part = Math.min(left, segments.sizes[segment]! - offset);
      left -= part;
      offset += part;
      if (offset === segments.sizes[segment]! && (left > 0 || size > 0)) {
        segment += 1;
        offset = 0;
      }
    }
    this.tail ??= new ChainWriter(segments);
    this.tail.place(segment, offset, size);
    this.tailTaken = true;
    this.remaining = head;
    this.size = head;
    return this.tail;
  }

  /** Writes one byte. @throws DriverFault `short` when there is no room, as do all writes. */
  writeU8(value: number): void {
    this.require(1);
    const { segments, segment, offset } = this;
    segments.views[segment]![segments.starts[segment]! + offset] = value;
    this.advance(1);
  }

  /** Writes a little-endian 16-bit number. */
  writeU16(value: number): void {
    this.require(2);
    this.writeU8(value);
    this.writeU8(value >>> 8);
  }

  /** Writes a little-endian 32-bit number. */
  writeU32(value: number): void {
    this.require(4);
    this.writeU16(value);
    this.writeU16(value >>> 16);
  }

  /** Writes a little-endian 64-bit number below 2^53. */
  writeU64(value: number): void {
    this.require(8);
    this.writeU32(value);
    this.writeU32(value / 4294967296);
  }

  /** Copies as much of `source` as there is room for, and returns how many bytes. */
  write(source: Uint8Array): number {
    const size = Math.min(source.length, this.remaining);
    const { segments } = this;
    let done = 0;
    while (done < size) {
      const { segment, offset } = this;
      const part = Math.min(size - done, segments.sizes[segment]! - offset);
      segments.views[segment]!.set(
        source.subarray(done, done + part),
        segments.starts[segment]! + offset,
      );
      done += part;
      this.advance(part);
    }
    return size;
  }

  /** Writes a structure. */
  put<T>(struct: Struct<T>, value: T): void {
    this.require(struct.size);
    this.write(struct.encode(value));
  }

  /** Counts `size` bytes as written: a system call put them there, through {@link gather}. */
  advance(size: number): void {
    this.move(size);
    this.written += size;
  }
}
