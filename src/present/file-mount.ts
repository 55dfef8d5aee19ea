/**
 * A FUSE mount with one file in it: answers all that is asked about folder and file, and hands
 * what is asked of the file's content to its owner.
 *
 *   kernel ──► FileMount ──► ServedFile.read, write, sync, allocate … ──► reply…(request)
 *
 * The owner of the file gives the memory into which the next request is read. Where that is memory
 * of a ring, data goes between the kernel and the device without another copy.
 */
import {
  FATTR,
  FOPEN,
  FUSE_ENDED,
  FUSE_INIT_BIT,
  FUSE_MAJOR,
  FUSE_MESSAGES,
  FUSE_MINOR,
  FUSE_NOTHING,
  FUSE_NOTIFY,
  FUSE_OPCODE,
  FUSE_ROOT_ID,
  type FuseAttributes,
  type FuseChannel,
  FuseDirent,
  FuseRing,
  isFuseRingEnabled,
  possibleProcessors,
  type RingPayload,
} from '../fuse/index.js';
import { ERRNO } from '../native/index.js';

/** The file that a mount shows. */
export interface ServedFile {
  /** Set by the mount: how requests are answered. */
  channel: FuseChannel;
  readonly name: string;
  /** Permission bits at first; the owner may change them with chmod. */
  readonly mode: number;
  /** Size in bytes; 0 for a stream. */
  readonly size: number;
  /** Memory for the payload of the next request; null: read nothing more from the kernel now. */
  payload(): Uint8Array | null;
  /** The address of that memory. */
  payloadAddress(): number;
  /** @returns flags of FOPEN, or a negative errno. */
  open(flags: number): number;
  /** Each of these ends with one reply of the mount's channel, at once or later. */
  read(low: number, high: number, offset: number, size: number): void;
  /** The data lies in the memory that {@link payload} gave last. `flags` are those of the open. */
  write(low: number, high: number, offset: number, size: number, flags: number): void;
  sync(low: number, high: number): void;
  allocate(low: number, high: number, mode: number, offset: number, size: number): void;
  /**
   * Gives `count` pieces of memory for good, for requests that arrive in entries of a ring; null
   * where it has not so many.
   */
  bindEntries?(count: number): readonly RingPayload[] | null;
  /** Runs `serve` for a request whose payload is that of an entry. */
  withEntry?(entry: number, serve: () => void): void;
  /** A signal came for the sender of a request that was not answered yet. */
  interrupt(low: number, high: number): void;
}

/** Most requests that the kernel sends on its own account (read-ahead, direct I/O) at a time. */
const BACKGROUND_MAX = 256;
/** Requests taken in one go: then the ring gets its turn. */
const BATCH_MAX = 64;
/** Requests in flight through a ring, over all of its queues; fewer than a queue's worth: none. */
const RING_ENTRIES_MAX = 60;
const QUEUE_ENTRIES_MIN = 2;
const FILE_ID = 2;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const BLOCK_SIZE = 4096;
/** Names and attributes change through us alone: the kernel may keep them. In seconds. */
const VALID_S = 365 * 86_400;
const DIRENT_FOLDER = 4;
const DIRENT_FILE = 8;

/** What would change the folder, which holds the device and nothing else. */
const CHANGES: ReadonlySet<number> = new Set(
  (
    ['CREATE', 'MKNOD', 'MKDIR', 'SYMLINK', 'LINK', 'UNLINK', 'RMDIR', 'RENAME', 'RENAME2'] as const
  ).map((name) => FUSE_OPCODE[name]),
);

const INIT_FLAGS: readonly (keyof typeof FUSE_INIT_BIT)[] = [
  'ASYNC_READ',
  'BIG_WRITES',
  'ASYNC_DIO',
  'PARALLEL_DIROPS',
  'MAX_PAGES',
  'INIT_EXT',
];

/** A request as it came, by whatever way. */
type Incoming = Pick<FuseChannel, 'opcode' | 'nodeid' | 'uniqueLow' | 'uniqueHigh'> &
  Pick<FuseChannel, 'u32' | 'u64' | 'body'>;

export class FileMount {
  /** Called when a ring is there, to be polled too. */
  onRing: (ring: FuseRing) => void = () => {};
  /** Called when the mount is gone: somebody unmounted it. */
  onEnd: () => void = () => {};
  readonly channel: FuseChannel;
  private readonly file: ServedFile;
  private readonly transferSizeMax: number;
  private readonly owner = { uid: process.geteuid!(), gid: process.getegid!() };
  private readonly times = { atime: now(), mtime: now(), ctime: now() };
  private mode: number;
  private isWritten = false;
  /** The request that is being served. */
  private incoming: Incoming;
  private readonly serveIncoming = (): void => this.serve();
  private isEnded = false;

