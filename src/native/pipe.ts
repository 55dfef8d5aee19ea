/** Pipes to child processes. */
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, libc } from './libc.js';

const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const PIPE_SIZE_MAX = 2 ** 20;

const scratch = new NativeBuffer(8);

/** A pipe: the end to read from, and the end to write to. It holds about `size` bytes. */
export function createPipe(size: number): [reading: Fd, writing: Fd] {
  check(libc.pipe2(scratch.address, O_CLOEXEC), 'pipe2');
  const [reading, writing] = [new Fd(scratch.i32[0]!), new Fd(scratch.i32[1]!)];
  // A size that this user may not have leaves the usual one.
  libc.fcntl(writing.number, F_SETPIPE_SZ, Math.min(size, PIPE_SIZE_MAX));
  return [reading, writing];
}
