/** Positioned reads and writes of files, and what else a disk needs from its file. */
import { check, ERRNO, lastErrno, libc, retry } from './libc.js';

/**
 * Reads at `offset` into `count` segments of an iovec list at `address`.
 * @returns bytes read, or the negative errno: on the data path an I/O error is a value.
 */
export function preadv(fd: number, address: number, count: number, offset: number): number {
  const result = libc.preadv(fd, address, count, offset);
  return result >= 0 ? result : -lastErrno();
}

/** Writes at `offset`; result as {@link preadv}. */
export function pwritev(fd: number, address: number, count: number, offset: number): number {
  const result = libc.pwritev(fd, address, count, offset);
  return result >= 0 ? result : -lastErrno();
}

const IS_X64 = process.arch === 'x64';
const SYS_PREADV2 = IS_X64 ? 327 : 286; // 286 is the number of all newer architectures.
const RWF_NOWAIT = 8;

/**
 * Reads like {@link preadv} but only what is in memory already: -EAGAIN where the disk would have
 * to be waited for, -EOPNOTSUPP where the file system cannot tell.
 */
export function preadvCached(fd: number, address: number, count: number, offset: number): number {
  const result = libc.syscall(SYS_PREADV2, fd, address, count, offset, 0, RWF_NOWAIT);
  return result >= 0 ? result : -lastErrno();
}

/** A file operation for {@link runInPool}. */
export type PoolOperation = 'preadv' | 'pwritev' | 'fdatasync' | 'fallocate';

/**
 * Runs a file operation on Node's thread pool, where there is no io_uring. `done` gets its result,
 * or -EIO for any failure: the thread's errno does not reach this one.
 */
export function runInPool(
  operation: PoolOperation,
  args: readonly number[],
  done: (result: number) => void,
): void {
  libc[operation].async(...args, (error: Error | null, result: number) => {
    done(error !== null || result < 0 ? -ERRNO.EIO! : result);
  });
}

/** Reads `size` bytes at `offset` into memory at `address`; result as {@link preadv}. */
export function preadInto(fd: number, address: number, size: number, offset: number): number {
  const result = libc.pread(fd, address, size, offset);
  return result >= 0 ? result : -lastErrno();
}

/** Reads `size` bytes into memory at `address`; result as {@link preadv}. */
export function readInto(fd: number, address: number, size: number): number {
  const result = libc.read(fd, address, size);
  return result >= 0 ? result : -lastErrno();
}

/** Writes `size` bytes of memory at `address`; result as {@link preadv}. */
export function writeFrom(fd: number, address: number, size: number): number {
  const result = libc.write(fd, address, size);
  return result >= 0 ? result : -lastErrno();
}

/** Reads into `count` segments of an iovec list at `address`; result as {@link preadv}. */
export function readVector(fd: number, address: number, count: number): number {
  const result = libc.readv(fd, address, count);
  return result >= 0 ? result : -lastErrno();
}

/** Writes `count` segments of an iovec list at `address`; result as {@link preadv}. */
export function writeVector(fd: number, address: number, count: number): number {
  const result = libc.writev(fd, address, count);
  return result >= 0 ? result : -lastErrno();
}

/** Makes the file's data durable. @returns 0 or the negative errno. */
export function fdatasync(fd: number): number {
  return retry(() => libc.fdatasync(fd)) === 0 ? 0 : -lastErrno();
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;

/** Modes of {@link fallocate}, as Linux numbers them. */
export const FALLOCATE = {
  /** Gives the blocks back; the range then reads as zeros. */
  punchHole: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
  /** Zeroes the range and keeps its blocks allocated. */
  zeroRange: FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
} as const;

/** Changes the allocation of a range of a file. @returns 0 or the negative errno. */
export function fallocate(fd: number, mode: number, offset: number, size: number): number {
  return retry(() => libc.fallocate(fd, mode, offset, size)) === 0 ? 0 : -lastErrno();
}

/** Calls ioctl with a number or an address as argument; failures throw {@link SystemError}. */
export function ioctl(fd: number, request: number, argument: number, name = 'ioctl'): number {
  return check(
    retry(() => libc.ioctl(fd, request, argument)),
    name,
  );
}

/** True when a negative result of a data-path call says "not supported here". */
export function isUnsupported(result: number): boolean {
  return result === -ERRNO.EOPNOTSUPP! || result === -ERRNO.ENOSYS! || result === -ERRNO.ENOTTY!;
}

/** Makes a named pipe. @throws SystemError */
export function makeFifo(path: string, mode: number): void {
  check(libc.mkfifo(path, mode), 'mkfifo', path);
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Locks an open file until it is closed or the process ends; false when another has it. */
export function tryLock(fd: number): boolean {
  return retry(() => libc.flock(fd, LOCK_EX | LOCK_NB)) === 0;
}
