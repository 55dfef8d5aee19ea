/** Our front end and block driver over qemu-storage-daemon and our program, killed under load. */

import { readFileSync, rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BlkDriver, type BlkDriverOptions } from '../../src/devices/blk/driver.js';
import { type Backend, startBlk, startQsd } from './support/backend.js';
import { describeWithPeers } from './support/peers.js';
import { until, Workspace } from './support/process.js';

const MiB = 1024 * 1024;
const SIZE = 64 * MiB;

const pattern = (size: number, seed: number): Buffer => {
  const bytes = Buffer.alloc(size);
  for (let i = 0; i < size; i += 4) bytes.writeUInt32LE((i * 31 + seed * 0x9e3779b1) >>> 0, i);
  return bytes;
};

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Writes and reads in a part of the disk of its own, and knows what has to be there. */
class Load {
  readonly model = Buffer.alloc(SIZE);
  /** Requests that came back. */
  count = 0;
  #isOver = false;
  readonly #workers: Promise<unknown>;

  constructor(driver: BlkDriver, workers: number) {
    const all = Array.from({ length: workers }, (_, i) => this.#work(driver, i, SIZE / workers));
    this.#workers = Promise.all(all);
  }

  async #work(driver: BlkDriver, index: number, room: number): Promise<void> {
    for (let round = 0; !this.#isOver; round++) {
      const size = 512 << ((round + index) % 9);
      const at = index * room + (((round * 5 + index) * 131072) % room);
      const bytes = pattern(size, index * 1000 + round);
      bytes.copy(this.model, at);
      await driver.write(at, bytes);
      if (round % 8 === 0) await driver.flush();
      const back = await driver.read(at, Buffer.alloc(size));
      if (!same(back, bytes)) throw new Error(`worker ${index} reads what it did not write`);
      this.count += 2;
    }
  }

  /** Waits until so many more requests came back. */
  async more(count: number): Promise<void> {
    const goal = this.count + count;
    await until(`${count} requests more`, 60_000, () => this.count >= goal);
  }

  async finish(driver: BlkDriver): Promise<void> {
    this.#isOver = true;
    await this.#workers;
    await driver.flush();
  }
}

/** Kills the back end again and again while a load runs, and compares the disk in the end. */
async function surviveKills(
  ws: Workspace,
  start: () => Promise<Backend>,
  options: Partial<BlkDriverOptions>,
  kills: number,
): Promise<void> {
  let backend = await start();
  let reconnects = 0;
  const driver = await BlkDriver.connect({
    path: ws.path('blk.sock'),
    slotSize: 32 * 1024, // Long requests are many: some are always under way.
    log: (line) => {
      if (line.startsWith('reconnected')) reconnects++;
    },
    ...options,
  });
  const load = new Load(driver, 16);
  try {
    for (let i = 0; i < kills; i++) {
      await load.more(300);
      await backend.kill();
      rmSync(ws.path('blk.sock.pid'), { force: true });
      backend = await start();
    }
    await load.more(300);
    await load.finish(driver);
    expect(driver.error).toBe(null);
    expect(reconnects).toBe(kills);
    expect(same(readFileSync(ws.path('disk.img')), load.model)).toBe(true);
  } finally {
    await driver.close();
  }
}

describeWithPeers('our front end', () => {
  for (const numQueues of [1, 4]) {
    test(`qemu-storage-daemon, ${numQueues} queues: all kinds of requests`, async () => {
      const ws = new Workspace();
      await startQsd(ws, { image: ws.sparse('disk.img', SIZE), numQueues });
      const path = ws.path('blk.sock');
      const driver = await BlkDriver.connect({ path, queueCount: numQueues });
      try {
        expect(driver.slots.queueCount).toBe(numQueues);
        expect(driver.size).toBe(SIZE);
        expect(await driver.getId()).toBe('vhost_user_blk');
        const model = pattern(SIZE, numQueues);
        await driver.write(0, model);
        await driver.flush();
        expect(same(readFileSync(ws.path('disk.img')), model)).toBe(true);
        await driver.discard(2 * MiB, MiB);
        await driver.writeZeroes(4 * MiB, 20 * MiB);
        await driver.writeZeroes(30 * MiB, 512, { unmap: true });
        await driver.flush();
        model.fill(0, 4 * MiB, 24 * MiB).fill(0, 30 * MiB, 30 * MiB + 512);
        // A discarded range of a sparse file reads as zeros.
        model.fill(0, 2 * MiB, 3 * MiB);
        expect(same(readFileSync(ws.path('disk.img')), model)).toBe(true);
        expect(same(await driver.read(0, Buffer.alloc(SIZE)), model)).toBe(true);
        const sectors = Array.from({ length: 500 }, async (_, i) => {
          const at = ((i * 7919) % (SIZE / 512)) * 512;
          const bytes = await driver.read(at, Buffer.alloc(512));
          return same(bytes, model.subarray(at, at + 512));
        });
        expect((await Promise.all(sectors)).every((isSame) => isSame)).toBe(true);
      } finally {
        await driver.close();
      }
    });
  }

  test('qemu-storage-daemon, read-only: writes are refused', async () => {
    const ws = new Workspace();
    await startQsd(ws, { image: ws.sparse('disk.img', SIZE), readOnly: true });
    const driver = await BlkDriver.connect({ path: ws.path('blk.sock') });
    expect(driver.isReadOnly).toBe(true);
    await expect(driver.write(0, Buffer.alloc(512))).rejects.toThrow('read-only');
    expect(same(await driver.read(0, Buffer.alloc(4096)), Buffer.alloc(4096))).toBe(true);
    await driver.close();
  });

  for (const numQueues of [1, 4]) {
    test(`qemu-storage-daemon killed under load, ${numQueues} queues: no request is lost`, async () => {
      const ws = new Workspace();
      const image = ws.sparse('disk.img', SIZE);
      const options = { queueCount: numQueues };
      await surviveKills(ws, () => startQsd(ws, { image, numQueues }), options, 5);
    });
  }

  for (const packed of [false, true]) {
    test(`our back end killed under load, ${packed ? 'packed' : 'split'} rings: no request is lost`, async () => {
      const ws = new Workspace();
      const image = ws.sparse('disk.img', SIZE);
      const start = (): Promise<Backend> => startBlk(ws, { image, numQueues: 2 });
      await surviveKills(ws, start, { queueCount: 2, packed }, 10);
    });
  }
});
