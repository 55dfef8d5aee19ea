import { openSync, readFileSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { IovecList, NativeBuffer } from './buffer.js';
import { consumeEvent, createEventFd, waitReadable } from './eventfd.js';
import { Fd } from './fd.js';
import { FALLOCATE } from './file.js';
import { IoUring, URING_ASYNC, URING_OP } from './io-uring.js';
import { ERRNO } from './libc.js';
import { expectNoLeaks } from './test-utils.js';

const probe = IoUring.create(2);
probe?.close();

/** Completions by user data, after waiting for `count` of them. */
function reap(ring: IoUring, count: number): Map<number, number> {
  const results = new Map<number, number>();
  for (const end = Date.now() + 5000; results.size < count && Date.now() < end; ) {
    expect(ring.submit(1)).toBe(0);
    while (ring.next()) {
      expect(results.has(ring.completedData)).toBe(false);
      results.set(ring.completedData, ring.completedResult);
    }
  }
  expect(results.size).toBe(count);
  return results;
}

describe('IoUring', () => {
  beforeEach((context) => {
    if (probe === null) context.skip('this kernel or container forbids io_uring');
  });

  const path = join(tmpdir(), `io-uring-${process.pid}`);
  let file: Fd;
  let buffer: NativeBuffer;

  beforeAll(() => {
    file = new Fd(openSync(path, 'wx+'));
    buffer = new NativeBuffer(8192);
  });
  afterAll(() => {
    file.close();
    buffer.free();
    unlinkSync(path);
  });

  test('create and close leave nothing behind', () =>
    expectNoLeaks(() => {
      for (let i = 0; i < 20; i += 1) IoUring.create(64)!.close();
    }));

  test('write, fsync, read, vectored and not, and fallocate', () =>
    expectNoLeaks(() => {
      const ring = IoUring.create(8)!;
      buffer.bytes.fill(0x61, 0, 4096);
      ring.prepare(URING_OP.write, file.number, buffer.address, 100, 50, 1);
      expect(ring.preparedCount).toBe(1);
      expect([...reap(ring, 1)]).toEqual([[1, 100]]);
      ring.prepareFsync(file.number, 2);
      const list = new IovecList(2);
      list.push(buffer.address + 4096, 10);
      list.push(buffer.address + 5000, 200);
      ring.prepare(URING_OP.readv, file.number, list.address, list.count, 40, 3);
      const results = reap(ring, 2);
      expect([results.get(2), results.get(3)]).toEqual([0, 110]);
      expect([...buffer.bytes.subarray(4096, 4106)]).toEqual(Array(10).fill(0));
      expect(buffer.bytes[5099]).toBe(0x61);
      // For fallocate the length takes the place of the address, and the mode that of the size.
      const mode = FALLOCATE.punchHole;
      ring.prepare(URING_OP.fallocate, file.number, 60, mode, 50, 4);
      expect([...reap(ring, 1)]).toEqual([[4, 0]]);
      expect(readFileSync(path).subarray(50, 111).lastIndexOf(0)).toBe(59);
      ring.prepare(URING_OP.read, file.number, buffer.address, 4096, 5 * 2 ** 32, 0xffffffff);
      expect([...reap(ring, 1)]).toEqual([[0xffffffff, 0]]); // Past the end; 64-bit offset.
      list.free();
      ring.close();
    }));

  test('an error is the result of its request only', () => {
    const ring = IoUring.create(4)!;
    ring.prepare(URING_OP.read, 1_000_000, buffer.address, 1, 0, 1);
    ring.prepare(URING_OP.read, file.number, 8, 16, 60, 2); // No memory there.
    ring.prepare(99, file.number, 0, 0, 0, 3);
    ring.prepare(URING_OP.read, file.number, buffer.address, 1, 0, 4);
    const results = reap(ring, 4);
    expect(results.get(1)).toBe(-ERRNO.EBADF!);
    expect(results.get(2)).toBe(-ERRNO.EFAULT!);
    expect(results.get(3)).toBe(-ERRNO.EINVAL!);
    expect(results.get(4)).toBe(1);
    ring.close();
  });

  test('a full submission ring has no room until the kernel took it', () => {
    const ring = IoUring.create(4)!;
    expect(ring.entryCount).toBe(4);
    for (let lap = 0; lap < 10; lap += 1) {
      const head = ring.submissionHead;
      for (let i = 0; i < 4; i += 1) {
        expect(ring.hasRoom).toBe(true);
        ring.prepare(URING_OP.read, file.number, buffer.address, 1, 0, lap * 4 + i);
      }
      expect(ring.hasRoom).toBe(false);
      expect(ring.submit()).toBe(0);
      expect(ring.hasRoom).toBe(true);
      expect(ring.submissionHead).toBe(head + 4);
      reap(ring, 4);
    }
    expect(ring.next()).toBe(false);
    ring.close();
  });

  test('more completions than the completion ring holds are not lost', () => {
    const ring = IoUring.create(4, 4)!;
    for (let batch = 0; batch < 5; batch += 1) {
      for (let i = 0; i < 4; i += 1) {
        ring.prepare(URING_OP.read, file.number, buffer.address, 1, 0, batch * 4 + i);
      }
      expect(ring.submit()).toBe(0);
    }
    const seen = new Set<number>();
    while (ring.next()) seen.add(ring.completedData);
    expect(seen.size).toBe(20);
    ring.close();
  });

  test('who only looks at the ring sees what completes later', () => {
    const ring = IoUring.create(4)!;
    ring.prepare(URING_OP.read, file.number, buffer.address, 8, 0, 7, URING_ASYNC);
    expect(ring.submit()).toBe(0);
    const end = Date.now() + 5000;
    while (!ring.next()) expect(Date.now()).toBeLessThan(end);
    expect(ring.completedData).toBe(7);
    ring.close();
  });

  test('an event tells of completions that come later', () =>
    expectNoLeaks(() => {
      const ring = IoUring.create(4)!;
      const event = createEventFd();
      expect(ring.notifyBy(event.number)).toBe(true);
      ring.prepare(URING_OP.read, file.number, buffer.address, 8, 0, 7, URING_ASYNC);
      expect(ring.submit()).toBe(0);
      expect(waitReadable([event.number], 5000)).toBe(0);
      expect(consumeEvent(event.number)).toBeGreaterThan(0);
      expect(ring.next()).toBe(true);
      expect(ring.completedData).toBe(7);
      expect(ring.notifyBy(1_000_000)).toBe(false);
      ring.close();
      event.close();
    }));
});
