import { constants } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { MemoryDisk } from '../devices/blk/backend-null.js';
import { VloError } from '../errors.js';
import { FUSE_RING_MARK, type FuseRing } from '../fuse/index.js';
import type { FakeReply } from '../fuse/test-utils.js';
import { ERRNO, FALLOCATE } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { DiskStand, type StandOptions } from './test-utils.js';

const { O_DIRECT, O_RDONLY, O_RDWR } = constants;
/** Bytes of the disk: the last page is not whole. */
const SIZE = 64 * 4096 + 1024;

const pattern = (size: number, seed: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + seed * 31 + (i >> 9)) & 0xff));

afterEach(() => {
  vi.useRealTimers();
});

async function withStand(
  options: StandOptions,
  work: (stand: DiskStand) => Promise<void>,
  disk = new MemoryDisk(SIZE),
): Promise<void> {
  await expectNoLeaks(async () => {
    const stand = await DiskStand.open(disk, options);
    try {
      await work(stand);
    } finally {
      await stand.close();
    }
  });
}

function sendWrite({ kernel }: DiskStand, offset: number, rest: Uint8Array, flags = 0): number {
  return kernel.send('WRITE', { fields: { offset, size: rest.length, flags }, rest });
}

const read = ({ kernel }: DiskStand, offset: number, size: number): Promise<FakeReply> =>
  kernel.ask('READ', { fields: { offset, size } });
const write = (stand: DiskStand, offset: number, bytes: Uint8Array, flags = 0) =>
  stand.kernel.reply(sendWrite(stand, offset, bytes, flags));
const allocate = async (
  { kernel }: DiskStand,
  mode: number,
  offset: number,
  length: number,
): Promise<number> => (await kernel.ask('FALLOCATE', { fields: { mode, offset, length } })).errno;

/** Bytes that a WRITE has written; a failure is its negative errno. */
const written = ({ errno, body }: FakeReply): number => (errno ? -errno : body.readUInt32LE(0));

test('reads and writes of blocks, many at a time, over two queues', () =>
  withStand({ queueCount: 2, depth: 4 }, async (stand) => {
    const model = pattern(SIZE, 1);
    const sizes = [512, 4096, 65536, 1536, 8192, 65536, 512, 16384, 4096];
    const uniques: [number, number][] = [];
    let at = 0;
    for (const size of sizes) {
      uniques.push([sendWrite(stand, at, model.subarray(at, at + size)), size]);
      at += size;
    }
    for (const [unique, size] of uniques) {
      expect(written(await stand.kernel.reply(unique))).toBe(size);
    }
    expect(model.subarray(0, at).equals(stand.disk.bytes.subarray(0, at))).toBe(true);
    const reads = sizes.map((size) => stand.kernel.send('READ', { fields: { offset: 512, size } }));
    for (const [i, unique] of reads.entries()) {
      const { errno, body } = await stand.kernel.reply(unique);
      expect(errno).toBe(0);
      expect(model.subarray(512, 512 + sizes[i]!).equals(body)).toBe(true);
    }
    expect((await stand.kernel.ask('FSYNC')).errno).toBe(0);
    const bytesRead = sizes.reduce((sum, size) => sum + size);
    expect(stand.file.counters).toEqual({
      ...{ requests: sizes.length * 2 + 1, errors: 0, bytesRead, bytesWritten: at },
    });
  }));

test('reads at any offset, at the end and beyond it', () =>
  withStand({}, async (stand) => {
    stand.disk.bytes.set(pattern(SIZE, 2));
    for (const [offset, size] of [
      [1, 1],
      [511, 2],
      [4000, 65536],
      [SIZE - 1024, 4096],
      [SIZE - 1, 65536],
      [SIZE, 4096],
      [SIZE + 5000, 1],
      [2 ** 52, 4096],
    ] as const) {
      const { errno, body } = await read(stand, offset, size);
      expect(errno).toBe(0);
      expect(body.equals(stand.disk.bytes.subarray(offset, offset + size))).toBe(true);
    }
  }));

test('writes that reach beyond the end: short, then none', () =>
  withStand({}, async (stand) => {
    const bytes = pattern(4096, 3);
    expect(written(await write(stand, SIZE - 1024, bytes))).toBe(1024);
    expect(written(await write(stand, SIZE - 10, bytes))).toBe(10);
    expect(written(await write(stand, SIZE, bytes))).toBe(-ERRNO.ENOSPC!);
    expect(written(await write(stand, 2 ** 50, bytes))).toBe(-ERRNO.ENOSPC!);
    expect(bytes.subarray(0, 1014).equals(stand.disk.bytes.subarray(SIZE - 1024, -10))).toBe(true);
    expect(bytes.subarray(0, 10).equals(stand.disk.bytes.subarray(-10))).toBe(true);
  }));

