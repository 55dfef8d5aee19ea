/** The entropy device: over a source that can fail, and over files, pipes and the kernel's own. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import { DeviceProcess, defineDevice } from '../../kit/index.js';
import { ERRNO } from '../../native/index.js';
import {
  cutSize,
  MockDriver,
  type MockDriverOptions,
  pattern,
  resourceCounts,
} from '../../testing/index.js';
import { NullSource } from './backend-null.js';
import { RngDevice, type RngDeviceOptions } from './device.js';
import { rng } from './index.js';
import { REQUEST_SIZE_MAX } from './wire.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

const drivers: MockDriver[] = [];
const folders: string[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

async function open(options: object, mock: MockDriverOptions = {}): Promise<MockDriver> {
  const driver = await MockDriver.open(rng, options, mock);
  drivers.push(driver);
  return driver;
}

/** The device over a source for tests. */
async function openNull(
  options: Partial<RngDeviceOptions> = {},
  mock: MockDriverOptions = {},
): Promise<{ source: NullSource; driver: MockDriver }> {
  const source = new NullSource();
  const definition = defineDevice({
    ...rng,
    options: v.object({}),
    arguments: {},
    open: (_options, host) =>
      new RngDevice(source, {
        bytesMax: Number.POSITIVE_INFINITY,
        periodMs: 60_000,
        log: (line) => host.log(line),
        ...options,
      }).open(),
  });
  const driver = await MockDriver.open(definition, {}, mock);
  drivers.push(driver);
  return { source, driver };
}

function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-rng-'));
  folders.push(folder);
  return folder;
}

function makeFile(content: Uint8Array): string {
  const path = join(makeFolder(), 'source');
  writeFileSync(path, content);
  return path;
}

