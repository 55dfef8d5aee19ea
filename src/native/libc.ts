/**
 * The C library through koffi: the only declarations of foreign functions in the project.
 *
 * Pointers travel as numbers (user-space addresses are below 2^53), so that a call converts no
 * object and allocates nothing. Functions that take memory work on {@link NativeBuffer}s, whose
 * address is known, or on addresses of a {@link Mapping}.
 */
import { endianness } from 'node:os';
import koffi from 'koffi';
import { SystemError, VloError } from '../errors.js';

if (process.platform !== 'linux' || endianness() !== 'LE') {
  throw new VloError('VLO_UNSUPPORTED', 'virtio-loopback runs on little-endian Linux only');
}

// The process's own symbols: glibc or musl, whichever Node is linked with.
const self = koffi.load(null);

type Call = (...args: number[]) => number;

function declare(prototype: string): Call {
  return self.func(prototype) as unknown as Call;
}

type AsyncCall = Call & {
  async(
    ...args: [...numbers: number[], callback: (error: Error | null, result: number) => void]
  ): void;
};

/** Raw calls: a result below zero means failure, and {@link lastErrno} holds the reason. */
export const libc = {
  mmap: declare('uintptr_t mmap(uintptr_t, size_t, int, int, int, long)'),
  munmap: declare('int munmap(uintptr_t, size_t)'),
  memfdCreate: self.func('int memfd_create(str, uint)') as unknown as (
    name: string,
    flags: number,
  ) => number,
  ftruncate: declare('int ftruncate(int, long)'),
  fcntl: declare('int fcntl(int, int, uintptr_t)'),
  close: declare('int close(int)') as AsyncCall,
  eventfd: declare('int eventfd(uint, int)'),
  timerfdCreate: declare('int timerfd_create(int, int)'),
  timerfdSettime: declare('int timerfd_settime(int, int, uintptr_t, uintptr_t)'),
  memcpy: declare('uintptr_t memcpy(uintptr_t, uintptr_t, size_t)'),
  pipe2: declare('int pipe2(uintptr_t, int)'),
  poll: declare('int poll(uintptr_t, ulong, int)'),
  read: declare('long read(int, uintptr_t, size_t)'),
  write: declare('long write(int, uintptr_t, size_t)'),
  readv: declare('long readv(int, uintptr_t, int)'),
  writev: declare('long writev(int, uintptr_t, int)'),
  pread: declare('long pread(int, uintptr_t, size_t, long)'),
  preadv: declare('long preadv(int, uintptr_t, int, long)') as AsyncCall,
  pwritev: declare('long pwritev(int, uintptr_t, int, long)') as AsyncCall,
  fdatasync: declare('int fdatasync(int)') as AsyncCall,
  fallocate: declare('int fallocate(int, int, long, long)') as AsyncCall,
  mount: self.func('int mount(str, str, str, ulong, str)') as unknown as (
    source: string,
    target: string,
    type: string,
    flags: number,
    data: string,
  ) => number,
  umount2: self.func('int umount2(str, int)') as unknown as {
    async(
      target: string,
      flags: number,
      callback: (error: Error | null, result: number) => void,
    ): void;
  },
  mkfifo: self.func('int mkfifo(str, uint)') as unknown as (path: string, mode: number) => number,
  flock: declare('int flock(int, int)'),
  prctl: declare('int prctl(int, ulong, ulong, ulong, ulong)'),
  schedYield: declare('int sched_yield()'),
  ioctl: declare('int ioctl(int, ulong, uintptr_t)'),
  socket: declare('int socket(int, int, int)'),
  socketpair: declare('int socketpair(int, int, int, uintptr_t)'),
  bind: declare('int bind(int, uintptr_t, uint)') as AsyncCall,
  listen: declare('int listen(int, int)'),
  connect: declare('int connect(int, uintptr_t, uint)'),
  accept4: declare('int accept4(int, uintptr_t, uintptr_t, int)'),
  getsockopt: declare('int getsockopt(int, int, int, uintptr_t, uintptr_t)'),
  setsockopt: declare('int setsockopt(int, int, int, uintptr_t, uint)') as AsyncCall,
  sendmsg: declare('long sendmsg(int, uintptr_t, int)'),
  recvmsg: declare('long recvmsg(int, uintptr_t, int)'),
  recvmmsg: declare('int recvmmsg(int, uintptr_t, uint, int, uintptr_t)'),
  // The assembly behind syscall(2) reads registers only, so a fixed prototype calls it correctly.
  syscall: declare('long syscall(long, long, long, long, long, long, long)'),
} as const;

/** Numbers of the errors by name, for comparisons: `ERRNO.EAGAIN`. */
export const ERRNO = koffi.os.errno as Readonly<Record<string, number>>;

const nameByErrno = new Map<number, string>();
for (const [name, number] of Object.entries(ERRNO)) {
  // Aliases exist (EWOULDBLOCK, ENOTSUP, EDEADLOCK); the name that users search for wins.
  if (!nameByErrno.has(number) || name === 'EAGAIN' || name === 'EOPNOTSUPP') {
    nameByErrno.set(number, name);
  }
}

/** Name of an error number, for example `'ENOENT'`; `'E<number>'` when it has none. */
export function errnoName(errno: number): string {
  return nameByErrno.get(errno) ?? `E${errno}`;
}

/** `errno` of the calling thread; meaningful directly after a failed call only. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Returns `result`, or throws {@link SystemError} with the errno's name when it is below zero. */
export function check(result: number, syscall: string, detail?: string): number {
  if (result < 0) throw new SystemError(syscall, errnoName(lastErrno()), detail);
  return result;
}

/** Calls `call` again as long as a signal interrupts it; the result may be any other failure. */
export function retry(call: () => number): number {
  for (;;) {
    const result = call();
    if (result >= 0 || lastErrno() !== ERRNO.EINTR) return result;
  }
}

/**
 * A view of `size` bytes of memory at `address`. It must never be read after the memory is gone.
 */
export function viewMemory(address: number, size: number): ArrayBuffer {
  return koffi.view(address, size);
}
