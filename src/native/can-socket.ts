/** Raw CAN sockets (linux/can.h, linux/can/raw.h): frames of one interface, many in one call. */
import { SystemError } from '../errors.js';
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, ERRNO, lastErrno, libc } from './libc.js';

const AF_CAN = 29;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const CAN_RAW = 1;
const SOL_SOCKET = 1;
const SOL_CAN_RAW = 101;
const ERR_FILTER = 2;
const RECV_OWN_MSGS = 4;
const FD_FRAMES = 5;
const SO_RCVBUF = 8;
const SO_RCVBUFFORCE = 33;
const SO_MEMINFO = 55;
const SIOCGIFFLAGS = 0x8913;
const SIOCGIFMTU = 0x8921;
const SIOCGIFHWADDR = 0x8927;
const SIOCGIFINDEX = 0x8933;
const ARPHRD_CAN = 280;
const IFF_UP = 1;
const MSG_DONTWAIT = 0x40;
const MSG_CONFIRM = 0x800;
const IFNAMSIZ = 16;

/** Sizes in bytes of a classic frame and of an FD frame, and of the interfaces' packets. */
const CLASSIC_SIZE = 16;
const FD_SIZE = 72;
const DATA = 8;

/** Bits of a frame's first word, above its identifier. */
export const CAN_ID = { EXTENDED: 0x80000000, REMOTE: 0x40000000, ERROR: 0x20000000 } as const;
/** Classes of errors: bits of the identifier of an error frame. */
export const CAN_ERROR = { BUS_OFF: 0x40, RESTARTED: 0x100 } as const;

/** Frames that one {@link CanSocket.receive} brings at most. */
const BATCH = 32;
/** Bytes that the kernel keeps for a slow reader, its own records included. */
const RECEIVE_BUFFER = 2 ** 21;

// Layout of the memory: a frame to send, then for each frame to receive an mmsghdr, an iovec and
// the frame itself. Besides: what bind, setsockopt, ioctl and getsockopt take; those that run in
// the pool have theirs for themselves.
const OUT = 0;
const NAME = 80;
const NAME_SIZE = 24;
const OPTIONS = 112;
const ARGUMENT = 128;
const VALUE = 192;
const HEADERS = 256;
const HEADER_SIZE = 64;
const IOVECS = HEADERS + BATCH * HEADER_SIZE;
const FRAMES = IOVECS + BATCH * 16;
const FRAME_STRIDE = 80;
const SIZE = FRAMES + BATCH * FRAME_STRIDE;
const MSG_IOV = 16;
const MSG_IOVLEN = 24;
const MSG_FLAGS = 48;
const MSG_LEN = 56;

/** A frame as the kernel has it. */
export interface RawCanFrame {
  /** Identifier and {@link CAN_ID} bits. */
  word: number;
  length: number;
  isFd: boolean;
  /** An own frame that is on the bus now. */
  isOwn: boolean;
}

/** What a socket is to bring besides the frames of others. */
export interface CanSocketOptions {
  /** Own frames too, when they are on the bus. */
  readonly receivesOwn: boolean;
  /** Classes of errors whose frames are wanted too. */
  readonly errors: number;
}

/**
 * A socket on one interface.
 *
 * The kernel sets such a socket up, and closes it, under its lock for the configuration of
 * networks, which whoever sets an interface up holds: also while a driver waits for the very
 * process that would open the socket. Nobody could end that, so these calls are made in Node's
 * thread pool.
 */
export class CanSocket {
  /** Bytes of a packet of the interface: 72 and more where it takes FD frames. */
  readonly mtu: number;
  /** Number of the interface that the socket is for; a new one of the same name has another. */
  readonly index: number;
  /** Frames that one {@link receive} brings at most. */
  static readonly batchSize = BATCH;
  private readonly socket: Fd;
  private readonly buffer = new NativeBuffer(SIZE);
  /** Data of the frame that {@link send} sends, 64 bytes. */
  readonly outgoing = this.buffer.bytes.subarray(OUT + DATA, OUT + FD_SIZE);
  private readonly view = new DataView(this.buffer.bytes.buffer);
  private readonly name: string;
  private pending: Promise<unknown> = Promise.resolve();

  /** Finds an interface, up or down. @throws SystemError ENODEV, EAFNOSUPPORT, ENOTSUP … */
  constructor(name: string) {
    this.name = name;
    const type = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC;
    this.socket = new Fd(check(libc.socket(AF_CAN, type, CAN_RAW), 'socket', 'AF_CAN'));
    try {
      if ((this.ask(SIOCGIFHWADDR, 'SIOCGIFHWADDR') & 0xffff) !== ARPHRD_CAN) {
        throw new SystemError('bind', 'ENOTSUP', name);
      }
      this.mtu = this.ask(SIOCGIFMTU, 'SIOCGIFMTU');
      this.index = this.ask(SIOCGIFINDEX, 'SIOCGIFINDEX');
      this.growReceiveBuffer();
    } catch (error) {
      this.close();
      throw error;
    }
    this.prepareBatch();
  }