function makePipe(): string {
  const path = join(makeFolder(), 'pipe');
  execFileSync('mkfifo', [path]);
  return path;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const fill = (driver: MockDriver, size: number) => driver.request(0, { writable: [size] });

describe.each(LAYOUTS)('$name ring', ({ packed }) => {
  test('fills buffers, however they are cut, with bytes that differ', async () => {
    const driver = await open({}, { packed });
    const seen = new Set<string>();
    for (let at = 1; at < 32; at += 1) {
      const writable = cutSize(64, at, 33, 50);
      const { length, bytes } = await driver.request(0, { writable, misalignment: at % 4 });
      expect(length).toBe(64);
      seen.add(Buffer.from(bytes).toString('hex'));
    }
    expect(seen.size).toBe(31);
  });

  test('a request without a writable buffer stops the queue', async () => {
    const driver = await open({}, { packed });
    const result = await driver.request(0, { readable: [pattern(16)] });
    expect(result.length).toBe(0);
    expect((await driver.nextFault()).fault?.reason).toBe('request');
    await driver.restartQueue(0);
    expect((await fill(driver, 16)).length).toBe(16);
  });

  test('a large request gets a part, and is not refused', async () => {
    const { source, driver } = await openNull({}, { packed });
    const { length } = await fill(driver, REQUEST_SIZE_MAX + 4096);
    expect(length).toBe(REQUEST_SIZE_MAX);
    expect(source.asked).toHaveLength(1);
  });

  test('a rate limit: what is left of it, then a wait for the next period', async () => {
    const { source, driver } = await openNull({ bytesMax: 100, periodMs: 80 }, { packed });
    const startedAt = performance.now();
    const lengths: number[] = [];
    for (let i = 0; i < 4; i += 1) lengths.push((await fill(driver, 64)).length);
    const tookMs = performance.now() - startedAt;
    expect(lengths).toEqual([64, 36, 64, 36]);
    expect(source.asked).toHaveLength(4);
    expect(tookMs).toBeGreaterThan(70);
    // A waiting request is in the ring, so that the queue can be stopped at any time.
    const waiting = fill(driver, 64);
    await sleep(5);
    await driver.stopQueue(0);
    driver.startQueue(0);
    expect((await waiting).length).toBe(64);
  });

  test('an empty source is waited for', async () => {
    const { source, driver } = await openNull({}, { packed });
    source.result = 0;
    const waiting = fill(driver, 8);
    while (source.asked.length === 0) await sleep(1);
    await driver.stopQueue(0);
    driver.startQueue(0); // Asks again, and must not wait twice.
    while (source.asked.length === 1) await sleep(1);
    source.refill();
    expect((await waiting).length).toBe(8);
    expect(driver.log).toEqual([]);
  });

  test('some bytes are an answer', async () => {
    const { source, driver } = await openNull({}, { packed });
    const read = source.read.bind(source);
    source.read = (address, size) => (source.asked.length === 0 ? read(address, size) : 0);
    expect((await driver.request(0, { writable: [8, 8] })).length).toBe(8);
  });

  test('a failing source is asked again after a second, and logged once', async () => {
    const { source, driver } = await openNull({}, { packed });
    source.result = -ERRNO.EIO!;
    const waiting = fill(driver, 8);
    while (source.asked.length < 2) await sleep(20);
    source.result = null;
    expect((await waiting).length).toBe(8);
    expect(driver.log).toEqual([expect.stringContaining('the source fails')]);
  });
});

describe('sources', () => {
  test('a file is read round and round', async () => {
    const content = pattern(10);
    const driver = await open({ filename: makeFile(content) });
    const { bytes } = await fill(driver, 25);
    expect(bytes).toEqual(Uint8Array.from({ length: 25 }, (_, i) => content[i % 10]!));
    expect((await fill(driver, 5)).bytes).toEqual(content.subarray(5));
  });

  test('a pipe without data is waited for, without using the processor', async () => {
    const path = makePipe();
    const driver = await open({ filename: path });
    const writer = openSync(path, 'r+');
    try {
      const waiting = fill(driver, 8);
      await sleep(150);
      const before = process.cpuUsage();
      await sleep(200);
      const { user, system } = process.cpuUsage(before);
      expect((user + system) / 1000).toBeLessThan(40);
      writeSync(writer, pattern(8));
      expect((await waiting).bytes).toEqual(pattern(8));
    } finally {
      closeSync(writer);
    }
    // The writer is gone: the end of a pipe is waited out as well.
    const waiting = fill(driver, 4);
    await sleep(50);
    const before = process.cpuUsage();
    await sleep(200);
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(40);
    await driver.stopQueue(0);
    driver.startQueue(0);
    const next = openSync(path, 'r+');
    writeSync(next, pattern(4, 2));
    expect((await waiting).bytes).toEqual(pattern(4, 2));
    closeSync(next);
  });

  test('a pipe nobody ever wrote to does not hold up start or end', async () => {
    const driver = await open({ filename: makePipe() }, { timeoutMs: 60 });
    await expect(fill(driver, 8)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
  });

  test.each([
    ['missing', () => '/nowhere/source', 'ENOENT'],
    [
      'a folder',
      () => {
        const path = join(makeFolder(), 'folder');
        mkdirSync(path);
        return path;
      },
      'is a folder',
    ],
    ['empty', () => makeFile(new Uint8Array(0)), 'is empty'],
  ])('%s is refused', async (_what, make, text) => {
    await expect(DeviceProcess.open(rng, { filename: make() })).rejects.toMatchObject({
      code: 'VLO_SOURCE_ACCESS',
      message: expect.stringContaining(text),
    });
  });

  test('nothing is left behind, even while a request waits', async () => {
    const path = makePipe();
    const run = async () => {
      const driver = await MockDriver.open(rng, { filename: path });
      const waiting = fill(driver, 8);
      await sleep(10);
      await driver.close();
      await expect(waiting).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    };
    await run();
    const before = resourceCounts();
    await run();
    await run();
    expect(resourceCounts()).toEqual(before);
  });
});

test.each([
  [{ maxBytes: 0 }, '--max-bytes: a number of bytes of at least 1 is needed'],
  [{ maxBytes: 1.5 }, '--max-bytes: a number of bytes without a fraction is needed'],
  [{ period: 2 ** 31 }, `--period: a number of milliseconds of at most ${2 ** 31 - 1} is needed`],
  [{ filename: 5 }, '--filename: a path is needed'],
])('options: %o is refused', async (options, message) => {
  await expect(DeviceProcess.open(rng, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: `rng: ${message}`,
  });
});
