/** Memory files: what a front end shares with a back end. */
import { Fd } from './fd.js';
import { check, libc } from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;

/**
 * Creates an anonymous memory file of `size` bytes whose size is sealed, so that no holder of the
 * descriptor can make another die of SIGBUS by shrinking it.
 */
export function createMemfd(name: string, size: number): Fd {
  const fd = new Fd(check(libc.memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), 'memfd_create'));
  try {
    check(libc.ftruncate(fd.number, size), 'ftruncate', `${size} bytes`);
    check(libc.fcntl(fd.number, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 'fcntl', 'F_ADD_SEALS');
  } catch (error) {
    fd.close();
    throw error;
  }
  return fd;
}

/** Asks that a file received from a peer can shrink no more; false where it cannot be sealed. */
export function sealAgainstShrinking(fd: number): boolean {
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0) return false;
  if ((seals & F_SEAL_SHRINK) !== 0) return true;
  return libc.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) === 0;
}
