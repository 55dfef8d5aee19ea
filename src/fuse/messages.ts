/**
 * All requests of the FUSE protocol in one table: number, fixed part of the request, what follows
 * it, and the fixed part of the reply. From `include/uapi/linux/fuse.h` of Linux; names are its
 * own without the prefix FUSE_. Whoever carries FUSE requests (a mount here, the fs device of
 * section 5.11 of the virtio specification) takes its facts from this table.
 */
import { defineStruct, type FieldTable, type Struct, type StructValue } from '../virtio/index.js';

/** Before every request. */
export const FuseInHeader = defineStruct({
  len: 'u32',
  opcode: 'u32',
  unique: 'u64',
  nodeid: 'u64',
  uid: 'u32',
  gid: 'u32',
  pid: 'u32',
  extensions: 'u32',
});

/** Before every reply. */
export const FuseOutHeader = defineStruct({ len: 'u32', error: 'i32', unique: 'u64' });

const ATTRIBUTES = {
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  attributeFlags: 'u32',
} as const;

/** What `stat` tells of a node. */
export type FuseAttributes = StructValue<typeof ATTRIBUTES>;

const ENTRY = {
  nodeid: 'u64',
  generation: 'u64',
  entryValid: 'u64',
  attrValid: 'u64',
  entryValidNsec: 'u32',
  attrValidNsec: 'u32',
  ...ATTRIBUTES,
} as const;
const ATTR = { attrValid: 'u64', attrValidNsec: 'u32', reserved: 'u32', ...ATTRIBUTES } as const;
const OPENED = { fh: 'u64', openFlags: 'u32', backingId: 'u32' } as const;
const OPEN = { flags: 'u32', openFlags: 'u32' } as const;
const RELEASE = { fh: 'u64', flags: 'u32', releaseFlags: 'u32', lockOwner: 'u64' } as const;
const FSYNC = { fh: 'u64', fsyncFlags: 'u32', reserved: 'u32' } as const;
const TRANSFER = {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  transferFlags: 'u32',
  lockOwner: 'u64',
  flags: 'u32',
  reserved: 'u32',
} as const;
const LOCK = {
  fh: 'u64',
  owner: 'u64',
  start: 'u64',
  end: 'u64',
  type: 'u32',
  pid: 'u32',
  lockFlags: 'u32',
  reserved: 'u32',
} as const;
const LOCKED = { start: 'u64', end: 'u64', type: 'u32', pid: 'u32' } as const;
const SIZED = { size: 'u32', reserved: 'u32' } as const;
const COPY = {
  fhIn: 'u64',
  offsetIn: 'u64',
  nodeidOut: 'u64',
  fhOut: 'u64',
  offsetOut: 'u64',
  length: 'u64',
  flags: 'u64',
} as const;
const NONE = {} as const;

/** What follows the fixed part: so many names, each with a zero behind it; or bytes. */
export type FuseRest = 0 | 1 | 2 | 'bytes';

/** One row of the table. */
export interface FuseMessageSpec<
  Q extends FieldTable = FieldTable,
  R extends FieldTable = FieldTable,
> {
  readonly opcode: number;
  /** Fixed part of the request, after the header. */
  readonly request: Struct<StructValue<Q>>;
  readonly rest: FuseRest;
  /** Fixed part of a successful reply, after the header. */
  readonly reply: Struct<StructValue<R>>;
  /** True when there is no reply, whatever comes of it. */
  readonly isOneWay: boolean;
  /** What a request does, in a few words. */
  readonly summary: string;
}

function message<const Q extends FieldTable, const R extends FieldTable>(
  opcode: number,
  summary: string,
  request: Q,
  rest: FuseRest,
  reply: R,
): FuseMessageSpec<Q, R> {
  const [requestStruct, replyStruct] = [defineStruct(request), defineStruct(reply)];
  return { opcode, summary, request: requestStruct, rest, reply: replyStruct, isOneWay: false };
}

function oneWay<const Q extends FieldTable>(
  opcode: number,
  summary: string,
  request: Q,
  rest: FuseRest,
): FuseMessageSpec<Q, typeof NONE> {
  return { ...message(opcode, summary, request, rest, NONE), isOneWay: true };
}

