import { constants } from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  FATTR,
  FOPEN,
  FUSE_INIT_BIT,
  FUSE_MESSAGES,
  FUSE_OPCODE,
  type FuseChannel,
  type FuseMessageName,
} from '../fuse/index.js';
import { FakeKernel, type FakeReply, requestBytes } from '../fuse/test-utils.js';
import { ERRNO, NativeBuffer } from '../native/index.js';
import { FileMount, type ServedFile } from './file-mount.js';

const ROOT = 1;
const FILE = 2;
const MiB = 1 << 20;

/** A file that notes what it is asked for, and answers at once. */
class FakeFile implements ServedFile {
  channel!: FuseChannel;
  readonly name = 'disk';
  readonly mode = 0o640;
  size = 10 * MiB + 512;
  /** False: no memory for more requests. */
  hasRoom = true;
  openResult: number = FOPEN.KEEP_CACHE;
  readonly calls: unknown[][] = [];
  readonly memory = new NativeBuffer(64 * 1024);

  payload(): Uint8Array | null {
    return this.hasRoom ? this.memory.bytes : null;
  }

  payloadAddress(): number {
    return this.memory.address;
  }

  open(flags: number): number {
    this.calls.push(['open', flags]);
    return this.openResult;
  }

  private note(low: number, high: number, ...call: unknown[]): void {
    this.calls.push(call);
    this.channel.replyStatus(low, high, 0);
  }

  read(low: number, high: number, offset: number, size: number): void {
    this.note(low, high, 'read', offset, size);
  }

  write(low: number, high: number, offset: number, size: number, flags: number): void {
    this.note(low, high, 'write', offset, size, flags);
  }

  sync(low: number, high: number): void {
    this.note(low, high, 'sync');
  }

  allocate(low: number, high: number, mode: number, offset: number, size: number): void {
    this.note(low, high, 'allocate', mode, offset, size);
  }

  interrupt(low: number, high: number): void {
    this.calls.push(['interrupt', low, high]);
  }
}

let kernel: FakeKernel;
let file: FakeFile;
let mount: FileMount;
beforeEach(() => {
  kernel = new FakeKernel();
  file = new FakeFile();
  mount = new FileMount(kernel.channel, file, MiB);
});
afterEach(() => {
  kernel.close();
  file.memory.free();
});

type Fields = Readonly<Record<string, number>>;

function ask(name: FuseMessageName, fields: Fields = {}, nodeid = FILE, rest = ''): FakeReply {
  const unique = kernel.send(name, { nodeid, fields, rest: Buffer.from(rest) });
  expect(mount.poll()).toBe(true);
  const [reply, ...others] = kernel.take().concat();
  expect(others).toEqual([]);
  expect(reply!.unique).toBe(unique);
  kernel.replies.length = 0;
  return reply!;
}

/** The reply's fixed part; the request has to succeed. */
function asked(name: FuseMessageName, fields: Fields = {}, nodeid = FILE, rest = ''): Fields {
  const { errno, body } = ask(name, fields, nodeid, rest);
  expect(errno).toBe(0);
  expect(body.length).toBe(FUSE_MESSAGES[name].reply.size);
  return FUSE_MESSAGES[name].reply.decode(body) as unknown as Fields;
}

describe('INIT', () => {
  const bit = (...names: (keyof typeof FUSE_INIT_BIT)[]): bigint =>
    names.reduce((flags, name) => flags | (1n << BigInt(FUSE_INIT_BIT[name])), 0n);
  const flagsOf = (reply: Fields): bigint => BigInt(reply.flags!) | (BigInt(reply.flags2!) << 32n);

  test('a new kernel: flags of both words, sizes of ours', () => {
    const offered = { flags: 0xffffffff, flags2: 0xffffffff & ~(1 << 9) };
    const reply = asked('INIT', { major: 7, minor: 44, maxReadahead: 2 ** 30, ...offered }, 0);
    expect(reply).toMatchObject({
      ...{ major: 7, minor: 41, maxReadahead: MiB, maxWrite: MiB, maxPages: 256, timeGran: 1 },
    });
    expect(flagsOf(reply)).toBe(
      bit('ASYNC_READ', 'BIG_WRITES', 'ASYNC_DIO', 'PARALLEL_DIROPS', 'MAX_PAGES', 'INIT_EXT'),
    );
  });

  test('an old kernel: a request of 16 bytes, and only what it offers', () => {
    const whole = FUSE_MESSAGES.INIT.request.encode({
      ...{ major: 7, minor: 12, maxReadahead: 65536, flags: 0x21 },
    });
    kernel.sendBytes(requestBytes(FUSE_OPCODE.INIT, 0, 8, whole.subarray(0, 16)));
    mount.poll();
    const [{ errno, body }] = kernel.take() as [FakeReply];
    expect(errno).toBe(0);
    const reply = FUSE_MESSAGES.INIT.reply.decode(body);
    expect(reply).toMatchObject({ minor: 12, maxReadahead: 65536, flags: 0x21, flags2: 0 });
  });

  test('another major version hears ours', () => {
    expect(asked('INIT', { major: 8, minor: 1 }, 0)).toMatchObject({ major: 7, maxWrite: 0 });
  });
});

