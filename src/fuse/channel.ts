/**
 * Requests from the kernel and replies to it, through the descriptor of a mount. Nothing is
 * allocated for a request.
 *
 *   one read   │ header (40) │ 40 bytes more │ payload …        │
 *              └──────────── head ───────────┴── memory given ──┘
 *
 * WRITE has exactly 80 bytes before its data, so the data arrives alone, and page-aligned, in the
 * memory that the caller gives: a ring can name it as it is.
 */
import { ERRNO, type Fd, NativeBuffer, readVector, writeVector } from '../native/index.js';
import { FuseInHeader, FuseOutHeader } from './messages.js';
import { FUSE_RING_MARK, type FuseRing } from './ring.js';

const HEADER_SIZE = FuseInHeader.size;
/** Bytes of a request that do not go to the payload's memory: as much as WRITE has. */
export const FUSE_HEAD_SIZE = 80;
/** Longest request other than WRITE that is kept: two names of a path's length. */
const MESSAGE_SIZE_MAX = 16 * 1024;

const HEAD = 0;
const OUT = 128;
const IN_VECTOR = 160;
const OUT_VECTOR = 192;
const BODY = 256;

/** What {@link FuseChannel.receive} returns when there is nothing to read, or nothing any more. */
export const FUSE_NOTHING = 0;
export const FUSE_ENDED = -1;

export class FuseChannel {
  /** Fields of the last request. The number that the reply names is 64 bits, here in two halves. */
  opcode = 0;
  nodeid = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** Bytes after the header, wherever they lie. */
  bodySize = 0;
  readonly descriptor: number;
  /** Requests that came through it are answered through it. */
  ring: FuseRing | null = null;
  private readonly fd: Fd;
  private readonly memory = new NativeBuffer(BODY + MESSAGE_SIZE_MAX);
  private payload: Uint8Array = new Uint8Array(0);

  /** Takes over the descriptor, which does not wait in reads. */
  constructor(fd: Fd) {
    this.fd = fd;
    this.descriptor = fd.number;
    const { memory } = this;
    memory.setU64(IN_VECTOR, memory.address + HEAD);
    memory.setU64(IN_VECTOR + 8, FUSE_HEAD_SIZE);
    memory.setU64(OUT_VECTOR, memory.address + OUT);
    memory.setU64(OUT_VECTOR + 8, FuseOutHeader.size);
  }

  /**
   * Reads the next request: what exceeds the head goes to `size` bytes at `address`, which are
   * `payload` in this process.
   * @returns the request's size in bytes, {@link FUSE_NOTHING} or {@link FUSE_ENDED}
   */
  receive(address: number, payload: Uint8Array): number {
    // The descriptor's number may be another file's by now.
    if (!this.fd.isOpen) return FUSE_ENDED;
    const { memory } = this;
    const { u32 } = memory;
    memory.setU64(IN_VECTOR + 16, address);
    u32[(IN_VECTOR + 24) >> 2] = payload.length;
    u32[(IN_VECTOR + 28) >> 2] = 0;
    const received = readVector(this.descriptor, memory.address + IN_VECTOR, 2);
    if (received < HEADER_SIZE) {
      return received === -ERRNO.ENODEV! ? FUSE_ENDED : FUSE_NOTHING;
    }
    this.payload = payload;
    this.bodySize = received - HEADER_SIZE;
    this.opcode = u32[1]!;
    this.uniqueLow = u32[2]!;
    this.uniqueHigh = u32[3]!;
    this.nodeid = u32[4]! + u32[5]! * 4294967296;
    return received;
  }

  /** A 32-bit number of the fixed part, at a byte offset that is a multiple of 4, below 40. */
  u32(offset: number): number {
    return this.memory.u32[(HEADER_SIZE + offset) >> 2]!;
  }

  /** A 64-bit number of the fixed part; exact below 2^53. */
  u64(offset: number): number {
    return this.u32(offset) + this.u32(offset + 4) * 4294967296;
  }

