/**
 * Unix stream sockets that carry file descriptors (SCM_RIGHTS).
 *
 * Every descriptor that arrives is owned by somebody: it is returned to the caller or closed here.
 */
import { assert, SystemError, VloError } from '../errors.js';
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, ERRNO, errnoName, lastErrno, libc, retry } from './libc.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CTRUNC = 8;
const MSG_CMSG_CLOEXEC = 0x40000000;

/** Most descriptors the kernel puts into one message (SCM_MAX_FD). */
const SCM_MAX_FD = 253;
/** Longest path of a socket in bytes: `sun_path` less its terminating zero. */
export const SOCKET_PATH_MAX = 107;

// Layout of the scratch memory: addresses, then msghdr, iovec, control data, then bytes to send.
const NAME = 0;
const MSGHDR = 128;
const IOVEC = 192;
const CONTROL = 256;
const CONTROL_SIZE = 16 + SCM_MAX_FD * 4 + 4;
const DATA = 2048;
const DATA_SIZE = 16384;
const scratch = new NativeBuffer(DATA + DATA_SIZE);

/** Most bytes that one {@link sendMessage} or {@link receiveMessage} moves. */
export const MESSAGE_BYTES_MAX = DATA_SIZE;

function writeAddress(path: string): number {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.length > SOCKET_PATH_MAX) {
    throw new VloError(
      'VLO_SOCKET_PATH',
      `socket path '${path}' has ${bytes.length} bytes; 1 to ${SOCKET_PATH_MAX} are possible: ` +
        'choose a shorter one',
    );
  }
  scratch.bytes.fill(0, NAME, NAME + 110);
  scratch.u16[NAME >> 1] = AF_UNIX;
  scratch.bytes.set(bytes, NAME + 2);
  return 2 + bytes.length + 1;
}

function createSocket(): Fd {
  const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  return new Fd(check(libc.socket(AF_UNIX, type, 0), 'socket'));
}

