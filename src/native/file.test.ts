import { openSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { IovecList, NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import {
  FALLOCATE,
  fallocate,
  fdatasync,
  ioctl,
  isUnsupported,
  preadv,
  pwritev,
  readInto,
} from './file.js';
import { ERRNO, errnoName } from './libc.js';
import { expectNoLeaks } from './test-utils.js';

/** A file that is gone as soon as it is closed. */
function temporaryFile(): Fd {
  const path = join(tmpdir(), `native-file-${process.pid}-${Math.random()}`);
  const fd = new Fd(openSync(path, 'wx+'));
  unlinkSync(path);
  return fd;
}

test('vectored reads and writes, far into a sparse file', () =>
  expectNoLeaks(() => {
    const file = temporaryFile();
    const buffer = new NativeBuffer(64);
    const list = new IovecList(4);
    buffer.bytes.set([1, 2, 3, 4, 5, 6]);
    list.push(buffer.address, 2);
    list.push(buffer.address + 2, 4);
    const offset = 5 * 2 ** 30 + 1;
    expect(pwritev(file.number, list.address, list.count, offset)).toBe(6);
    expect(fdatasync(file.number)).toBe(0);
    list.clear();
    list.push(buffer.address + 32, 1);
    list.push(buffer.address + 40, 20);
    expect(preadv(file.number, list.address, list.count, offset)).toBe(6);
    expect(buffer.bytes[32]).toBe(1);
    expect([...buffer.bytes.subarray(40, 46)]).toEqual([2, 3, 4, 5, 6, 0]);
    expect(fallocate(file.number, FALLOCATE.punchHole, offset, 6)).toBe(0);
    expect(preadv(file.number, list.address, list.count, offset)).toBe(6);
    expect([...buffer.bytes.subarray(40, 45)]).toEqual([0, 0, 0, 0, 0]);
    list.free();
    buffer.free();
    file.close();
  }));

test('a failure is a value with its number', () => {
  const buffer = new NativeBuffer(16);
  const list = new IovecList(1);
  list.push(buffer.address, 16);
  expect(preadv(1_000_000, list.address, 1, 0)).toBe(-ERRNO.EBADF!);
  expect(pwritev(1_000_000, list.address, 1, 0)).toBe(-ERRNO.EBADF!);
  expect(readInto(1_000_000, buffer.address, 16)).toBe(-ERRNO.EBADF!);
  expect(fdatasync(1_000_000)).toBe(-ERRNO.EBADF!);
  expect(fallocate(1_000_000, 0, 0, 1)).toBe(-ERRNO.EBADF!);
  const random = new Fd(openSync('/dev/urandom', 'r'));
  expect(readInto(random.number, buffer.address, 16)).toBe(16);
  expect(() => ioctl(random.number, 0xdead, 0, 'ioctl(test)')).toThrow('ioctl(test) failed');
  random.close();
  list.free();
  buffer.free();
});

test('names of errors', () => {
  expect(errnoName(ERRNO.EAGAIN!)).toBe('EAGAIN');
  expect(errnoName(ERRNO.EOPNOTSUPP!)).toBe('EOPNOTSUPP');
  expect(errnoName(99999)).toBe('E99999');
  expect([isUnsupported(-ERRNO.EOPNOTSUPP!), isUnsupported(-ERRNO.EIO!), isUnsupported(5)]).toEqual(
    [true, false, false],
  );
});