  /** A copy of all that follows the header. Allocates: not for reads and writes. */
  body(): Uint8Array {
    const size = Math.min(this.bodySize, MESSAGE_SIZE_MAX);
    const body = new Uint8Array(size);
    const inHead = Math.min(size, FUSE_HEAD_SIZE - HEADER_SIZE);
    body.set(this.memory.bytes.subarray(HEADER_SIZE, HEADER_SIZE + inHead));
    body.set(this.payload.subarray(0, size - inHead), inHead);
    return body;
  }

  /** Fields of the sender: user, group, process. */
  get sender(): { uid: number; gid: number; pid: number } {
    const { uid, gid, pid } = FuseInHeader.decode(this.memory.bytes);
    return { uid, gid, pid };
  }

  /** Ends a request with an errno (positive), or with success and nothing more (0). */
  replyStatus(uniqueLow: number, uniqueHigh: number, errno: number): void {
    if (uniqueHigh === FUSE_RING_MARK) this.ring?.replyStatus(uniqueLow, errno);
    else this.reply(uniqueLow, uniqueHigh, -errno, 0, 0);
  }

  /** Ends a request with `size` bytes of memory at `address`. */
  replyMemory(uniqueLow: number, uniqueHigh: number, address: number, size: number): void {
    if (uniqueHigh === FUSE_RING_MARK) this.ring?.replyMemory(uniqueLow, address, size);
    else this.reply(uniqueLow, uniqueHigh, 0, address, size);
  }

  /** Ends a request with bytes. */
  replyBytes(uniqueLow: number, uniqueHigh: number, bytes: Uint8Array): void {
    if (uniqueHigh === FUSE_RING_MARK) {
      this.ring?.replyBytes(uniqueLow, bytes);
      return;
    }
    this.memory.bytes.set(bytes, BODY);
    this.reply(uniqueLow, uniqueHigh, 0, this.memory.address + BODY, bytes.length);
  }

  /** Ends a WRITE: so many bytes were written. */
  replyWritten(uniqueLow: number, uniqueHigh: number, size: number): void {
    if (uniqueHigh === FUSE_RING_MARK) {
      this.ring?.replyWritten(uniqueLow, size);
      return;
    }
    const { u32, address } = this.memory;
    u32[BODY >> 2] = size;
    u32[(BODY >> 2) + 1] = 0;
    this.reply(uniqueLow, uniqueHigh, 0, address + BODY, 8);
  }

  /** Tells the kernel something that answers no request; `code` is one of FUSE_NOTIFY. */
  notify(code: number, bytes: Uint8Array): void {
    this.memory.bytes.set(bytes, BODY);
    this.reply(0, 0, code, this.memory.address + BODY, bytes.length);
  }

  private reply(
    uniqueLow: number,
    uniqueHigh: number,
    error: number,
    address: number,
    size: number,
  ): void {
    // Requests may come back from the device after the mount is gone.
    if (!this.fd.isOpen) return;
    const { memory } = this;
    const { u32 } = memory;
    u32[OUT >> 2] = FuseOutHeader.size + size;
    u32[(OUT >> 2) + 1] = error;
    u32[(OUT >> 2) + 2] = uniqueLow;
    u32[(OUT >> 2) + 3] = uniqueHigh;
    memory.setU64(OUT_VECTOR + 16, address);
    u32[(OUT_VECTOR + 24) >> 2] = size;
    // A request that was given up meanwhile (ENOENT) or a mount that has ended need no reply.
    writeVector(this.descriptor, memory.address + OUT_VECTOR, size === 0 ? 1 : 2);
  }

  /** Closes the descriptor, which ends the mount: who waits gets ENOTCONN. Idempotent. */
  close(): void {
    if (!this.fd.isOpen) return;
    this.ring?.close();
    this.ring = null;
    this.fd.close();
    this.memory.free();
  }
}