test('O_DIRECT takes whole blocks only', () =>
  withStand({}, async (stand) => {
    const bytes = pattern(1024, 4);
    expect(written(await write(stand, 512, bytes, O_DIRECT))).toBe(1024);
    expect(written(await write(stand, 100, bytes, O_DIRECT))).toBe(-ERRNO.EINVAL!);
    expect(written(await write(stand, 512, bytes.subarray(0, 100), O_DIRECT))).toBe(-ERRNO.EINVAL!);
    expect(stand.file.counters).toMatchObject({ requests: 3, errors: 2, bytesWritten: 1024 });
  }));

test('writes of any offset and size, many at a time: the disk is as if they came in turn', () =>
  withStand({ depth: 8 }, async (stand) => {
    const place = fc.oneof(
      fc.nat(3000),
      fc.nat(6).map((block) => block * 512),
    );
    const size = fc.oneof(fc.integer({ min: 1, max: 2000 }), fc.constantFrom(512, 1024));
    const writes = fc.array(fc.tuple(place, size), { minLength: 1, maxLength: 12 });
    const model = Buffer.alloc(SIZE);
    let seed = 0;
    await fc.assert(
      fc.asyncProperty(writes, async (list) => {
        const uniques = list.map(([offset, length]) => {
          seed += 1;
          const bytes = pattern(length, seed);
          // This disk does whole blocks in the order of the ring, so there is one right result.
          model.set(bytes, offset);
          return sendWrite(stand, offset, bytes);
        });
        for (const [i, unique] of uniques.entries()) {
          expect(written(await stand.kernel.reply(unique))).toBe(list[i]![1]);
        }
        const { body } = await read(stand, 0, 8192);
        expect(body.equals(model.subarray(0, 8192))).toBe(true);
      }),
      { numRuns: 150 },
    );
  }));

describe('fallocate', () => {
  const { punchHole, zeroRange } = FALLOCATE;

  test('holes and zeros at any offset', () =>
    withStand({}, async (stand) => {
      const model = pattern(SIZE, 5);
      stand.disk.bytes.set(model);
      for (const [mode, offset, size] of [
        [punchHole, 4096, 8192],
        [zeroRange, 16384, 512],
        [zeroRange & ~1, 20480, 512],
        [punchHole, 30000, 100],
        [punchHole, 32767, 2],
        [zeroRange, 40001, 5000],
        [punchHole, SIZE - 700, 10_000],
        [punchHole, SIZE, 4096],
      ] as const) {
        expect(await allocate(stand, mode, offset, size)).toBe(0);
        model.fill(0, Math.min(offset, SIZE), Math.min(offset + size, SIZE));
        expect(model.equals(stand.disk.bytes)).toBe(true);
      }
    }));

  test('what a disk cannot do', () =>
    withStand({}, async (stand) => {
      expect(await allocate(stand, 0, 0, SIZE)).toBe(0);
      expect(await allocate(stand, 1, SIZE, 4096)).toBe(0);
      expect(await allocate(stand, 0, SIZE - 1, 2)).toBe(ERRNO.ENOSPC);
      expect(await allocate(stand, zeroRange & ~1, SIZE - 512, 1024)).toBe(ERRNO.ENOSPC);
      for (const mode of [8, 0x20, 0x40, punchHole | 16]) {
        expect(await allocate(stand, mode | 1, 0, 512)).toBe(ERRNO.EOPNOTSUPP);
      }
    }));

  test('zeros and a write of a part of a block at a time: neither is lost', () =>
    withStand({}, async (stand) => {
      stand.disk.bytes.fill(7);
      stand.disk.isHeld = true;
      const fields = { mode: punchHole, offset: 0, length: 4096 };
      const zero = stand.kernel.send('FALLOCATE', { fields });
      const part = sendWrite(stand, 10, Buffer.from('abc'));
      await delay(20);
      stand.disk.release();
      expect((await stand.kernel.reply(zero)).errno).toBe(0);
      expect(written(await stand.kernel.reply(part))).toBe(3);
      const { body } = await read(stand, 0, 20);
      expect(body.toString('latin1')).toBe(`${'\0'.repeat(10)}abc${'\0'.repeat(7)}`);
    }));
});

