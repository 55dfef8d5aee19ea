/**
 * io_uring driven from JavaScript through its mapped rings: requests of a batch cost one system
 * call together.
 *
 *   submission ring   head ──► tail      we write at tail, the kernel reads at head
 *   completion ring   head ──► tail      the kernel writes at tail, we read at head
 *
 * Both indices run freely in 32 bits; entry = index & mask.
 */

import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { ERRNO, lastErrno, libc, retry } from './libc.js';
import { Mapping } from './mapping.js';

const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427;

const IORING_SETUP_CQSIZE = 1 << 3;
const IORING_SETUP_CLAMP = 1 << 4;
const IORING_SETUP_COOP_TASKRUN = 1 << 8;
const IORING_SETUP_TASKRUN_FLAG = 1 << 9;
const IORING_SETUP_SQE128 = 1 << 10;
const IORING_SETUP_SINGLE_ISSUER = 1 << 12;
const IORING_FEAT_SINGLE_MMAP = 1 << 0;
const IORING_FEAT_NODROP = 1 << 1;
const IORING_SQ_CQ_OVERFLOW = 1 << 1;
const IORING_SQ_TASKRUN = 1 << 2;
const IORING_ENTER_GETEVENTS = 1;
const IORING_CQ_EVENTFD_DISABLED = 1;
const IORING_REGISTER_EVENTFD = 4;
const IORING_OFF_SQES = 0x10000000;

/** Operations, as Linux numbers them. */
export const URING_OP = {
  readv: 1,
  writev: 2,
  fsync: 3,
  fallocate: 17,
  read: 22,
  write: 23,
  command: 46,
} as const;

/** Flag of {@link IoUring.prepareFsync}: data only, as fdatasync. */
const IORING_FSYNC_DATASYNC = 1;
/** Entry flag: run the operation on a kernel worker from the start instead of trying it at once. */
export const URING_ASYNC = 1 << 4;

/** An io_uring instance: prepare entries, {@link submit} them, {@link next} takes completions. */
export class IoUring {
  /** Number of entries the submission ring holds. */
  readonly entryCount: number;
  /** User data of the completion that {@link next} took last. */
  completedData = 0;
  /** Its result: bytes, or a negative errno. */
  completedResult = 0;
  private prepared = 0;
  private readonly fd: Fd;
  private readonly rings: Mapping;
  private readonly entries: Mapping;
  private readonly sqe: Uint32Array;
  private readonly words: Uint32Array;
  private readonly sqHead: number;
  private readonly sqTail: number;
  private readonly sqMask: number;
  private readonly sqFlags: number;
  private readonly cqHead: number;
  private readonly cqTail: number;
  private readonly cqMask: number;
  private readonly cqes: number;
  private readonly cqFlags: number;
  private tail: number;
  private head: number;
  /** Words of a submission entry, as a power of two. */
  private readonly entryShift: number;

  private constructor(fd: Fd, parameters: NativeBuffer) {
    const p = parameters.u32;
    this.entryShift = (p[2]! & IORING_SETUP_SQE128) !== 0 ? 5 : 4;
    const entryWords = 1 << this.entryShift;
    this.fd = fd;
    this.entryCount = p[0]!;
    const cqEntryCount = p[1]!;
    const size = Math.max(p[16]! + this.entryCount * 4, p[25]! + cqEntryCount * 16);
    this.rings = Mapping.shared(fd.number, size);
    try {
      this.entries = Mapping.shared(fd.number, this.entryCount * entryWords * 4, {
        offset: IORING_OFF_SQES,
      });
    } catch (error) {
      this.rings.retire();
      throw error;
    }
    const ringBytes = this.rings.window(0);
    this.words = new Uint32Array(ringBytes.buffer, 0, ringBytes.length >> 2);
    this.sqe = new Uint32Array(this.entries.window(0).buffer, 0, this.entryCount * entryWords);
    this.sqHead = p[10]! >> 2;
    this.sqTail = p[11]! >> 2;
    this.sqMask = this.words[p[12]! >> 2]!;
    this.sqFlags = p[14]! >> 2;
    this.cqHead = p[20]! >> 2;
    this.cqTail = p[21]! >> 2;
    this.cqMask = this.words[p[22]! >> 2]!;
    this.cqes = p[25]! >> 2;
    this.cqFlags = p[26]! >> 2;
    this.tail = Atomics.load(this.words, this.sqTail);
    this.head = Atomics.load(this.words, this.cqHead);
    // Entry i of the index array always names submission entry i: written once, never again.
    const array = p[16]! >> 2;
    for (let i = 0; i < this.entryCount; i += 1) this.words[array + i] = i;
  }

