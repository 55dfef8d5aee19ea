import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type DeviceHost, DeviceProcess, defineDevice } from '../../kit/index.js';
import { ERRNO, signalEvent } from '../../native/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { BackEndServer } from '../../vhost-user/index.js';
import { F } from '../../virtio/index.js';
import { MemoryDisk } from './backend-null.js';
import { BlkDevice } from './device.js';
import { BlkDriver, type BlkDriverOptions } from './driver.js';
import { STATUS_LOST } from './driver-slots.js';
import { blk } from './index.js';
import { BlkConfig } from './wire.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What a back end has less of than ours. */
interface Limits {
  readonly config?: Readonly<Record<string, number>>;
  /** Features that it does not offer. */
  readonly without?: bigint;
}

/** A block device over `disk`, served on the path. */
class Served {
  host!: DeviceHost;
  private device!: DeviceProcess;
  private server!: BackEndServer;
  private readonly disk: MemoryDisk;
  private readonly limits: Limits;

  private constructor(disk: MemoryDisk, limits: Limits) {
    this.disk = disk;
    this.limits = limits;
  }

  static async start(disk: MemoryDisk, limits: Limits = {}): Promise<Served> {
    const served = new Served(disk, limits);
    await served.open();
    return served;
  }

  private async open(): Promise<void> {
    const definition = defineDevice({
      ...blk,
      options: v.object({}),
      arguments: {},
      open: (_options, host) => {
        this.host = host;
        const device = new BlkDevice(this.disk, {
          queueCount: 4,
          serial: 'a serial',
          setConfig: (bytes) => host.setConfig(bytes),
          wake: () => host.wake(),
        }).open();
        const config = BlkConfig.decode(device.config!);
        return { ...device, config: BlkConfig.encode({ ...config, ...this.limits.config }) };
      },
    });
    this.device = await DeviceProcess.open(definition, {}, { inOrder: true });
    const features = this.device.features & ~(this.limits.without ?? 0n);
    Object.defineProperty(this.device, 'features', { value: features });
    this.server = new BackEndServer(this.device, { path });
    this.device.listener = this.server;
    await this.server.start();
  }

  config(): Uint8Array {
    return this.device.readConfig(0, BlkConfig.size);
  }

  /** Ends, and begins anew on the same path with the same disk. */
  async restart(): Promise<void> {
    await this.close();
    await this.open();
  }

  async close(): Promise<void> {
    await this.server.close();
    await this.device.close();
  }
}

/** Runs a test with a disk, its back end and a driver, and checks that nothing is left. */
async function withDisk(
  options: Partial<BlkDriverOptions>,
  work: (driver: BlkDriver, disk: MemoryDisk, served: Served) => Promise<void>,
  disk = new MemoryDisk(1 << 20),
  limits: Limits = {},
): Promise<void> {
  await expectNoLeaks(async () => {
    const served = await Served.start(disk, limits);
    const driver = await BlkDriver.connect({ path, timeoutMs: 3000, ...options });
    try {
      await work(driver, disk, served);
    } finally {
      await driver.close();
      await served.close();
    }
  });
}

const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'none',
    (error: { code?: unknown; name?: unknown }) => error.code ?? error.name,
  );

const pattern = (size: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => (i * 7 + seed * 31 + (i >> 9)) & 0xff);

const rings = [
  { name: 'split ring', options: {} },
  { name: 'packed ring', options: { packed: true } },
  { name: 'packed ring, in order', options: { packed: true, inOrder: true } },
  { name: 'three queues', options: { queueCount: 3 } },
  { name: 'one slot', options: { depth: 1, slotSize: 4096 } },
  { name: 'indirect tables', options: { depth: 1024, slotSize: 4096 } },
  { name: 'no polling', options: { pollUs: 0, depth: 4 } },
];