  /** @param transferSizeMax most bytes of one READ or WRITE, a multiple of 4096 */
  constructor(channel: FuseChannel, file: ServedFile, transferSizeMax: number) {
    this.channel = channel;
    this.incoming = channel;
    this.file = file;
    file.channel = channel;
    this.mode = file.mode;
    this.transferSizeMax = transferSizeMax;
  }

  /** To look for requests takes a system call. */
  readonly isCheap = false;

  /** Descriptor to wait on for requests. */
  get fd(): number {
    return this.channel.descriptor;
  }

  /** True when a request would be taken now. */
  get isReady(): boolean {
    return !this.isEnded && this.file.payload() !== null;
  }

  /** Takes the requests that are there; true when there were some. */
  poll(): boolean {
    const { channel, file } = this;
    if (this.isEnded) return false;
    let count = 0;
    for (; count < BATCH_MAX; count += 1) {
      const payload = file.payload();
      if (payload === null) break;
      const size = channel.receive(file.payloadAddress(), payload);
      if (size === FUSE_NOTHING) break;
      if (size === FUSE_ENDED) {
        this.isEnded = true;
        this.onEnd();
        break;
      }
      this.incoming = channel;
      this.serve();
    }
    return count > 0;
  }

  /** Hands answers to the ring and takes requests from it; true when there were some. */
  pollRing(ring: FuseRing): boolean {
    const { file } = this;
    if (this.isEnded || this.channel.ring !== ring) return false;
    let worked = ring.submit();
    for (let count = 0; count < BATCH_MAX; count += 1) {
      // Somebody has the disk to itself: whoever comes waits.
      if (file.payload() === null || !ring.next()) break;
      worked = true;
      this.incoming = ring;
      file.withEntry!(ring.uniqueLow, this.serveIncoming);
    }
    return worked;
  }

  /** The size of the file has changed: the kernel forgets what it knew. */
  resized(): void {
    const bytes = Buffer.alloc(24);
    bytes.writeBigUInt64LE(BigInt(FILE_ID), 0);
    // The attributes only: to give up pages, the kernel might wait for one that it asks us for.
    bytes.writeBigInt64LE(-1n, 8);
    this.channel.notify(FUSE_NOTIFY.INVAL_INODE, bytes);
  }

  private serve(): void {
    const { channel, file, incoming } = this;
    const { uniqueLow: low, uniqueHigh: high, nodeid } = incoming;
    switch (incoming.opcode) {
      case FUSE_OPCODE.READ:
        file.read(low, high, incoming.u64(8), incoming.u32(16));
        return;
      case FUSE_OPCODE.WRITE:
        this.isWritten = true;
        file.write(low, high, incoming.u64(8), incoming.u32(16), incoming.u32(32));
        return;
      case FUSE_OPCODE.FSYNC:
        file.sync(low, high);
        return;
      case FUSE_OPCODE.FALLOCATE:
        this.isWritten = true;
        file.allocate(low, high, incoming.u32(24), incoming.u64(8), incoming.u64(16));
        return;
      case FUSE_OPCODE.INTERRUPT:
        this.interrupt(incoming.u32(0), incoming.u32(4));
        return;
      case FUSE_OPCODE.FORGET:
      case FUSE_OPCODE.BATCH_FORGET:
        return;
      case FUSE_OPCODE.INIT:
        this.init(low, high);
        return;
      case FUSE_OPCODE.LOOKUP:
        this.lookup(low, high);
        return;
      case FUSE_OPCODE.GETATTR:
        this.replyAttributes(low, high, nodeid);
        return;
      case FUSE_OPCODE.SETATTR:
        this.setAttributes(low, high, nodeid);
        return;
      case FUSE_OPCODE.OPEN:
        this.open(low, high);
        return;
      case FUSE_OPCODE.OPENDIR:
        this.replyOpened(low, high, FOPEN.KEEP_CACHE);
        return;
      case FUSE_OPCODE.READDIR:
        this.readFolder(low, high, incoming.u64(8), incoming.u32(16));
        return;
      case FUSE_OPCODE.STATFS:
        this.replyStatfs(low, high);
        return;
      case FUSE_OPCODE.RELEASE:
      case FUSE_OPCODE.RELEASEDIR:
      case FUSE_OPCODE.FSYNCDIR:
      case FUSE_OPCODE.DESTROY:
        channel.replyStatus(low, high, 0);
        return;
      default:
        // After ENOSYS the kernel does what it can by itself, and asks no more.
        channel.replyStatus(low, high, CHANGES.has(incoming.opcode) ? ERRNO.EPERM! : ERRNO.ENOSYS!);
    }
  }