test('LOOKUP finds the file in the folder and nothing else', () => {
  const entry = asked('LOOKUP', {}, ROOT, 'disk\0');
  expect(entry).toMatchObject({ nodeid: FILE, ino: FILE, mode: 0o100640, size: file.size });
  expect(entry.entryValid).toBeGreaterThan(0);
  const long = `${'x'.repeat(5000)}\0`;
  for (const [nodeid, name] of [
    [ROOT, 'dis\0'],
    [ROOT, 'disk2\0'],
    [ROOT, ''],
    [ROOT, long],
    [FILE, 'disk\0'],
  ] as const) {
    expect(ask('LOOKUP', {}, nodeid, name).errno).toBe(ERRNO.ENOENT);
  }
});

test('GETATTR of folder and file; STATFS', () => {
  expect(asked('GETATTR', {}, ROOT)).toMatchObject({ ino: 1, mode: 0o040755, nlink: 2, size: 0 });
  expect(asked('GETATTR')).toMatchObject({
    ...{ ino: FILE, mode: 0o100640, nlink: 1, size: file.size, blocks: file.size / 512 },
    ...{ uid: process.geteuid!(), gid: process.getegid!(), blksize: 4096 },
  });
  file.size = 4096;
  expect(asked('GETATTR').size).toBe(4096);
  expect(asked('STATFS', {}, ROOT)).toMatchObject({ blocks: 1, bfree: 0, bsize: 4096 });
});

describe('SETATTR', () => {
  test('chmod, chown and times are there afterwards', () => {
    asked('SETATTR', { valid: FATTR.MODE, mode: 0o104777 });
    const reply = asked('SETATTR', { valid: FATTR.UID | FATTR.GID, uid: 5, gid: 6 });
    expect(reply).toMatchObject({ mode: 0o100777, uid: 5, gid: 6 });
    const times = { atime: 1000, atimensec: 250_999_999, mtime: 2000, mtimensec: 7_000_000 };
    asked('SETATTR', { valid: FATTR.ATIME | FATTR.MTIME, ...times });
    expect(asked('GETATTR')).toMatchObject({ ...times, atimensec: 250_000_000, uid: 5 });
    asked('SETATTR', { valid: FATTR.ATIME | FATTR.ATIME_NOW | FATTR.MTIME | FATTR.MTIME_NOW });
    const { atime, mtime, ctime } = asked('GETATTR');
    for (const time of [atime, mtime, ctime]) {
      expect(Math.abs(Date.now() / 1000 - time!)).toBeLessThan(60);
    }
  });

  test('a write changes the time of change', () => {
    asked('SETATTR', { valid: FATTR.MTIME, mtime: 2000 });
    ask('WRITE', { offset: 0, size: 4 }, FILE, 'data');
    expect(asked('GETATTR').mtime).toBeGreaterThan(2000);
  });

  test('O_TRUNC changes nothing, and truncate is refused', () => {
    asked('SETATTR', { valid: FATTR.SIZE, size: 0 });
    asked('SETATTR', { valid: FATTR.SIZE | FATTR.FH, size: file.size });
    const errnos = [
      ask('SETATTR', { valid: FATTR.SIZE | FATTR.FH, size: 0 }).errno,
      ask('SETATTR', { valid: FATTR.SIZE, size: 4096 }).errno,
      ask('SETATTR', { valid: FATTR.SIZE, size: file.size + 1 }).errno,
    ];
    expect(errnos).toEqual([ERRNO.EINVAL, ERRNO.EINVAL, ERRNO.EINVAL]);
    expect(ask('SETATTR', { valid: FATTR.MODE, mode: 0 }, ROOT).errno).toBe(ERRNO.EPERM);
    expect(asked('GETATTR')).toMatchObject({ size: file.size, mode: 0o100640 });
  });
});

test('OPEN: flags and errors are those of the file', () => {
  const reply = asked('OPEN', { flags: constants.O_RDWR });
  expect(reply).toMatchObject({ fh: 0, openFlags: FOPEN.KEEP_CACHE | FOPEN.NOFLUSH });
  file.openResult = -ERRNO.EROFS!;
  expect(ask('OPEN', { flags: constants.O_WRONLY }).errno).toBe(ERRNO.EROFS);
  expect(ask('OPEN', {}, ROOT).errno).toBe(ERRNO.EISDIR);
  expect(file.calls).toEqual([
    ['open', constants.O_RDWR],
    ['open', constants.O_WRONLY],
  ]);
  asked('OPENDIR', {}, ROOT);
});