/** Connects to the socket at `path`; the result is non-blocking. @throws SystemError */
export function connectUnix(path: string): Fd {
  // A local connection is made at once or not at all (EAGAIN: the backlog is full).
  const socket = createSocket();
  try {
    const size = writeAddress(path);
    check(
      retry(() => libc.connect(socket.number, scratch.address + NAME, size)),
      'connect',
      path,
    );
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/**
 * Binds a socket to `path`, which must not exist, and listens; non-blocking. @throws SystemError
 */
export function listenUnix(path: string, backlog = 16): Fd {
  const socket = createSocket();
  try {
    const size = writeAddress(path);
    check(libc.bind(socket.number, scratch.address + NAME, size), 'bind', path);
    check(libc.listen(socket.number, backlog), 'listen', path);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** Accepts a waiting connection, non-blocking; null when there is none. @throws SystemError */
export function acceptUnix(listener: number): Fd | null {
  const fd = retry(() => libc.accept4(listener, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd >= 0) return new Fd(fd);
  const errno = lastErrno();
  // A peer that went away between its connect and our accept is nobody's failure.
  if (errno === ERRNO.EAGAIN || errno === ERRNO.ECONNABORTED) return null;
  throw new SystemError('accept4', errnoName(errno));
}

/**
 * Sends one datagram to the socket at `path`; a leading `@` stands for the abstract namespace.
 * @throws SystemError
 */
export function sendDatagram(path: string, text: string): void {
  const fd = check(libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket');
  const socket = new Fd(fd);
  try {
    const isAbstract = path.startsWith('@');
    const size = writeAddress(path) - (isAbstract ? 1 : 0);
    if (isAbstract) scratch.bytes[NAME + 2] = 0;
    check(libc.connect(socket.number, scratch.address + NAME, size), 'connect', path);
    const bytes = Buffer.from(text);
    scratch.bytes.set(bytes, DATA);
    check(libc.write(socket.number, scratch.address + DATA, bytes.length), 'write', path);
  } finally {
    socket.close();
  }
}

/** Two connected, non-blocking sockets. */
export function socketPair(): [Fd, Fd] {
  const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  check(libc.socketpair(AF_UNIX, type, 0, scratch.address + NAME), 'socketpair');
  return [new Fd(scratch.i32[0]!), new Fd(scratch.i32[1]!)];
}

function socketOption(fd: number, option: number): number {
  scratch.i32[0] = 0;
  scratch.i32[1] = 4;
  const { address } = scratch;
  return libc.getsockopt(fd, SOL_SOCKET, option, address, address + 4) < 0 ? -1 : scratch.i32[0]!;
}

/** What kind of Unix stream socket `fd` is; null when it is none at all. */
export function unixSocketKind(fd: number): 'listening' | 'connected' | null {
  if (socketOption(fd, SO_DOMAIN) !== AF_UNIX) return null;
  if (socketOption(fd, SO_TYPE) !== SOCK_STREAM) return null;
  return socketOption(fd, SO_ACCEPTCONN) === 1 ? 'listening' : 'connected';
}

function prepareHeader(size: number, controlSize: number): void {
  scratch.u32.fill(0, MSGHDR >> 2, (MSGHDR + 56) >> 2);
  scratch.setU64(IOVEC, scratch.address + DATA);
  scratch.setU64(IOVEC + 8, size);
  scratch.setU64(MSGHDR + 16, scratch.address + IOVEC);
  scratch.setU64(MSGHDR + 24, 1);
  if (controlSize === 0) return;
  scratch.setU64(MSGHDR + 32, scratch.address + CONTROL);
  scratch.setU64(MSGHDR + 40, controlSize);
}

/**
 * Sends bytes and, with the first of them, descriptors (which stay the caller's). Never waits.
 * @returns bytes sent, at least 1, or 0 when the socket's buffer is full.
 * @throws VloError VLO_DISCONNECTED when the peer is gone; {@link SystemError} otherwise.
 */
export function sendMessage(
  socket: number,
  bytes: Uint8Array,
  fds: readonly number[] = [],
): number {
  assert(fds.length <= SCM_MAX_FD, 'a message carries 253 descriptors at most');
  const size = Math.min(bytes.length, DATA_SIZE);
  scratch.bytes.set(bytes.subarray(0, size), DATA);
  prepareHeader(size, fds.length === 0 ? 0 : 16 + Math.ceil((fds.length * 4) / 8) * 8);
  if (fds.length > 0) {
    scratch.setU64(CONTROL, 16 + fds.length * 4);
    scratch.u32[(CONTROL >> 2) + 2] = SOL_SOCKET;
    scratch.u32[(CONTROL >> 2) + 3] = SCM_RIGHTS;
    for (const [index, fd] of fds.entries()) scratch.i32[(CONTROL >> 2) + 4 + index] = fd;
  }
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  const sent = retry(() => libc.sendmsg(socket, scratch.address + MSGHDR, flags));
  if (sent >= 0) return sent;
  return socketFailure('sendmsg');
}

function socketFailure(syscall: string): 0 {
  const errno = lastErrno();
  if (errno === ERRNO.EAGAIN) return 0;
  if (errno === ERRNO.EPIPE || errno === ERRNO.ECONNRESET || errno === ERRNO.ENOTCONN) {
    throw new VloError('VLO_DISCONNECTED', 'the peer closed the connection');
  }
  throw new SystemError(syscall, errnoName(errno));
}

/**
 * Receives up to `target.length` bytes and appends descriptors that come with them to `fds`. Never
 * waits; received descriptors close on exec.
 *
 * @returns bytes received; 0 when the peer closed the connection; -1 when there is nothing yet.
 * @throws VloError VLO_PROTOCOL when control data was truncated (all that came is closed);
 * VLO_DISCONNECTED on a reset connection; {@link SystemError} otherwise.
 */
export function receiveMessage(socket: number, target: Uint8Array, fds: Fd[]): number {
  const size = Math.min(target.length, DATA_SIZE);
  prepareHeader(size, CONTROL_SIZE);
  const flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
  const received = retry(() => libc.recvmsg(socket, scratch.address + MSGHDR, flags));
  if (received < 0) {
    socketFailure('recvmsg');
    return -1;
  }
  const arrived = takeDescriptors();
  if ((scratch.u32[(MSGHDR + 48) >> 2]! & MSG_CTRUNC) !== 0) {
    for (const fd of arrived) fd.close();
    throw new VloError('VLO_PROTOCOL', 'the control data of a message was truncated');
  }
  fds.push(...arrived);
  target.set(scratch.bytes.subarray(DATA, DATA + received));
  return received;
}

function takeDescriptors(): Fd[] {
  const fds: Fd[] = [];
  const end = CONTROL + Math.min(scratch.getU64(MSGHDR + 40), CONTROL_SIZE);
  let at = CONTROL;
  while (at + 16 <= end) {
    const length = scratch.getU64(at);
    if (length < 16) break;
    const isRights =
      scratch.u32[(at >> 2) + 2] === SOL_SOCKET && scratch.u32[(at >> 2) + 3] === SCM_RIGHTS;
    const last = Math.min(at + length, end);
    for (let p = at + 16; isRights && p + 4 <= last; p += 4) fds.push(new Fd(scratch.i32[p >> 2]!));
    at += Math.ceil(length / 8) * 8;
  }
  return fds;
}
