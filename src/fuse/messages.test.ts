import { expect, test } from 'vitest';
import {
  FUSE_MESSAGES,
  FUSE_OPCODE,
  FuseDirent,
  FuseInHeader,
  type FuseMessageName,
  FuseOutHeader,
  fuseMessageName,
} from './messages.js';

// From include/uapi/linux/fuse.h: bytes of the fixed part of request and reply, by name.
// SETXATTR without FUSE_SETXATTR_EXT, which we never ask for.
const SIZES: Readonly<Record<FuseMessageName, readonly [number, number]>> = {
  LOOKUP: [0, 128],
  FORGET: [8, 0],
  GETATTR: [16, 104],
  SETATTR: [88, 104],
  READLINK: [0, 0],
  SYMLINK: [0, 128],
  MKNOD: [16, 128],
  MKDIR: [8, 128],
  UNLINK: [0, 0],
  RMDIR: [0, 0],
  RENAME: [8, 0],
  LINK: [8, 128],
  OPEN: [8, 16],
  READ: [40, 0],
  WRITE: [40, 8],
  STATFS: [0, 80],
  RELEASE: [24, 0],
  FSYNC: [16, 0],
  SETXATTR: [8, 0],
  GETXATTR: [8, 8],
  LISTXATTR: [8, 8],
  REMOVEXATTR: [0, 0],
  FLUSH: [24, 0],
  INIT: [64, 64],
  OPENDIR: [8, 16],
  READDIR: [40, 0],
  RELEASEDIR: [24, 0],
  FSYNCDIR: [16, 0],
  GETLK: [48, 24],
  SETLK: [48, 0],
  SETLKW: [48, 0],
  ACCESS: [8, 0],
  CREATE: [16, 144],
  INTERRUPT: [8, 0],
  BMAP: [16, 8],
  DESTROY: [0, 0],
  IOCTL: [32, 16],
  POLL: [24, 8],
  NOTIFY_REPLY: [40, 0],
  BATCH_FORGET: [8, 0],
  FALLOCATE: [32, 0],
  READDIRPLUS: [40, 0],
  RENAME2: [16, 0],
  LSEEK: [24, 8],
  COPY_FILE_RANGE: [56, 8],
  SETUPMAPPING: [40, 0],
  REMOVEMAPPING: [4, 0],
  SYNCFS: [8, 0],
  TMPFILE: [16, 144],
  STATX: [24, 288],
  COPY_FILE_RANGE_64: [56, 8],
};

test('every structure has the size of the header file', () => {
  expect([FuseInHeader.size, FuseOutHeader.size, FuseDirent.size]).toEqual([40, 16, 24]);
  const sizes = Object.fromEntries(
    Object.entries(FUSE_MESSAGES).map(([name, { request, reply }]) => [
      name,
      [request.size, reply.size],
    ]),
  );
  expect(sizes).toEqual(SIZES);
});

test('fields lie where the header file has them', () => {
  const { SETATTR, READ, WRITE, FALLOCATE, GETATTR, LOOKUP, INIT, STATFS } = FUSE_MESSAGES;
  expect(FuseInHeader.offsets).toMatchObject({ opcode: 4, unique: 8, nodeid: 16, uid: 24 });
  expect(SETATTR.request.offsets).toMatchObject({ size: 16, mode: 68, uid: 76, gid: 80 });
  expect(READ.request.offsets).toMatchObject({ offset: 8, size: 16, flags: 32 });
  expect(WRITE.request.offsets).toMatchObject({ offset: 8, size: 16, flags: 32 });
  expect(FALLOCATE.request.offsets).toMatchObject({ offset: 8, length: 16, mode: 24 });
  expect(GETATTR.reply.offsets).toMatchObject({ ino: 16, size: 24, mode: 76 });
  expect(LOOKUP.reply.offsets).toMatchObject({ attrValid: 24, ino: 40, mode: 100, blksize: 120 });
  expect(INIT.request.offsets).toMatchObject({ flags: 12, flags2: 16 });
  expect(INIT.reply.offsets).toMatchObject({
    maxWrite: 20,
    timeGran: 24,
    maxPages: 28,
    flags2: 32,
  });
  expect(STATFS.reply.offsets).toMatchObject({ bsize: 40, namelen: 44, frsize: 48 });
});

test('numbers are complete, and no two are the same', () => {
  const numbers = Object.values(FUSE_OPCODE).sort((a, b) => a - b);
  const all = Array.from({ length: 53 }, (_, i) => i + 1);
  expect(numbers).toEqual(all.filter((number) => number !== 7 && number !== 19));
  expect([FUSE_OPCODE.INIT, FUSE_OPCODE.WRITE, FUSE_OPCODE.TMPFILE]).toEqual([26, 16, 51]);
  for (const [name, opcode] of Object.entries(FUSE_OPCODE)) {
    expect(fuseMessageName(opcode)).toBe(name);
  }
  expect([fuseMessageName(7), fuseMessageName(0), fuseMessageName(4096)]).toEqual([
    null,
    null,
    null,
  ]);
});

test('one-way messages are those without a reply in the header file', () => {
  const names = Object.entries(FUSE_MESSAGES).filter(([, { isOneWay }]) => isOneWay);
  expect(names.map(([name]) => name)).toEqual([
    'FORGET',
    'INTERRUPT',
    'NOTIFY_REPLY',
    'BATCH_FORGET',
  ]);
});
