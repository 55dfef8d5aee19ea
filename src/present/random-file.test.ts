import { constants } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RngDriver, rng } from '../devices/index.js';
import { NullSource } from '../devices/rng/backend-null.js';
import { RngDevice } from '../devices/rng/device.js';
import { VloError } from '../errors.js';
import { FakeKernel, type FakeReply } from '../fuse/test-utils.js';
import { type AnyDeviceDefinition, defineDevice } from '../kit/index.js';
import { ERRNO } from '../native/index.js';
import { FileMount } from './file-mount.js';
import { RANDOM_TRANSFER_MAX, RandomFile } from './random-file.js';
import { Served } from './test-utils.js';

let kernel: FakeKernel;
beforeEach(() => {
  kernel = new FakeKernel();
});
afterEach(() => kernel.close());

async function withRandom(
  definition: AnyDeviceDefinition,
  work: (file: RandomFile, driver: RngDriver, mount: FileMount) => Promise<void>,
): Promise<void> {
  const served = await Served.start(definition);
  const driver = await RngDriver.connect({ path: served.path });
  const file = new RandomFile(driver);
  const mount = new FileMount(kernel.channel, file, RANDOM_TRANSFER_MAX);
  driver.loop.addSource(mount);
  try {
    await work(file, driver, mount);
  } finally {
    await driver.close();
    await served.close();
  }
}

const dryDevice = (source: NullSource): AnyDeviceDefinition =>
  defineDevice({
    ...rng,
    options: v.object({}),
    arguments: {},
    open: () =>
      new RngDevice(source, {
        ...{ bytesMax: Number.POSITIVE_INFINITY, periodMs: 1000, log: () => {} },
      }).open(),
  });

const sendRead = (size: number): number => kernel.send('READ', { fields: { size } });
const read = (size: number): Promise<FakeReply> => kernel.reply(sendRead(size));

test('any number of bytes, for many readers at a time, and none of them twice', () =>
  withRandom(rng, async (file) => {
    const sizes = [1, 4096, 65536, 65536, 5000];
    const uniques = sizes.map(sendRead);
    const seen = new Set<string>();
    for (const [i, unique] of uniques.entries()) {
      const { errno, body } = await kernel.reply(unique);
      expect([errno, body.length]).toEqual([0, sizes[i]]);
      if (body.length >= 4096) seen.add(body.toString('latin1', 0, 64));
      expect(body.filter((byte) => byte === 0).length).toBeLessThan(1 + body.length / 64);
    }
    expect(seen.size).toBe(4);
    expect((await read(0)).body).toHaveLength(0);
    expect((await read(2 ** 20)).body).toHaveLength(RANDOM_TRANSFER_MAX);
    expect(file.counters).toMatchObject({ requests: 7, errors: 0 });
  }));

test('what is no read is refused', () =>
  withRandom(rng, async () => {
    const errnos: number[] = [];
    for (const [name, fields] of [
      ['OPEN', { flags: constants.O_RDONLY }],
      ['OPEN', { flags: constants.O_RDWR }],
      ['OPEN', { flags: constants.O_WRONLY }],
      ['WRITE', { size: 4 }],
      ['FSYNC', {}],
      ['FALLOCATE', { length: 4 }],
    ] as const) {
      errnos.push((await kernel.ask(name, { fields })).errno);
    }
    const { EACCES, EBADF, EINVAL, EOPNOTSUPP } = ERRNO;
    expect(errnos).toEqual([0, EACCES, EACCES, EBADF, EINVAL, EOPNOTSUPP]);
  }));

test('a signal ends the wait for a slow source, and of no other reader', () => {
  const source = new NullSource();
  source.result = 0;
  return withRandom(dryDevice(source), async (file) => {
    const [first, second] = [sendRead(16), sendRead(16)];
    await delay(20);
    kernel.send('INTERRUPT', { fields: { interrupted: first } });
    kernel.send('INTERRUPT', { fields: { interrupted: 999 } });
    expect((await kernel.reply(first)).errno).toBe(ERRNO.EINTR);
    expect(kernel.take()).toEqual([]);
    source.refill();
    expect((await kernel.reply(second)).body).toHaveLength(16);
    expect(file.counters.errors).toBe(0);
  });
});

test('a driver that has failed: EIO for who waits, and for who asks later', () => {
  const source = new NullSource();
  source.result = 0;
  return withRandom(dryDevice(source), async (file, driver, mount) => {
    const waiting = sendRead(16);
    await delay(20);
    driver.abandon(new VloError('VLO_DISCONNECTED', 'given up'));
    expect((await kernel.reply(waiting)).errno).toBe(ERRNO.EIO);
    const later = sendRead(16);
    mount.poll();
    expect((await kernel.reply(later)).errno).toBe(ERRNO.EIO);
    expect(file.counters.errors).toBe(2);
    source.refill();
  });
});
