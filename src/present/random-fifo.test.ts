import { constants, existsSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RngDriver, rng } from '../devices/index.js';
import { VloError } from '../errors.js';
import { Fd } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { RandomFifo } from './random-fifo.js';
import { Served } from './test-utils.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-fifo-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function withFifo(work: (fifo: RandomFifo, driver: RngDriver) => Promise<void>) {
  await expectNoLeaks(async () => {
    const served = await Served.start(rng);
    const driver = await RngDriver.connect({ path: served.path });
    const fifo = new RandomFifo(driver, folder);
    try {
      await work(fifo, driver);
    } finally {
      await fifo.close();
      await driver.close();
      await served.close();
      // The socket of the pipe closes its descriptor in a later turn.
      await delay(20);
    }
  });
}

test('two readers get bytes, each of them its own; the pipe is gone after close', async () => {
  let path = '';
  await withFifo(async (fifo) => {
    path = fifo.path;
    expect(statSync(path).isFIFO()).toBe(true);
    const readers = await Promise.all([open(path), open(path)]);
    const targets = readers.map(() => Buffer.alloc(200_000));
    await Promise.all(
      readers.map(async (reader, i) => {
        let at = 0;
        while (at < 200_000) at += (await reader.read(targets[i]!, at)).bytesRead;
        await reader.close();
      }),
    );
    for (const target of targets) {
      expect(target.filter((byte) => byte === 0).length).toBeLessThan(200_000 / 64);
    }
    expect(targets[0]!.subarray(0, 64).equals(targets[1]!.subarray(0, 64))).toBe(false);
    expect(fifo.counters.bytesRead).toBeGreaterThanOrEqual(400_000);
  });
  expect(existsSync(path)).toBe(false);
});

test('nobody reads: the pipe is filled once, and no processor time is used', () =>
  withFifo(async (fifo) => {
    await delay(200);
    const { bytesRead } = fifo.counters;
    expect(bytesRead).toBeLessThan(200_000);
    const before = process.cpuUsage();
    await delay(500);
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(100);
    expect(fifo.counters.bytesRead).toBe(bytesRead);
  }));

test('a driver that has failed: what is in the pipe, then its end', () =>
  withFifo(async (fifo, driver) => {
    const reader = new Fd(openSync(fifo.path, constants.O_RDONLY | constants.O_NONBLOCK));
    await delay(50);
    driver.abandon(new VloError('VLO_DISCONNECTED', 'given up'));
    fifo.driverFailed();
    await delay(50);
    const target = Buffer.alloc(65536);
    while (readSync(reader.number, target) > 0);
    reader.close();
  }));