  private init(low: number, high: number): void {
    const { channel } = this;
    const spec = FUSE_MESSAGES.INIT;
    const request = spec.request.decode(padded(this.incoming.body(), spec.request.size));
    if (request.major !== FUSE_MAJOR) {
      // A kernel of another major version: it hears ours, and asks again or gives up.
      const version = { major: FUSE_MAJOR, minor: FUSE_MINOR };
      channel.replyBytes(low, high, spec.reply.encode(version));
      return;
    }
    const offered = BigInt(request.flags) | (BigInt(request.flags2) << 32n);
    let flags = 0n;
    const ringBit = 1n << BigInt(FUSE_INIT_BIT.OVER_IO_URING);
    const ring = (offered & ringBit) === 0n ? null : this.makeRing();
    if (ring !== null) flags |= ringBit;
    for (const name of INIT_FLAGS) flags |= offered & (1n << BigInt(FUSE_INIT_BIT[name]));
    channel.replyBytes(
      low,
      high,
      spec.reply.encode({
        major: FUSE_MAJOR,
        minor: Math.min(FUSE_MINOR, request.minor),
        maxReadahead: Math.min(request.maxReadahead, this.transferSizeMax),
        flags: Number(flags & 0xffffffffn),
        flags2: Number(flags >> 32n),
        maxBackground: BACKGROUND_MAX,
        congestionThreshold: BACKGROUND_MAX,
        maxWrite: this.transferSizeMax,
        timeGran: 1,
        maxPages: this.transferSizeMax / BLOCK_SIZE,
      }),
    );
    if (ring === null) return;
    channel.ring = ring;
    ring.start();
    this.onRing(ring);
  }

  /** A ring for files that lend it memory, where the machine's owner has switched it on. */
  private makeRing(): FuseRing | null {
    const { file, channel } = this;
    if (file.bindEntries === undefined || !isFuseRingEnabled()) return null;
    const queueCount = possibleProcessors();
    const perQueue = Math.floor(RING_ENTRIES_MAX / queueCount);
    if (perQueue < QUEUE_ENTRIES_MIN) return null;
    const ring = FuseRing.create(channel.descriptor, queueCount, perQueue * queueCount);
    const payloads = ring === null ? null : file.bindEntries(perQueue * queueCount);
    if (payloads !== null) ring?.lend(payloads);
    else ring?.close();
    return payloads === null ? null : ring;
  }

  private interrupt(low: number, high: number): void {
    const entry = this.channel.ring?.find(low, high) ?? -1;
    // The memory of an entry is the device's until the request is back: it cannot be given up.
    if (entry < 0) this.file.interrupt(low, high);
  }

  private lookup(low: number, high: number): void {
    const { channel, file } = this;
    const body = Buffer.from(this.incoming.body());
    const end = body.indexOf(0);
    const name = body.toString('utf8', 0, end < 0 ? body.length : end);
    if (this.incoming.nodeid !== FUSE_ROOT_ID || name !== file.name) {
      channel.replyStatus(low, high, ERRNO.ENOENT!);
      return;
    }
    const entry = { nodeid: FILE_ID, entryValid: VALID_S, attrValid: VALID_S };
    const reply = { ...entry, ...this.attributes(FILE_ID) };
    channel.replyBytes(low, high, FUSE_MESSAGES.LOOKUP.reply.encode(reply));
  }

  private attributes(nodeid: number): FuseAttributes {
    const isFolder = nodeid === FUSE_ROOT_ID;
    if (this.isWritten) {
      this.isWritten = false;
      this.times.mtime = now();
    }
    const { atime, mtime, ctime } = this.times;
    const size = isFolder ? 0 : this.file.size;
    return {
      ...{ ino: nodeid, size, blocks: Math.ceil(size / 512) },
      ...{ atime: seconds(atime), mtime: seconds(mtime), ctime: seconds(ctime) },
      ...{ atimensec: rest(atime), mtimensec: rest(mtime), ctimensec: rest(ctime) },
      mode: isFolder ? S_IFDIR | 0o755 : S_IFREG | this.mode,
      nlink: isFolder ? 2 : 1,
      ...this.owner,
      ...{ rdev: 0, blksize: BLOCK_SIZE, attributeFlags: 0 },
    };
  }