describe.each(rings)('$name', ({ options }) => {
  test('many requests of many sizes at a time: the disk holds what was written', () =>
    withDisk(options, async (driver, disk) => {
      const model = new Uint8Array(disk.size);
      const sizes = [512, 4096, 1536, 65536, 130_560, 512, 200_192];
      const writes = [];
      let at = 0;
      for (const [i, size] of sizes.entries()) {
        const bytes = pattern(size, i);
        model.set(bytes, at);
        writes.push(driver.write(at, bytes));
        at += size;
      }
      await Promise.all(writes);
      await driver.flush();
      expect(Buffer.compare(disk.bytes, model)).toBe(0);
      const targets = sizes.map((size) => new Uint8Array(size));
      at = 0;
      const reads = targets.map((target) => {
        at += target.length;
        return driver.read(at - target.length, target);
      });
      await Promise.all(reads);
      expect(Buffer.compare(Buffer.concat(targets), model.subarray(0, at))).toBe(0);
      expect(await driver.read(0, new Uint8Array(0))).toHaveLength(0);
    }));

  test('a back end that is replaced under load costs no request', () =>
    withDisk({ ...options, reconnect: { delayMs: 1 } }, async (driver, disk, served) => {
      const model = new Uint8Array(disk.size);
      let writeCount = 0;
      let isOver = false;
      const worker = async (index: number): Promise<void> => {
        for (let round = 0; !isOver; round += 1) {
          const offset = (index * 32 + (round % 32)) * 4096;
          const bytes = pattern(4096, index * 100 + round);
          await driver.write(offset, bytes);
          model.set(bytes, offset);
          writeCount += 1;
          const back = await driver.read(offset, new Uint8Array(4096));
          expect(Buffer.compare(back, bytes)).toBe(0);
        }
      };
      const workers = Promise.all(Array.from({ length: 8 }, (_, index) => worker(index)));
      for (let i = 0; i < 4; i += 1) {
        const before = writeCount;
        await expect.poll(() => writeCount > before + 20, { interval: 1 }).toBe(true);
        await served.restart();
      }
      const before = writeCount;
      await expect.poll(() => writeCount > before + 20, { interval: 1 }).toBe(true);
      isOver = true;
      await workers;
      expect(driver.error).toBe(null);
      expect(Buffer.compare(disk.bytes, model)).toBe(0);
    }));
});

const small = { sizeMax: 4096 };
describe.each([
  { name: 'no indirect tables', without: F.INDIRECT_DESC, config: {} },
  { name: 'segments of 4096 bytes', without: 0n, config: small },
  { name: 'both', without: F.INDIRECT_DESC, config: small },
  { name: 'both, and 3 segments', without: F.INDIRECT_DESC, config: { ...small, segMax: 3 } },
])('a back end with limits: $name', ({ without, config }) => {
  test.each([
    { depth: 341, slotSize: 4096, packed: false },
    { depth: 1024, slotSize: 4096, packed: false },
    { depth: 341, slotSize: 16384, packed: true },
    { depth: 1024, slotSize: 16384, packed: false },
  ])('depth $depth, slots of $slotSize bytes', (options) => {
    const limits = { config, without };
    const work = async (driver: BlkDriver, disk: MemoryDisk): Promise<void> => {
      const { depth, segmentSize } = driver.slots;
      const { sizeMax = options.slotSize, segMax = 126 } = config as Record<string, number>;
      const segments = Math.min(options.slotSize / segmentSize, segMax);
      expect(segmentSize).toBe(Math.min(options.slotSize, sizeMax));
      expect(driver.transferSizeMax).toBe(segments * segmentSize);
      const fits = without === 0n ? 1024 : Math.floor(1024 / (segments + 2));
      expect(depth).toBe(Math.min(options.depth, fits));
      // More requests at a time than there are slots, of more and less than a slot.
      const model = pattern(disk.size, 3);
      const writes: Promise<void>[] = [];
      for (let at = 0, i = 0; at < disk.size; i += 1) {
        const size = i % 50 === 0 ? 40_448 : 512 + (i % 7) * 512;
        writes.push(driver.write(at, model.subarray(at, at + size)));
        at = Math.min(disk.size, at + size);
      }
      expect(writes.length).toBeGreaterThan(1024);
      await Promise.all(writes);
      expect(Buffer.compare(disk.bytes, model)).toBe(0);
      const bytes = await driver.read(512, new Uint8Array(disk.size - 512));
      expect(Buffer.compare(bytes, model.subarray(512))).toBe(0);
    };
    return withDisk(options, work, new MemoryDisk(1 << 22), limits);
  });
});

test('flush, discard, write zeroes and id', () =>
  withDisk({}, async (driver, disk) => {
    expect(driver.size).toBe(1 << 20);
    expect([driver.blockSize, driver.isReadOnly]).toEqual([512, false]);
    expect([driver.canDiscard, driver.canWriteZeroes]).toEqual([true, true]);
    expect(await driver.getId()).toBe('a serial');
    await driver.write(0, new Uint8Array(8192).fill(1));
    await driver.writeZeroes(512, 1024);
    await driver.writeZeroes(4096, 512, { unmap: true });
    await driver.discard(6144, 2048);
    await driver.flush();
    const ones = disk.bytes.subarray(0, 6144).filter((byte) => byte === 1).length;
    expect(ones).toBe(6144 - 1024 - 512);
    await driver.discard(0, 0);
  }));

