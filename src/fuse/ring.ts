/**
 * FUSE over io_uring (Linux 6.14 and newer): requests arrive in entries that were handed to the
 * kernel before, and an answer and the wish for the next request are one command. Many of them
 * share one system call.
 *
 *   entry   │ header (288 bytes) │ payload: memory that the caller gives │
 *
 * The kernel has a queue for each processor, and wants an entry in each before it uses any.
 * FORGET and INTERRUPT still come through the descriptor of the mount.
 */
import { readFileSync } from 'node:fs';
import { IoUring, NativeBuffer } from '../native/index.js';
import { FuseInHeader, FuseOutHeader } from './messages.js';

const REGISTER = 1;
const COMMIT_AND_FETCH = 2;

// Layout of `struct fuse_uring_req_header`.
const OPERATION = 128;
const COMMIT_ID = 264;
const PAYLOAD_SIZE = 272;
const HEADER_SIZE = 288;
/** Distance of the headers of two entries, with the two iovecs of the entry behind the header. */
const STRIDE = 384;
const VECTORS = 320;

/** Stands for the high half of a request's number when the low half is the number of an entry. */
export const FUSE_RING_MARK = 0xffffffff;

/** Memory of an entry. */
export interface RingPayload {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Processors that the kernel may ever have: it has as many queues. */
export function possibleProcessors(): number {
  const text = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return Number(text.split('-').at(-1)) + 1;
}

/** True when mounts may use io_uring: off by default, switched on by the machine's owner. */
export function isFuseRingEnabled(): boolean {
  try {
    return readFileSync('/sys/module/fuse/parameters/enable_uring', 'latin1').startsWith('Y');
  } catch {
    return false;
  }
}

export class FuseRing {
  // The request that `next` took last, as `FuseChannel` has it.
  opcode = 0;
  nodeid = 0;
  uniqueLow = 0;
  readonly uniqueHigh = FUSE_RING_MARK;
  bodySize = 0;
  private base = 0;
  private readonly uring: IoUring;
  private readonly device: number;
  private readonly queueCount: number;
  private payloads: readonly RingPayload[] = [];
  private readonly headers: NativeBuffer;

  private constructor(uring: IoUring, device: number, queueCount: number, entryCount: number) {
    this.uring = uring;
    this.device = device;
    this.queueCount = queueCount;
    this.headers = new NativeBuffer(entryCount * STRIDE);
  }

  /**
   * Makes the ring; entry `i` belongs to queue `i % queueCount`. Null where there is no io_uring
   * with wide entries.
   */
  static create(device: number, queueCount: number, entryCount: number): FuseRing | null {
    const uring = IoUring.create(entryCount, entryCount * 2, true);
    return uring === null ? null : new FuseRing(uring, device, queueCount, entryCount);
  }

  /** Gives each entry its memory, of which the mount's largest transfer needs to fit in. */
  lend(payloads: readonly RingPayload[]): void {
    this.payloads = payloads;
  }

  /** Hands the entries to the kernel: right after INIT was answered, with OVER_IO_URING. */
  start(): void {
    for (let i = 0; i < this.payloads.length; i += 1) this.register(i);
    this.uring.submit();
  }

  private register(entry: number): void {
    const { headers } = this;
    const at = entry * STRIDE;
    const { address, bytes } = this.payloads[entry]!;
    headers.setU64(at + VECTORS, headers.address + at);
    headers.setU64(at + VECTORS + 8, HEADER_SIZE);
    headers.setU64(at + VECTORS + 16, address);
    headers.setU64(at + VECTORS + 24, bytes.length);
    const vectors = headers.address + at + VECTORS;
    const queue = entry % this.queueCount;
    this.uring.prepareCommand(this.device, REGISTER, vectors, 2, 0, 0, queue, entry);
  }

  /** Descriptor that is readable when there are requests. */
  get descriptor(): number {
    return this.uring.descriptor;
  }