  private replyAttributes(low: number, high: number, nodeid: number): void {
    const reply = { attrValid: VALID_S, ...this.attributes(nodeid) };
    this.channel.replyBytes(low, high, FUSE_MESSAGES.GETATTR.reply.encode(reply));
  }

  private setAttributes(low: number, high: number, nodeid: number): void {
    const { channel } = this;
    const spec = FUSE_MESSAGES.SETATTR.request;
    const wanted = spec.decode(padded(this.incoming.body(), spec.size));
    const { valid } = wanted;
    if (nodeid !== FILE_ID) {
      channel.replyStatus(low, high, ERRNO.EPERM!);
      return;
    }
    // A disk keeps its size. As with a block device, ftruncate fails and O_TRUNC changes nothing:
    // the latter comes as a new size of 0, and not through an open file.
    const isOpening = wanted.size === 0 && (valid & FATTR.FH) === 0;
    if ((valid & FATTR.SIZE) !== 0 && wanted.size !== this.file.size && !isOpening) {
      channel.replyStatus(low, high, ERRNO.EINVAL!);
      return;
    }
    if ((valid & FATTR.MODE) !== 0) this.mode = wanted.mode & 0o777;
    if ((valid & FATTR.UID) !== 0) this.owner.uid = wanted.uid;
    if ((valid & FATTR.GID) !== 0) this.owner.gid = wanted.gid;
    const { times } = this;
    if ((valid & FATTR.ATIME_NOW) !== 0) times.atime = now();
    else if ((valid & FATTR.ATIME) !== 0)
      times.atime = milliseconds(wanted.atime, wanted.atimensec);
    if ((valid & FATTR.MTIME_NOW) !== 0) times.mtime = now();
    else if ((valid & FATTR.MTIME) !== 0)
      times.mtime = milliseconds(wanted.mtime, wanted.mtimensec);
    times.ctime = now();
    this.replyAttributes(low, high, nodeid);
  }

  private open(low: number, high: number): void {
    const { channel } = this;
    const flags =
      this.incoming.nodeid === FILE_ID ? this.file.open(this.incoming.u32(0)) : -ERRNO.EISDIR!;
    if (flags < 0) channel.replyStatus(low, high, -flags);
    else this.replyOpened(low, high, flags | FOPEN.NOFLUSH);
  }

  private replyOpened(low: number, high: number, openFlags: number): void {
    this.channel.replyBytes(low, high, FUSE_MESSAGES.OPEN.reply.encode({ openFlags }));
  }

  private readFolder(low: number, high: number, offset: number, size: number): void {
    const entries = [
      { ino: FUSE_ROOT_ID, type: DIRENT_FOLDER, name: '.' },
      { ino: FUSE_ROOT_ID, type: DIRENT_FOLDER, name: '..' },
      { ino: FILE_ID, type: DIRENT_FILE, name: this.file.name },
    ];
    const parts: Buffer[] = [];
    let used = 0;
    for (const [index, { ino, type, name }] of entries.entries()) {
      const text = Buffer.from(name);
      const part = Buffer.alloc(Math.ceil((FuseDirent.size + text.length) / 8) * 8);
      part.set(FuseDirent.encode({ ino, type, offset: index + 1, nameSize: text.length }));
      part.set(text, FuseDirent.size);
      if (index < offset) continue;
      if (used + part.length > size) break;
      used += part.length;
      parts.push(part);
    }
    this.channel.replyBytes(low, high, Buffer.concat(parts));
  }

  private replyStatfs(low: number, high: number): void {
    const blocks = Math.ceil(this.file.size / BLOCK_SIZE);
    const reply = { blocks, files: 1, bsize: BLOCK_SIZE, frsize: BLOCK_SIZE, namelen: 255 };
    this.channel.replyBytes(low, high, FUSE_MESSAGES.STATFS.reply.encode(reply));
  }
}

const now = (): number => Date.now();
const milliseconds = (s: number, ns: number): number => s * 1000 + Math.floor(ns / 1_000_000);
const seconds = (ms: number): number => Math.floor(ms / 1000);
const rest = (ms: number): number => (ms % 1000) * 1_000_000;

/** Older kernels send shorter requests: what is missing is zero. */
function padded(bytes: Uint8Array, size: number): Uint8Array {
  if (bytes.length >= size) return bytes;
  const whole = new Uint8Array(size);
  whole.set(bytes);
  return whole;
}