test('a read-only disk', () =>
  withStand(
    {},
    async (stand) => {
      expect(stand.file.mode).toBe(0o400);
      expect((await stand.kernel.ask('OPEN', { fields: { flags: O_RDONLY } })).errno).toBe(0);
      const { errno } = await stand.kernel.ask('OPEN', { fields: { flags: O_RDWR } });
      expect(errno).toBe(ERRNO.EROFS);
      expect(written(await write(stand, 0, pattern(512, 1)))).toBe(-ERRNO.EROFS!);
      expect(await allocate(stand, FALLOCATE.punchHole, 0, 512)).toBe(ERRNO.EROFS);
      expect((await read(stand, 0, 512)).body).toHaveLength(512);
    },
    new MemoryDisk(SIZE, true),
  ));

test('errors of the device are EIO, and of no other request', () =>
  withStand({}, async (stand) => {
    const { disk, kernel } = stand;
    disk.fail = ({ offset }) => (offset === 8192 ? -ERRNO.EIO! : 0);
    expect((await read(stand, 8192, 512)).errno).toBe(ERRNO.EIO);
    expect(written(await write(stand, 8192, pattern(512, 1)))).toBe(-ERRNO.EIO!);
    expect(written(await write(stand, 8200, pattern(5, 1)))).toBe(-ERRNO.EIO!);
    expect(await allocate(stand, FALLOCATE.zeroRange, 8192, 512)).toBe(ERRNO.EIO);
    expect(written(await write(stand, 0, pattern(512, 1)))).toBe(512);
    disk.fail = () => -ERRNO.EIO!;
    expect((await kernel.ask('FSYNC')).errno).toBe(ERRNO.EIO);
    expect(stand.file.counters).toMatchObject({ requests: 6, errors: 5 });
  }));

test('all slots in flight: the kernel keeps its requests until one is free', () =>
  withStand({ depth: 2 }, async (stand) => {
    const { disk, file, kernel, mount } = stand;
    disk.isHeld = true;
    const uniques = [0, 1, 2, 3].map((i) =>
      kernel.send('READ', { fields: { offset: i * 512, size: 512 } }),
    );
    await delay(30);
    expect([file.payload(), mount.isReady]).toEqual([null, false]);
    expect(kernel.take()).toEqual([]);
    disk.release();
    for (const unique of uniques) expect((await kernel.reply(unique)).body).toHaveLength(512);
    expect(mount.isReady).toBe(true);
  }));

describe('without a back end', () => {
  test('a signal ends a request only when nobody was there for long', () =>
    withStand({ pollUs: 0 }, async (stand) => {
      const { disk, file, kernel } = stand;
      disk.isHeld = true;
      const first = kernel.send('READ', { fields: { offset: 0, size: 512 } });
      const second = sendWrite(stand, 512, pattern(512, 1));
      const third = kernel.send('READ', { fields: { offset: 0, size: 512 } });
      await delay(20);
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
      kernel.send('INTERRUPT', { fields: { interrupted: first } });
      stand.mount.poll();
      file.connectionChanged(false);
      vi.advanceTimersByTime(2000);
      file.connectionChanged(true);
      vi.advanceTimersByTime(2000);
      file.connectionChanged(false);
      vi.advanceTimersByTime(2999);
      expect(kernel.take()).toEqual([]);
      vi.advanceTimersByTime(1);
      expect(kernel.take()).toMatchObject([{ unique: first, errno: ERRNO.EINTR }]);
      kernel.send('INTERRUPT', { fields: { interrupted: second } });
      kernel.send('INTERRUPT', { fields: { interrupted: 12345 } });
      stand.mount.poll();
      expect(kernel.take()).toMatchObject([{ unique: first }, { unique: second, errno: 4 }]);
      vi.useRealTimers();
      file.connectionChanged(true);
      disk.release();
      expect((await kernel.reply(third)).errno).toBe(0);
      // What was given up is answered no second time, and its slots are used again.
      expect(kernel.take()).toHaveLength(2);
      expect(written(await write(stand, 100, pattern(5, 1)))).toBe(5);
    }));

  test('a driver that has failed: EIO at once, whatever is asked', () =>
    withStand({ depth: 4 }, async (stand) => {
      const { driver, disk, kernel, mount } = stand;
      disk.isHeld = true;
      const waiting = kernel.send('READ', { fields: { offset: 0, size: 512 } });
      const part = sendWrite(stand, 5, pattern(5, 1));
      await delay(20);
      driver.abandon(new VloError('VLO_DISCONNECTED', 'given up'));
      disk.release();
      for (const unique of [waiting, part]) {
        expect((await kernel.reply(unique)).errno).toBe(ERRNO.EIO);
      }
      const later = [
        kernel.send('READ', { fields: { offset: 0, size: 512 } }),
        sendWrite(stand, 0, pattern(512, 1)),
        sendWrite(stand, 1, pattern(5, 1)),
      ];
      mount.poll();
      for (const unique of later) expect((await kernel.reply(unique)).errno).toBe(ERRNO.EIO);
      expect(mount.isReady).toBe(true);
    }));
});