/** All requests by name. */
export const FUSE_MESSAGES = {
  LOOKUP: message(1, 'finds a name in a folder', NONE, 1, ENTRY),
  FORGET: oneWay(2, 'forgets lookups of a node', { nlookup: 'u64' }, 0),
  GETATTR: message(3, 'stat', { getattrFlags: 'u32', reserved: 'u32', fh: 'u64' }, 0, ATTR),
  SETATTR: message(
    4,
    'chmod, chown, truncate, utimes',
    {
      valid: 'u32',
      reserved: 'u32',
      fh: 'u64',
      size: 'u64',
      lockOwner: 'u64',
      atime: 'u64',
      mtime: 'u64',
      ctime: 'u64',
      atimensec: 'u32',
      mtimensec: 'u32',
      ctimensec: 'u32',
      mode: 'u32',
      unused4: 'u32',
      uid: 'u32',
      gid: 'u32',
      unused5: 'u32',
    },
    0,
    ATTR,
  ),
  READLINK: message(5, 'readlink', NONE, 0, NONE),
  SYMLINK: message(6, 'symlink', NONE, 2, ENTRY),
  MKNOD: message(8, 'mknod', { mode: 'u32', rdev: 'u32', umask: 'u32', reserved: 'u32' }, 1, ENTRY),
  MKDIR: message(9, 'mkdir', { mode: 'u32', umask: 'u32' }, 1, ENTRY),
  UNLINK: message(10, 'unlink', NONE, 1, NONE),
  RMDIR: message(11, 'rmdir', NONE, 1, NONE),
  RENAME: message(12, 'rename', { newdir: 'u64' }, 2, NONE),
  LINK: message(13, 'link', { oldnodeid: 'u64' }, 1, ENTRY),
  OPEN: message(14, 'open', OPEN, 0, OPENED),
  READ: message(15, 'read', TRANSFER, 0, NONE),
  WRITE: message(16, 'write', TRANSFER, 'bytes', SIZED),
  STATFS: message(17, 'statfs', NONE, 0, {
    blocks: 'u64',
    bfree: 'u64',
    bavail: 'u64',
    files: 'u64',
    ffree: 'u64',
    bsize: 'u32',
    namelen: 'u32',
    frsize: 'u32',
    reserved: 'u32',
    spare: { bytes: 24 },
  }),
  RELEASE: message(18, 'the last close of an open file', RELEASE, 0, NONE),
  FSYNC: message(20, 'fsync, fdatasync', FSYNC, 0, NONE),
  SETXATTR: message(21, 'setxattr', { size: 'u32', flags: 'u32' }, 'bytes', NONE),
  GETXATTR: message(22, 'getxattr', SIZED, 1, SIZED),
  LISTXATTR: message(23, 'listxattr', SIZED, 0, SIZED),
  REMOVEXATTR: message(24, 'removexattr', NONE, 1, NONE),
  FLUSH: message(
    25,
    'each close of an open file',
    { fh: 'u64', unused: 'u32', reserved: 'u32', lockOwner: 'u64' },
    0,
    NONE,
  ),
  INIT: message(
    26,
    'the first request: version and flags',
    {
      major: 'u32',
      minor: 'u32',
      maxReadahead: 'u32',
      flags: 'u32',
      flags2: 'u32',
      unused: { bytes: 44 },
    },
    0,
    {
      major: 'u32',
      minor: 'u32',
      maxReadahead: 'u32',
      flags: 'u32',
      maxBackground: 'u16',
      congestionThreshold: 'u16',
      maxWrite: 'u32',
      timeGran: 'u32',
      maxPages: 'u16',
      mapAlignment: 'u16',
      flags2: 'u32',
      maxStackDepth: 'u32',
      requestTimeout: 'u16',
      unused: { bytes: 22 },
    },
  ),
  OPENDIR: message(27, 'opendir', OPEN, 0, OPENED),
  READDIR: message(28, 'readdir', TRANSFER, 0, NONE),
  RELEASEDIR: message(29, 'closedir', RELEASE, 0, NONE),
  FSYNCDIR: message(30, 'fsync of a folder', FSYNC, 0, NONE),
  GETLK: message(31, 'asks for a POSIX lock', LOCK, 0, LOCKED),
  SETLK: message(32, 'sets a POSIX lock', LOCK, 0, NONE),
  SETLKW: message(33, 'sets a POSIX lock, and waits', LOCK, 0, NONE),
  ACCESS: message(34, 'access', { mask: 'u32', reserved: 'u32' }, 0, NONE),
  CREATE: message(
    35,
    'open with O_CREAT',
    { flags: 'u32', mode: 'u32', umask: 'u32', openFlags: 'u32' },
    1,
    { ...ENTRY, ...OPENED },
  ),
  INTERRUPT: oneWay(36, 'a signal came for a request', { interrupted: 'u64' }, 0),
  BMAP: message(37, 'block of a file', { block: 'u64', blocksize: 'u32', reserved: 'u32' }, 0, {
    block: 'u64',
  }),
  DESTROY: message(38, 'the end of the mount', NONE, 0, NONE),
  IOCTL: message(
    39,
    'ioctl',
    { fh: 'u64', flags: 'u32', cmd: 'u32', arg: 'u64', inSize: 'u32', outSize: 'u32' },
    'bytes',
    { result: 'i32', flags: 'u32', inIovs: 'u32', outIovs: 'u32' },
  ),
  POLL: message(40, 'poll', { fh: 'u64', kh: 'u64', flags: 'u32', events: 'u32' }, 0, {
    revents: 'u32',
    reserved: 'u32',
  }),
  NOTIFY_REPLY: oneWay(41, 'the answer to a RETRIEVE of ours', TRANSFER, 'bytes'),
  BATCH_FORGET: oneWay(42, 'FORGET for many nodes', { count: 'u32', reserved: 'u32' }, 'bytes'),
  FALLOCATE: message(
    43,
    'fallocate',
    { fh: 'u64', offset: 'u64', length: 'u64', mode: 'u32', reserved: 'u32' },
    0,
    NONE,
  ),
  READDIRPLUS: message(44, 'readdir with attributes', TRANSFER, 0, NONE),
  RENAME2: message(45, 'renameat2', { newdir: 'u64', flags: 'u32', reserved: 'u32' }, 2, NONE),
  LSEEK: message(
    46,
    'lseek for data and holes',
    { fh: 'u64', offset: 'u64', whence: 'u32', reserved: 'u32' },
    0,
    { offset: 'u64' },
  ),
  COPY_FILE_RANGE: message(47, 'copy_file_range', COPY, 0, SIZED),
  SETUPMAPPING: message(
    48,
    'maps a part of a file into the DAX window',
    { fh: 'u64', fileOffset: 'u64', length: 'u64', flags: 'u64', windowOffset: 'u64' },
    0,
    NONE,
  ),
  REMOVEMAPPING: message(49, 'unmaps parts of the DAX window', { count: 'u32' }, 'bytes', NONE),
  SYNCFS: message(50, 'syncfs', { reserved: 'u64' }, 0, NONE),
  TMPFILE: message(
    51,
    'open with O_TMPFILE',
    { flags: 'u32', mode: 'u32', umask: 'u32', openFlags: 'u32' },
    1,
    { ...ENTRY, ...OPENED },
  ),
  STATX: message(
    52,
    'statx',
    { getattrFlags: 'u32', reserved: 'u32', fh: 'u64', statxFlags: 'u32', mask: 'u32' },
    0,
    {
      attrValid: 'u64',
      attrValidNsec: 'u32',
      flags: 'u32',
      spare: { bytes: 16 },
      statx: { bytes: 256 },
    },
  ),
  COPY_FILE_RANGE_64: message(53, 'copy_file_range, long', COPY, 0, { bytesCopied: 'u64' }),
} as const;

export type FuseMessageName = keyof typeof FUSE_MESSAGES;

/** Number of a request by its name, for switches on the path of requests. */
export const FUSE_OPCODE = Object.fromEntries(
  Object.entries(FUSE_MESSAGES).map(([name, { opcode }]) => [name, opcode]),
) as { readonly [K in FuseMessageName]: number };

const nameByOpcode = new Map<number, FuseMessageName>(
  (Object.keys(FUSE_MESSAGES) as FuseMessageName[]).map((name) => [FUSE_OPCODE[name], name]),
);

/** Name of a request; null for one that the table does not have. */
export function fuseMessageName(opcode: number): FuseMessageName | null {
  return nameByOpcode.get(opcode) ?? null;
}

/** Fixed part of a folder's entry in the answer to READDIR; the name follows, filled up to 8. */
export const FuseDirent = defineStruct({ ino: 'u64', offset: 'u64', nameSize: 'u32', type: 'u32' });