test('requests that cannot be: the message says why', () =>
  withDisk({}, async (driver) => {
    for (const [promise, message] of [
      [driver.read(1, new Uint8Array(512)), 'offset 1 is not a multiple of the block size, 512'],
      [driver.read(0, new Uint8Array(100)), 'size 100 is not a multiple'],
      [driver.read(-512, new Uint8Array(512)), 'offset -512'],
      [driver.write(1 << 20, new Uint8Array(512)), 'exceed the disk, which has 1048576 bytes'],
      [driver.discard(Number.NaN, 512), 'offset NaN'],
      [driver.writeZeroes(0, 2 ** 53), 'size 9007199254740992'],
    ] as const) {
      await expect(promise).rejects.toThrow(message);
      expect(await codeOf(promise)).toBe('VLO_REQUEST_INVALID');
    }
    for (const options of [{ depth: 0 }, { slotSize: 5000 }, { queueCount: 257 }]) {
      const connecting = BlkDriver.connect({ path, ...options });
      expect(await codeOf(connecting)).toBe('VLO_REQUEST_INVALID');
    }
  }));

test('a read-only disk takes no writes', () =>
  withDisk(
    {},
    async (driver) => {
      expect(driver.isReadOnly).toBe(true);
      expect(await codeOf(driver.write(0, new Uint8Array(512)))).toBe('VLO_REQUEST_INVALID');
      await driver.read(0, new Uint8Array(512));
    },
    new MemoryDisk(8192, true),
  ));

test('an error of the disk is an error of the request, and of no other', () =>
  withDisk({ slotSize: 4096 }, async (driver, disk) => {
    disk.fail = ({ offset }) => (offset === 8192 ? -ERRNO.EIO! : 0);
    const bad = driver.read(0, new Uint8Array(65536));
    const good = driver.read(16384, new Uint8Array(65536));
    await expect(bad).rejects.toThrow('the device answered IOERR to read');
    expect(await codeOf(bad)).toBe('VLO_DEVICE_FAILED');
    await good;
    expect(driver.slots.freeCount(0)).toBe(driver.slots.depth);
  }));

test('abort signals: before, while waiting for a slot, and on the way', () =>
  withDisk({ depth: 1, slotSize: 4096 }, async (driver, disk) => {
    const target = new Uint8Array(4096).fill(9);
    expect(await codeOf(driver.read(0, target, { signal: AbortSignal.abort() }))).toBe(20);
    disk.isHeld = true;
    const placed = new AbortController();
    const waiting = new AbortController();
    const first = driver.read(0, target, { signal: placed.signal });
    const second = driver.read(0, target, { signal: waiting.signal });
    const third = driver.write(4096, new Uint8Array(4096).fill(3));
    placed.abort();
    waiting.abort(new RangeError('enough'));
    expect(await codeOf(first)).toBe(20);
    await expect(second).rejects.toThrow('enough');
    // The device still has the slot.
    expect(driver.slots.freeCount(0)).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 20));
    disk.release();
    await third;
    expect(disk.bytes[4096]).toBe(3);
    expect(target.every((byte) => byte === 9)).toBe(true);
  }));

test('close: what is under way or waits fails, and later calls too', () =>
  withDisk({ depth: 1 }, async (driver, disk) => {
    disk.isHeld = true;
    const codes = [1, 2, 3].map(() => codeOf(driver.read(0, new Uint8Array(512))));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const closing = driver.close();
    expect(await Promise.all(codes)).toEqual(['VLO_CLOSED', 'VLO_CLOSED', 'VLO_CLOSED']);
    disk.release();
    await closing;
    expect(await codeOf(driver.flush())).toBe('VLO_CLOSED');
    await driver[Symbol.asyncDispose]();
  }));

test('without reconnect a back end that ends fails the requests', () =>
  withDisk({ reconnect: false }, async (driver, disk, served) => {
    disk.isHeld = true;
    const code = codeOf(driver.read(0, new Uint8Array(512)));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const restarted = served.restart();
    expect(await code).toBe('VLO_DISCONNECTED');
    disk.release();
    await restarted;
    expect(driver.error).toMatchObject({ code: 'VLO_DISCONNECTED' });
    expect(await codeOf(driver.read(0, new Uint8Array(512)))).toBe('VLO_DISCONNECTED');
  }));

test('a back end that is not found again fails the requests', () =>
  expectNoLeaks(async () => {
    const disk = new MemoryDisk(8192);
    const served = await Served.start(disk);
    const driver = await BlkDriver.connect({ path, reconnect: { limitMs: 30, delayMs: 1 } });
    await served.close();
    const code = await codeOf(driver.read(0, new Uint8Array(512)));
    expect(code).toBe('VLO_DISCONNECTED');
    await driver.close();
  }));