test.each([
  { name: 'small segments', config: { sizeMax: 4096, segMax: 64 }, most: 64 * 1024 },
  { name: 'few small segments', config: { sizeMax: 4096, segMax: 3 }, most: 12288 },
  { name: 'segments that are no whole blocks', config: { sizeMax: 5000, segMax: 0 }, most: 65536 },
])('a device that takes $name', ({ config, most }) =>
  withStand({ config, depth: 16 }, async (stand) => {
    const bytes = pattern(Math.min(most, 65536), 9);
    expect(stand.driver.transferSizeMax).toBeGreaterThanOrEqual(most);
    expect(written(await write(stand, 512, bytes))).toBe(bytes.length);
    expect(bytes.equals(stand.disk.bytes.subarray(512, 512 + bytes.length))).toBe(true);
    const { body } = await read(stand, 512, bytes.length);
    expect(bytes.equals(body)).toBe(true);
    expect(written(await write(stand, 100, bytes))).toBe(bytes.length);
    // Longer than the device can do at once: cut short.
    const { body: short } = await read(stand, 100, 65536);
    expect(short.length).toBe(Math.min(65536, stand.driver.transferSizeMax - 100));
    expect(short.equals(stand.disk.bytes.subarray(100, 100 + short.length))).toBe(true);
  }),
);

test('entries of a ring: each keeps its slot, and is answered through the ring', () =>
  withStand({ depth: 8 }, async (stand) => {
    const { driver, disk, file, kernel } = stand;
    expect(file.bindEntries(5)).toBe(null);
    const entries = file.bindEntries(4)!;
    expect(driver.slots.freeCount(0)).toBeLessThanOrEqual(4);
    const replies: unknown[][] = [];
    const ring = {
      replyStatus: (entry: number, errno: number) => replies.push([entry, errno]),
      replyMemory: (entry: number, address: number, size: number) =>
        replies.push([entry, address - entries[entry]!.address, size]),
      replyWritten: (entry: number, size: number) => replies.push([entry, 'written', size]),
      close: () => {},
    };
    kernel.channel.ring = ring as unknown as FuseRing;
    const next = async (entry: number, serve: () => void): Promise<unknown> => {
      file.withEntry(entry, serve);
      await expect.poll(() => replies.length, { interval: 1 }).toBe(1);
      return replies.pop();
    };
    const model = Buffer.alloc(SIZE);
    for (const [i, [offset, size]] of [
      [0, 4096],
      [700, 100],
      [4000, 500],
      [8192, 512],
    ].entries()) {
      const bytes = pattern(size!, i);
      entries[i]!.bytes.set(bytes);
      model.set(bytes, offset);
      const serve = (): void => file.write(i, FUSE_RING_MARK, offset!, size!, 0);
      expect(await next(i, serve)).toEqual([i, 'written', size]);
    }
    expect(model.equals(disk.bytes)).toBe(true);
    const read = (): void => file.read(2, FUSE_RING_MARK, 100, 4096);
    expect(await next(2, read)).toEqual([2, 100, 4096]);
    expect(model.subarray(100, 4196).equals(entries[2]!.bytes.subarray(100, 4196))).toBe(true);
    expect(await next(3, () => file.sync(3, FUSE_RING_MARK))).toEqual([3, 0]);
    const beyond = (): void => file.write(1, FUSE_RING_MARK, SIZE, 512, 0);
    expect(await next(1, beyond)).toEqual([1, ERRNO.ENOSPC]);
    // Requests that come through the descriptor have the other slots.
    expect((await stand.kernel.ask('FSYNC')).errno).toBe(0);
  }));