  /**
   * Creates an instance, or returns null where the kernel has no io_uring, forbids it (as many
   * containers do), or lacks what is needed here.
   */
  static create(
    entryCount: number,
    completionCount = entryCount * 2,
    hasWideEntries = false,
  ): IoUring | null {
    const cooperative =
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER;
    const wide = hasWideEntries ? IORING_SETUP_SQE128 : 0;
    for (const extra of [cooperative, 0]) {
      const parameters = new NativeBuffer(120);
      try {
        parameters.u32[1] = completionCount;
        parameters.u32[2] = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | wide | extra;
        const address = parameters.address;
        const fd = libc.syscall(SYS_IO_URING_SETUP, entryCount, address, 0, 0, 0, 0);
        if (fd < 0 && lastErrno() === ERRNO.EINVAL && extra !== 0) continue; // An older kernel.
        if (fd < 0) return null;
        const owner = new Fd(fd);
        const needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
        try {
          if ((parameters.u32[5]! & needed) === needed) return new IoUring(owner, parameters);
          owner.close();
          return null;
        } catch {
          owner.close();
          return null;
        }
      } finally {
        parameters.free();
      }
    }
    return null;
  }

  /**
   * Signals `eventFd` at each completion. (The kernel's "async only" variant leaves out those that
   * it finishes in the context of this thread, so a sleeping event loop would miss them.)
   */
  notifyBy(eventFd: number): boolean {
    const argument = new NativeBuffer(8);
    argument.i32[0] = eventFd;
    const result = libc.syscall(
      SYS_IO_URING_REGISTER,
      this.fd.number,
      IORING_REGISTER_EVENTFD,
      argument.address,
      1,
      0,
      0,
    );
    argument.free();
    return result === 0;
  }

  /**
   * Switches the signals of {@link notifyBy} on or off. After switching on, look at the ring once
   * more: what completed in between was not signalled.
   */
  setNotify(isOn: boolean): void {
    Atomics.store(this.words, this.cqFlags, isOn ? 0 : IORING_CQ_EVENTFD_DISABLED);
  }

  /** Entries prepared and not yet taken by the kernel. */
  get preparedCount(): number {
    return this.prepared;
  }

  /** True when {@link prepare} finds room. */
  get hasRoom(): boolean {
    return this.prepared < this.entryCount;
  }

  /**
   * Prepares one request; the caller checked {@link hasRoom}. For `readv` and `writev`, `size` is
   * the number of segments at `address`; for `fallocate`, `address` is the length and `size` the
   * mode.
   */
  prepare(
    op: number,
    fd: number,
    address: number,
    size: number,
    offset: number,
    data: number,
    flags = 0,
  ): void {
    const { sqe } = this;
    const at = (this.tail & this.sqMask) << this.entryShift;
    sqe[at] = op | (flags << 8);
    sqe[at + 1] = fd;
    sqe[at + 2] = offset;
    sqe[at + 3] = offset / 4294967296;
    sqe[at + 4] = address;
    sqe[at + 5] = address / 4294967296;
    sqe[at + 6] = size;
    sqe[at + 7] = 0;
    sqe[at + 8] = data;
    sqe[at + 9] = 0;
    sqe[at + 10] = 0; // buf_index, personality
    sqe[at + 11] = 0;
    sqe[at + 12] = 0;
    sqe[at + 13] = 0;
    this.tail = (this.tail + 1) >>> 0;
    this.prepared += 1;
  }