test('READDIR: from an offset on, and as much as fits', () => {
  const read = (offset: number, size: number): string[] => {
    const { body } = ask('READDIR', { offset, size }, ROOT);
    expect(body.length).toBeLessThanOrEqual(size);
    const names: string[] = [];
    for (let at = 0; at < body.length; ) {
      const nameSize = body.readUInt32LE(at + 16);
      names.push(body.toString('utf8', at + 24, at + 24 + nameSize));
      expect(body.readBigUInt64LE(at + 8)).toBe(BigInt(offset + names.length));
      at += Math.ceil((24 + nameSize) / 8) * 8;
    }
    return names;
  };
  expect(read(0, 4096)).toEqual(['.', '..', 'disk']);
  expect(read(2, 4096)).toEqual(['disk']);
  expect([read(3, 4096), read(0, 31)]).toEqual([[], []]);
  expect(read(0, 64)).toEqual(['.', '..']);
});

test('what is asked of the content goes to the file', () => {
  ask('READ', { offset: 2 ** 40, size: 4096 });
  ask('WRITE', { offset: 512, size: 4, flags: constants.O_DIRECT }, FILE, 'data');
  expect(Buffer.from(file.memory.bytes.subarray(0, 4)).toString()).toBe('data');
  ask('FSYNC');
  ask('FALLOCATE', { offset: 1, length: 2, mode: 3 });
  expect(file.calls).toEqual([
    ['read', 2 ** 40, 4096],
    ['write', 512, 4, constants.O_DIRECT],
    ['sync'],
    ['allocate', 3, 1, 2],
  ]);
});

test.each(['CREATE', 'MKNOD', 'MKDIR', 'SYMLINK', 'LINK', 'UNLINK', 'RMDIR', 'RENAME'] as const)(
  '%s: the folder is not to be changed',
  (name) => expect(ask(name, {}, ROOT, 'a\0b\0').errno).toBe(ERRNO.EPERM),
);

test('requests that end in success, are unknown, or have no reply', () => {
  for (const name of ['RELEASE', 'RELEASEDIR', 'FSYNCDIR', 'DESTROY'] as const) {
    expect(ask(name).errno).toBe(0);
  }
  for (const name of ['FLUSH', 'ACCESS', 'GETXATTR', 'IOCTL', 'LSEEK', 'SYNCFS'] as const) {
    expect(ask(name).errno).toBe(ERRNO.ENOSYS);
  }
  for (const opcode of [0, 7, 19, 4096, 0xffffffff]) {
    kernel.sendBytes(requestBytes(opcode, FILE, 100));
    mount.poll();
    expect(kernel.take()).toMatchObject([{ errno: ERRNO.ENOSYS, unique: 100 }]);
    kernel.replies.length = 0;
  }
  kernel.send('FORGET', { fields: { nlookup: 1 } });
  kernel.send('BATCH_FORGET', { fields: { count: 0 } });
  kernel.send('INTERRUPT', { fields: { interrupted: 2 ** 33 + 6 } });
  expect(mount.poll()).toBe(true);
  expect(mount.poll()).toBe(false);
  expect(kernel.take()).toEqual([]);
  expect(file.calls).toEqual([['interrupt', 6, 2]]);
});

test('without memory for it no request is taken', () => {
  file.hasRoom = false;
  kernel.send('FSYNC');
  expect([mount.isReady, mount.poll()]).toEqual([false, false]);
  expect(kernel.take()).toEqual([]);
  file.hasRoom = true;
  expect([mount.isReady, mount.poll()]).toEqual([true, true]);
  expect(kernel.take()).toHaveLength(1);
});

test('a new size: the kernel is told to forget the old one', () => {
  mount.resized();
  const body = Buffer.alloc(24);
  body[0] = FILE;
  // An offset below zero: the attributes, and no pages.
  body.writeBigInt64LE(-1n, 8);
  expect(kernel.take()).toEqual([{ errno: 2, unique: 0, body }]);
});

test('any bytes at all: nothing throws, and there is one reply at most', () => {
  const opcode = fc.oneof(fc.integer({ min: 0, max: 60 }), fc.nat(0xffffffff));
  const u64 = fc.oneof(fc.bigInt(0n, 3n), fc.bigInt(0n, 2n ** 64n - 1n));
  const body = fc.uint8Array({ maxLength: 200 });
  const header = fc.tuple(opcode, u64, u64, fc.boolean());
  fc.assert(
    fc.property(header, body, fc.nat(240), ([code, unique, nodeid, isRight], rest, cut) => {
      const bytes = requestBytes(code, 0, 0, rest);
      if (!isRight) bytes.writeUInt32LE(cut, 0);
      bytes.writeBigUInt64LE(unique, 8);
      bytes.writeBigUInt64LE(nodeid, 16);
      kernel.replies.length = 0;
      kernel.sendBytes(isRight ? bytes : bytes.subarray(0, Math.max(1, cut)));
      mount.poll();
      expect(kernel.take().length).toBeLessThanOrEqual(1);
      expect(mount.poll()).toBe(false);
    }),
    { numRuns: 2000 },
  );
});
