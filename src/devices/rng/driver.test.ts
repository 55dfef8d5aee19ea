import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AnyDeviceDefinition, DeviceProcess, defineDevice } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { BackEndServer } from '../../vhost-user/index.js';
import { NullSource } from './backend-null.js';
import { RngDevice } from './device.js';
import { RngDriver } from './driver.js';
import { rng } from './index.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Serves a device; the result ends it. */
async function serve(definition: AnyDeviceDefinition): Promise<() => Promise<void>> {
  const device = await DeviceProcess.open(definition, {});
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  return async () => {
    await server.close();
    await device.close();
  };
}

function nullDevice(source: NullSource): AnyDeviceDefinition {
  return defineDevice({
    ...rng,
    options: v.object({}),
    arguments: {},
    open: () =>
      new RngDevice(source, {
        bytesMax: Number.POSITIVE_INFINITY,
        periodMs: 1000,
        log: () => {},
      }).open(),
  });
}

test.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('random bytes of any number, over a $name ring', ({ packed }) =>
  expectNoLeaks(async () => {
    const stop = await serve(rng);
    const driver = await RngDriver.connect({ path, packed });
    const sizes = [1, 4095, 4096, 4097, 100_000, 0];
    const results = await Promise.all(sizes.map((size) => driver.read(new Uint8Array(size))));
    expect(results.map((bytes) => bytes.length)).toEqual(sizes);
    for (const bytes of results.slice(1, 5)) {
      // A piece that was left out would be a run of zeros, a repeated one would be equal.
      expect(bytes.filter((byte) => byte === 0).length).toBeLessThan(bytes.length / 64);
      expect(Buffer.compare(bytes.subarray(0, 64), results[4]!.subarray(50_000, 50_064))).not.toBe(
        0,
      );
    }
    await driver.close();
    await stop();
  }),
);

test('a source that runs dry: the call waits, may be given up, and survives a restart', () =>
  expectNoLeaks(async () => {
    const source = new NullSource();
    let stop = await serve(nullDevice(source));
    const driver = await RngDriver.connect({ path, reconnect: { delayMs: 1 } });
    await driver.read(new Uint8Array(10));
    source.result = 0;
    const target = new Uint8Array(10);
    const waiting = driver.read(target);
    const signal = AbortSignal.timeout(20);
    await expect(driver.read(new Uint8Array(10), { signal })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
    source.refill();
    await stop();
    stop = await serve(nullDevice(new NullSource()));
    expect(await waiting).toBe(target);
    await driver.read(new Uint8Array(100_000));
    await driver.close();
    await stop();
  }));

test('close fails what waits', () =>
  expectNoLeaks(async () => {
    const source = new NullSource();
    const stop = await serve(nullDevice(source));
    const driver = await RngDriver.connect({ path });
    source.result = 0;
    const waiting = driver.read(new Uint8Array(10));
    const closing = driver.close();
    await expect(waiting).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    source.refill();
    await closing;
    await expect(driver.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await stop();
  }));

test('without a back end', async () => {
  await expect(RngDriver.connect({ path })).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
});