  /** Takes the next request; false when there is none. */
  next(): boolean {
    const { uring, headers } = this;
    while (uring.next()) {
      // An entry that the kernel gave back: the mount is ending.
      if (uring.completedResult < 0) continue;
      const entry = uring.completedData;
      const word = (entry * STRIDE) >> 2;
      this.base = word;
      this.uniqueLow = entry;
      this.opcode = headers.u32[word + 1]!;
      this.nodeid = headers.u32[word + 4]! + headers.u32[word + 5]! * 4294967296;
      this.bodySize = headers.u32[word]! - FuseInHeader.size;
      return true;
    }
    return false;
  }

  /** A 32-bit number of the fixed part, at a byte offset that is a multiple of 4. */
  u32(offset: number): number {
    return this.headers.u32[this.base + ((OPERATION + offset) >> 2)]!;
  }

  /** A 64-bit number of the fixed part; exact below 2^53. */
  u64(offset: number): number {
    return this.u32(offset) + this.u32(offset + 4) * 4294967296;
  }

  /** A copy of all that follows the header: the fixed part, then what lies in the payload. */
  body(): Uint8Array {
    const { headers, base } = this;
    const payloadSize = headers.u32[base + (PAYLOAD_SIZE >> 2)]!;
    const fixedSize = Math.max(0, Math.min(this.bodySize - payloadSize, COMMIT_ID - OPERATION - 8));
    const at = base * 4 + OPERATION;
    const payload = this.payloads[this.uniqueLow]!.bytes;
    const body = new Uint8Array(fixedSize + Math.min(payloadSize, payload.length));
    body.set(headers.bytes.subarray(at, at + fixedSize));
    body.set(payload.subarray(0, body.length - fixedSize), fixedSize);
    return body;
  }

  /** The entry whose request has this number; -1 when there is none. */
  find(low: number, high: number): number {
    const { u32 } = this.headers;
    for (let entry = 0; entry < this.payloads.length; entry += 1) {
      const word = (entry * STRIDE + COMMIT_ID) >> 2;
      if (u32[word] === low && u32[word + 1] === high) return entry;
    }
    return -1;
  }

  /** Ends an entry's request with an errno (positive) or 0, and no bytes. */
  replyStatus(entry: number, errno: number): void {
    this.commit(entry, -errno, 0);
  }

  /** Ends it with `size` bytes at an address in its payload: best at the start of it. */
  replyMemory(entry: number, address: number, size: number): void {
    const payload = this.payloads[entry]!;
    const at = address - payload.address;
    if (at !== 0) payload.bytes.copyWithin(0, at, at + size);
    this.commit(entry, 0, size);
  }

  /** Ends it with bytes. */
  replyBytes(entry: number, bytes: Uint8Array): void {
    this.payloads[entry]!.bytes.set(bytes);
    this.commit(entry, 0, bytes.length);
  }

  /** Ends a WRITE: so many bytes were written. */
  replyWritten(entry: number, size: number): void {
    const { bytes } = this.payloads[entry]!;
    for (let i = 0; i < 8; i += 1) bytes[i] = i < 4 ? (size >>> (8 * i)) & 0xff : 0;
    this.commit(entry, 0, 8);
  }

  private commit(entry: number, error: number, size: number): void {
    const { headers, uring } = this;
    const { u32 } = headers;
    const word = (entry * STRIDE) >> 2;
    const idLow = u32[word + (COMMIT_ID >> 2)]!;
    const idHigh = u32[word + (COMMIT_ID >> 2) + 1]!;
    u32[word] = FuseOutHeader.size + size;
    u32[word + 1] = error;
    u32[word + 2] = idLow;
    u32[word + 3] = idHigh;
    u32[word + (PAYLOAD_SIZE >> 2)] = size;
    // Answered: an INTERRUPT that comes now finds nothing.
    u32[word + (COMMIT_ID >> 2)] = 0;
    u32[word + (COMMIT_ID >> 2) + 1] = 0;
    const queue = entry % this.queueCount;
    uring.prepareCommand(this.device, COMMIT_AND_FETCH, 0, 0, idLow, idHigh, queue, entry);
  }

  /** Hands all answers to the kernel; true when there were some. */
  submit(): boolean {
    if (this.uring.preparedCount === 0) return false;
    this.uring.submit();
    return true;
  }

  /** Frees the ring. The mount has ended, or ends by this. */
  close(): void {
    this.uring.close();
    this.headers.free();
  }
}
