/** Event and timer descriptors: how the two ends of a queue wake each other. */
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, ERRNO, lastErrno, libc } from './libc.js';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

const ONE = 0;
const COUNT = 8;
// Shared by all calls: one thread, and no call keeps it over an await.
const scratch = new NativeBuffer(64);
scratch.setU64(ONE, 1);

/** Adds one to the event's counter and so wakes who waits on it. A full counter is no error. */
export function signalEvent(fd: number): void {
  // Writing is non-blocking or the counter far from its end; a peer's odd descriptor is its loss.
  libc.write(fd, scratch.address + ONE, 8);
}

/**
 * Takes the event's count and sets it to zero; 0 when nothing was signalled, -1 when the descriptor
 * can signal no more (a pipe whose writer has gone, or nothing that can be read at all).
 */
export function consumeEvent(fd: number): number {
  const result = libc.read(fd, scratch.address + COUNT, 8);
  if (result === 8) return scratch.getU64(COUNT);
  if (result > 0) return result; // A pipe: whatever was written is a signal.
  if (result < 0 && (lastErrno() === ERRNO.EAGAIN || lastErrno() === ERRNO.EINTR)) return 0;
  return -1;
}

/** Creates a non-blocking event descriptor with counter 0. */
export function createEventFd(): Fd {
  return new Fd(check(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd'));
}

const CLOCK_MONOTONIC = 1;

/** Creates a non-blocking timer descriptor on the monotonic clock, not yet armed. */
export function createTimerFd(): Fd {
  return new Fd(
    check(libc.timerfdCreate(CLOCK_MONOTONIC, EFD_CLOEXEC | EFD_NONBLOCK), 'timerfd_create'),
  );
}

/**
 * Arms a timer descriptor once, `delayNs` from now, then every `intervalNs` if that is not 0;
 * a delay of 0 disarms it. {@link consumeEvent} reads how often it expired.
 */
export function armTimerFd(fd: number, delayNs: number, intervalNs = 0): void {
  const spec = 16;
  scratch.setU64(spec, Math.floor(intervalNs / 1e9));
  scratch.setU64(spec + 8, intervalNs % 1e9);
  scratch.setU64(spec + 16, Math.floor(delayNs / 1e9));
  scratch.setU64(spec + 24, delayNs % 1e9);
  check(libc.timerfdSettime(fd, 0, scratch.address + spec, 0), 'timerfd_settime');
}

const POLLIN = 1;

/**
 * Waits, holding the thread, until one of the descriptors is readable or `timeoutMs` is over.
 * Returns the index of the first readable one, or -1. For tests and short-lived tools.
 */
export function waitReadable(fds: readonly number[], timeoutMs: number): number {
  const table = new NativeBuffer(Math.max(8, fds.length * 8));
  try {
    for (const [index, fd] of fds.entries()) {
      table.i32[index * 2] = fd;
      table.u16[index * 4 + 2] = POLLIN;
    }
    const ready = libc.poll(table.address, fds.length, timeoutMs);
    if (ready < 0 && lastErrno() !== ERRNO.EINTR) check(ready, 'poll');
    if (ready <= 0) return -1;
    return fds.findIndex((_, index) => table.u16[index * 4 + 3] !== 0);
  } finally {
    table.free();
  }
}