  /** Binds the socket to its interface; false when that is gone. Called once. */
  async connect({ receivesOwn, errors }: CanSocketOptions): Promise<boolean> {
    const { view } = this;
    view.setUint16(NAME, AF_CAN, true);
    view.setInt32(NAME + 4, this.index, true);
    const options = [
      [ERR_FILTER, errors],
      [RECV_OWN_MSGS, receivesOwn ? 1 : 0],
      [FD_FRAMES, this.mtu >= FD_SIZE ? 1 : 0],
    ] as const;
    for (const [place, [option, value]] of options.entries()) {
      view.setUint32(OPTIONS + place * 4, value, true);
      const address = this.buffer.address + OPTIONS + place * 4;
      if (!(await this.inPool('setsockopt', SOL_CAN_RAW, option, address, 4))) return false;
    }
    return this.inPool('bind', this.buffer.address + NAME, NAME_SIZE);
  }

  private async inPool(call: 'setsockopt' | 'bind', ...args: number[]): Promise<boolean> {
    if (!this.socket.isOpen) return false;
    const { number } = this.socket;
    const done = new Promise<boolean>((resolve) => {
      libc[call].async(number, ...args, (error, result) => resolve(error === null && result === 0));
    });
    this.pending = done;
    return (await done) && this.socket.isOpen;
  }

  get fd(): number {
    return this.socket.number;
  }

  private prepareBatch(): void {
    const { buffer } = this;
    for (let i = 0; i < BATCH; i += 1) {
      const iovec = IOVECS + i * 16;
      buffer.setU64(iovec, buffer.address + FRAMES + i * FRAME_STRIDE);
      buffer.setU64(iovec + 8, FD_SIZE);
      buffer.setU64(HEADERS + i * HEADER_SIZE + MSG_IOV, buffer.address + iovec);
      buffer.setU64(HEADERS + i * HEADER_SIZE + MSG_IOVLEN, 1);
    }
  }

  private ask(request: number, what: string): number {
    const { bytes, address } = this.buffer;
    bytes.fill(0, ARGUMENT, ARGUMENT + 40);
    bytes.set(Buffer.from(this.name).subarray(0, IFNAMSIZ - 1), ARGUMENT);
    check(libc.ioctl(this.fd, request, address + ARGUMENT), what, this.name);
    return this.view.getInt32(ARGUMENT + IFNAMSIZ, true);
  }

  /** Without the privilege the kernel gives as much as anybody may have. */
  private growReceiveBuffer(): void {
    const address = this.buffer.address + VALUE;
    this.view.setInt32(VALUE, RECEIVE_BUFFER, true);
    if (libc.setsockopt(this.fd, SOL_SOCKET, SO_RCVBUFFORCE, address, 4) === 0) return;
    libc.setsockopt(this.fd, SOL_SOCKET, SO_RCVBUF, address, 4);
  }

  /** True while the interface is there and up. */
  get isUp(): boolean {
    try {
      return (this.ask(SIOCGIFFLAGS, 'SIOCGIFFLAGS') & IFF_UP) !== 0;
    } catch {
      return false;
    }
  }

  /** True while the interface is there: that one, and not another one of the same name. */
  get isThere(): boolean {
    try {
      return this.ask(SIOCGIFINDEX, 'SIOCGIFINDEX') === this.index;
    } catch {
      return false;
    }
  }

  /** Sends a frame with the data in {@link outgoing}. @returns 0 or a negative errno. */
  send(word: number, length: number, isFd: boolean): number {
    const { view, buffer } = this;
    view.setUint32(OUT, word, true);
    view.setUint32(OUT + 4, length, true);
    const result = libc.write(this.fd, buffer.address + OUT, isFd ? FD_SIZE : CLASSIC_SIZE);
    return result >= 0 ? 0 : -lastErrno();
  }

  /** Receives frames, for {@link take}; 0 when there are none, or a negative errno. */
  receive(): number {
    const { address } = this.buffer;
    const count = libc.recvmmsg(this.fd, address + HEADERS, BATCH, MSG_DONTWAIT, 0);
    if (count >= 0) return count;
    const errno = lastErrno();
    return errno === ERRNO.EAGAIN || errno === ERRNO.EINTR ? 0 : -errno;
  }

  /** True when the last {@link receive} may have left some. */
  static isMore(count: number): boolean {
    return count === BATCH;
  }

  /** Reads a frame of the last {@link receive}. */
  take(index: number, frame: RawCanFrame, data: Uint8Array): void {
    const { view, buffer } = this;
    const at = FRAMES + index * FRAME_STRIDE;
    const header = HEADERS + index * HEADER_SIZE;
    frame.word = view.getUint32(at, true);
    frame.isFd = view.getUint32(header + MSG_LEN, true) === FD_SIZE;
    frame.length = Math.min(view.getUint8(at + 4), frame.isFd ? FD_SIZE - DATA : 8);
    frame.isOwn = (view.getUint32(header + MSG_FLAGS, true) & MSG_CONFIRM) !== 0;
    for (let i = 0; i < frame.length; i += 1) data[i] = buffer.bytes[at + DATA + i]!;
  }

  /** Frames that the kernel had no room for, since the socket was opened. */
  get droppedCount(): number {
    const { address } = this.buffer;
    this.view.setUint32(VALUE, 36, true);
    const result = libc.getsockopt(
      this.fd,
      SOL_SOCKET,
      SO_MEMINFO,
      address + ARGUMENT,
      address + VALUE,
    );
    return result < 0 ? 0 : this.view.getUint32(ARGUMENT + 32, true);
  }

  /** Nothing more may be asked. Idempotent. */
  close(): void {
    if (!this.socket.isOpen) return;
    const fd = this.socket.take();
    const { pending, buffer } = this;
    void pending.then(() => libc.close.async(fd, () => buffer.free()));
  }
}
