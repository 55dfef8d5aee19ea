import { openSync } from 'node:fs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ERRNO, Fd, NativeBuffer } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { FUSE_ENDED, FUSE_HEAD_SIZE, FUSE_NOTHING, FuseChannel } from './channel.js';
import { FUSE_NOTIFY } from './constants.js';
import { FUSE_OPCODE } from './messages.js';
import { FakeKernel, requestBytes, SENDER } from './test-utils.js';

/** What the next read fails with, if anything: a mount that ends cannot be had without one. */
let readFailure: number | null = null;
vi.mock(import('../native/file.js'), async (importOriginal) => {
  const original = await importOriginal();
  return {
    ...original,
    readVector: (...args) => readFailure ?? original.readVector(...args),
  };
});

let kernel: FakeKernel;
let payload: NativeBuffer;
beforeEach(() => {
  readFailure = null;
  kernel = new FakeKernel();
  payload = new NativeBuffer(128 * 1024);
});
afterEach(() => {
  kernel.close();
  payload.free();
});

const receive = (): number => kernel.channel.receive(payload.address, payload.bytes);
const text = (count: number): Buffer => Buffer.from('abcdefg'.repeat(count));

test('header and fixed part; the data of WRITE alone in the payload', () => {
  const data = text(10_000);
  const fields = { offset: 2 ** 40 + 512, size: data.length, flags: 2 };
  const unique = kernel.send('WRITE', { nodeid: 2 ** 33 + 5, fields, rest: data });
  expect(receive()).toBe(FUSE_HEAD_SIZE + data.length);
  const { channel } = kernel;
  expect([channel.opcode, channel.nodeid]).toEqual([FUSE_OPCODE.WRITE, 2 ** 33 + 5]);
  expect([channel.uniqueLow, channel.uniqueHigh]).toEqual([unique, 0]);
  expect([channel.u64(8), channel.u32(16), channel.u32(32)]).toEqual([
    2 ** 40 + 512,
    data.length,
    2,
  ]);
  expect(channel.sender).toEqual(SENDER);
  expect(data.equals(payload.bytes.subarray(0, data.length))).toBe(true);
  expect(payload.bytes[data.length]).toBe(0);
});

test.each([0, 1, 39, 40, 41, 300, 4097])('a body of %i bytes is put together again', (size) => {
  const body = text(1000).subarray(0, size);
  kernel.sendBytes(requestBytes(FUSE_OPCODE.LOOKUP, 1, 2, body));
  expect(receive()).toBe(40 + size);
  expect(kernel.channel.bodySize).toBe(size);
  expect(body.equals(kernel.channel.body())).toBe(true);
});

test('numbers of 64 bits go back as they came', () => {
  const unique = 2 ** 52 + 2 ** 33 + 7;
  kernel.sendBytes(requestBytes(FUSE_OPCODE.DESTROY, 1, unique));
  receive();
  const { channel } = kernel;
  channel.replyStatus(channel.uniqueLow, channel.uniqueHigh, ERRNO.EIO!);
  expect(kernel.take()).toEqual([{ errno: ERRNO.EIO, unique, body: Buffer.alloc(0) }]);
});

test('replies of every kind, and notifications', () => {
  const { channel } = kernel;
  payload.bytes.set([9, 8, 7, 6], 4096);
  channel.replyStatus(1, 0, 0);
  channel.replyMemory(2, 0, payload.address + 4096, 4);
  channel.replyBytes(3, 0, Buffer.from('some bytes'));
  channel.replyWritten(4, 0, 70_000);
  channel.notify(FUSE_NOTIFY.INVAL_INODE, Buffer.from([1, 2]));
  channel.replyBytes(5, 0, new Uint8Array(0));
  const written = Buffer.alloc(8);
  written.writeUInt32LE(70_000);
  expect(kernel.take()).toEqual([
    { errno: 0, unique: 1, body: Buffer.alloc(0) },
    { errno: 0, unique: 2, body: Buffer.from([9, 8, 7, 6]) },
    { errno: 0, unique: 3, body: Buffer.from('some bytes') },
    { errno: 0, unique: 4, body: written },
    { errno: 2, unique: 0, body: Buffer.from([1, 2]) },
    { errno: 0, unique: 5, body: Buffer.alloc(0) },
  ]);
});

test('nothing to read, and the end of the mount', () => {
  expect(receive()).toBe(FUSE_NOTHING);
  for (const [errno, result] of [
    [ERRNO.EAGAIN!, FUSE_NOTHING],
    [ERRNO.EINTR!, FUSE_NOTHING],
    // The sender gave the request up while it was being read.
    [ERRNO.ENOENT!, FUSE_NOTHING],
    [ERRNO.ENODEV!, FUSE_ENDED],
  ] as const) {
    readFailure = -errno;
    expect(receive()).toBe(result);
  }
  readFailure = null;
  kernel.send('DESTROY');
  expect(receive()).toBe(40);
});

test('after close nothing goes to a descriptor that has the same number', () =>
  expectNoLeaks(() => {
    const other = new FakeKernel();
    const number = other.channel.descriptor;
    other.channel.close();
    other.channel.close();
    const random = new Fd(openSync('/dev/urandom', 'r+'));
    expect(random.number).toBe(number);
    payload.bytes.fill(0, 0, 64);
    expect(other.channel.receive(payload.address, payload.bytes)).toBe(FUSE_ENDED);
    other.channel.replyMemory(1, 0, payload.address, 16);
    expect(payload.bytes.subarray(0, 64).every((byte) => byte === 0)).toBe(true);
    random.close();
    other.close();
  }));

test('a channel over any descriptor takes it over', () =>
  expectNoLeaks(() => {
    const channel = new FuseChannel(new Fd(openSync('/dev/null', 'r+')));
    expect(channel.receive(payload.address, payload.bytes)).toBe(FUSE_NOTHING);
    channel.close();
  }));