  /** Prepares an fdatasync. */
  prepareFsync(fd: number, data: number): void {
    const at = (this.tail & this.sqMask) << this.entryShift;
    this.prepare(URING_OP.fsync, fd, 0, 0, 0, data);
    this.sqe[at + 7] = IORING_FSYNC_DATASYNC;
  }

  /**
   * Prepares a command of a driver, in a ring with wide entries. `id` and `queue` are the two parts
   * of what FUSE wants in the command's own area.
   */
  prepareCommand(
    fd: number,
    command: number,
    address: number,
    size: number,
    idLow: number,
    idHigh: number,
    queue: number,
    data: number,
  ): void {
    const at = (this.tail & this.sqMask) << this.entryShift;
    this.prepare(URING_OP.command, fd, address, size, command, data);
    const { sqe } = this;
    sqe[at + 12] = 0; // flags
    sqe[at + 13] = 0;
    sqe[at + 14] = idLow;
    sqe[at + 15] = idHigh;
    sqe[at + 16] = queue;
    sqe[at + 17] = 0;
  }

  /** Descriptor that is readable when there are completions. */
  get descriptor(): number {
    return this.fd.number;
  }

  /**
   * Hands all prepared requests to the kernel, and waits for `waitCount` completions.
   * @returns 0, or the negative errno; what the kernel did not take stays prepared.
   */
  submit(waitCount = 0): number {
    if (this.prepared === 0 && waitCount === 0) return 0;
    // The entries must be visible before the index that publishes them.
    Atomics.store(this.words, this.sqTail, this.tail);
    const flags = waitCount > 0 ? IORING_ENTER_GETEVENTS : 0;
    const taken = retry(() =>
      libc.syscall(SYS_IO_URING_ENTER, this.fd.number, this.prepared, waitCount, flags, 0, 0),
    );
    if (taken < 0) return -lastErrno();
    this.prepared -= taken;
    return 0;
  }

  /** Forgets what was prepared and not taken by the kernel. */
  dropPrepared(): void {
    this.tail = (this.tail - this.prepared) >>> 0;
    this.prepared = 0;
    Atomics.store(this.words, this.sqTail, this.tail);
  }

  /**
   * Takes the next completion into `completedData` and `completedResult`; false if there is none.
   */
  next(): boolean {
    // The index is read before the entry it covers.
    if (this.head === Atomics.load(this.words, this.cqTail) && !this.collect()) return false;
    const at = this.cqes + ((this.head & this.cqMask) << 2);
    this.completedData = this.words[at]!;
    this.completedResult = this.words[at + 2]! | 0;
    this.head = (this.head + 1) >>> 0;
    Atomics.store(this.words, this.cqHead, this.head);
    return true;
  }

  /** Lets the kernel write completions that it holds back; true when there are some now. */
  private collect(): boolean {
    // Those that found the ring full, and those whose last step runs in this thread: without a
    // system call neither would ever be seen by one who only looks at the ring.
    const flags = Atomics.load(this.words, this.sqFlags);
    if ((flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) === 0) return false;
    libc.syscall(SYS_IO_URING_ENTER, this.fd.number, 0, 0, IORING_ENTER_GETEVENTS, 0, 0);
    return this.head !== Atomics.load(this.words, this.cqTail);
  }

  /** Frees the rings. The caller waited for its requests: the kernel may still write otherwise. */
  close(): void {
    this.entries.retire();
    this.rings.retire();
    this.fd.close();
  }

  /** Index of the oldest entry the kernel has not taken, for tests. */
  get submissionHead(): number {
    return Atomics.load(this.words, this.sqHead);
  }
}
