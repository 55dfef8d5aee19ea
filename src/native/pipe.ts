/** Pipes to child processes. */
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, libc } from './libc.js';

const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const FIONREAD = 0x541b;
const PIPE_SIZE_MAX = 2 ** 20;

const scratch = new NativeBuffer(8);

/** Bytes that lie in a pipe; 0 when that cannot be told. */
export function bytesInPipe(reading: Fd): number {
  const result = libc.ioctl(reading.number, FIONREAD, scratch.address);
  return result < 0 ? 0 : scratch.i32[0]!;
}

/** A pipe: the end to read from, and the end to write to. It holds about `size` bytes. */
export function createPipe(size: number): [reading: Fd, writing: Fd] {
  check(libc.pipe2(scratch.address, O_CLOEXEC), 'pipe2');
  const [reading, writing] = [new Fd(scratch.i32[0]!), new Fd(scratch.i32[1]!)];
  // A size that this user may not have leaves the usual one.
  libc.fcntl(writing.number, F_SETPIPE_SZ, Math.min(size, PIPE_SIZE_MAX));
  return [reading, writing];
}