describe('a device that breaks the ring', () => {
  /** The used ring (split) as the device has it, and its call. */
  function deviceSide(driver: BlkDriver): { used: DataView; call: () => void } {
    interface Inside {
      readonly host: {
        readonly frontEnd: {
          readonly queues: readonly {
            readonly block: { readonly bytes: Uint8Array };
            readonly layout: { readonly device: number };
            readonly call: { readonly number: number };
          }[];
        };
      };
    }
    const [queue] = (driver as unknown as Inside).host.frontEnd.queues;
    const { buffer, byteOffset } = queue!.block.bytes;
    const used = new DataView(buffer, byteOffset + queue!.layout.device);
    return { used, call: () => signalEvent(queue!.call.number) };
  }

  test.each([
    { name: 'a used index far ahead', index: 500, id: 0, length: 1 },
    { name: 'a used id that is not in flight', index: 1, id: 200, length: 1 },
    { name: 'a used id beyond the ring', index: 1, id: 0xffffffff, length: 1 },
    { name: 'a used length beyond the buffer', index: 1, id: 0, length: 0xfffffff },
  ])('$name: all requests fail, and nothing hangs', ({ index, id, length }) =>
    withDisk({ depth: 4 }, async (driver, disk) => {
      disk.isHeld = true;
      const codes = Array.from({ length: 8 }, () => codeOf(driver.read(0, new Uint8Array(512))));
      await new Promise((resolve) => setTimeout(resolve, 20));
      const { used, call } = deviceSide(driver);
      used.setUint32(4, id, true);
      used.setUint32(8, length, true);
      used.setUint16(2, index, true);
      call();
      expect(await Promise.all(codes)).toEqual(new Array(8).fill('VLO_DEVICE_FAILED'));
      expect(driver.error?.message).toContain('the device broke the ring');
      disk.release();
      expect(await codeOf(driver.flush())).toBe('VLO_DEVICE_FAILED');
    }),
  );

  test('a request that comes back without a status', () =>
    withDisk({ depth: 4 }, async (driver, disk) => {
      disk.isHeld = true;
      const read = driver.read(0, new Uint8Array(512));
      const code = codeOf(read);
      await new Promise((resolve) => setTimeout(resolve, 20));
      const { used, call } = deviceSide(driver);
      used.setUint32(4, 0, true);
      used.setUint32(8, 513, true);
      used.setUint16(2, 1, true);
      call();
      expect(await code).toBe('VLO_DEVICE_FAILED');
      await expect(read).rejects.toThrow('the device answered no status at all to read');
      disk.release();
    }));
});

test('a disk that changes its size', async () => {
  const sizes: number[] = [];
  await withDisk({ onResize: (size) => sizes.push(size) }, async (driver, disk, served) => {
    const config = BlkConfig.decode(served.config());
    served.host.setConfig(BlkConfig.encode({ ...config, capacity: 4 }));
    await expect.poll(() => sizes).toEqual([2048]);
    expect(driver.size).toBe(2048);
    expect(disk.size).toBe(1 << 20);
    expect(await codeOf(driver.read(2048, new Uint8Array(512)))).toBe('VLO_REQUEST_INVALID');
  });
});

test('slots: requests without promises, in any shared memory', () =>
  withDisk({ depth: 4, queueCount: 2 }, async (driver) => {
    const { slots } = driver;
    expect([slots.count, slots.queueCount, slots.freeCount(1)]).toEqual([8, 2, 4]);
    const ended: number[][] = [];
    await new Promise<void>((resolve) => {
      const handler = {
        done(slot: number, status: number): void {
          ended.push([slot, status]);
          if (ended.length < 100) slots.read(slot, 0, 512, slots.address(0));
          else resolve();
        },
      };
      const slot = slots.acquire(handler, 1);
      slots.bytes(slot).fill(5);
      slots.write(slot, 0, 512);
    });
    expect(ended).toHaveLength(100);
    expect(
      slots
        .bytes(0)
        .subarray(0, 512)
        .every((byte) => byte === 5),
    ).toBe(true);
    await driver.close();
    const lost: number[] = [];
    const slot = slots.acquire({ done: (_, status) => lost.push(status) }, 0);
    slots.flush(slot);
    await expect.poll(() => lost).toEqual([STATUS_LOST]);
    slots.release(slot);
    expect(() => slots.release(slot)).toThrow('twice');
  }));

test('an idle driver takes no processor time', () =>
  withDisk({}, async (driver) => {
    await driver.read(0, new Uint8Array(4096));
    await new Promise((resolve) => setTimeout(resolve, 50));
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(100);
  }));
