/** File descriptors with one owner. */
import { readdirSync } from 'node:fs';
import { assert } from '../errors.js';
import { check, libc } from './libc.js';

const F_DUPFD_CLOEXEC = 1030;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;

/** An open file descriptor that this object owns until {@link close} or {@link take}. */
export class Fd {
  private value: number;

  /** Takes over the ownership of `fd`, an open descriptor. */
  constructor(fd: number) {
    assert(Number.isInteger(fd) && fd >= 0, `${fd} is no file descriptor`);
    this.value = fd;
  }

  /** The descriptor's number. It is an error of the program to ask after {@link close}. */
  get number(): number {
    assert(this.value >= 0, 'a closed file descriptor was used');
    return this.value;
  }

  get isOpen(): boolean {
    return this.value >= 0;
  }

  /** Gives up the ownership without closing; the caller closes the number returned. */
  take(): number {
    const fd = this.number;
    this.value = -1;
    return fd;
  }

  /** A second descriptor of the same open file. */
  duplicate(): Fd {
    return new Fd(check(libc.fcntl(this.number, F_DUPFD_CLOEXEC, 0), 'fcntl'));
  }

  /** Makes reads and writes return EAGAIN instead of waiting. */
  setNonBlocking(): void {
    const flags = check(libc.fcntl(this.number, F_GETFL, 0), 'fcntl');
    check(libc.fcntl(this.number, F_SETFL, flags | O_NONBLOCK), 'fcntl');
  }

  /** Closes the descriptor. Idempotent. */
  close(): void {
    if (this.value < 0) return;
    const fd = this.value;
    this.value = -1;
    libc.close(fd); // Linux frees the number whatever close() returns: never try again.
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** How many descriptors this process has open now, for tests that look for leaks. */
export function openFdCount(): number {
  return readdirSync('/proc/self/fd').length - 1; // One is the folder being read.
}
