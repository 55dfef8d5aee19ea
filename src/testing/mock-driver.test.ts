/** The mock driver notices what a device does wrong, and says clearly what its user did wrong. */
import { closeSync, openSync } from 'node:fs';
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import { defineDevice, type Handler, LATER } from '../kit/index.js';
import { preadInto } from '../native/index.js';
import {
  cutAt,
  cutEvery,
  cutSize,
  join,
  MOCK_MEMORY_ADDRESS,
  MockDriver,
  type MockDriverOptions,
  pattern,
} from './index.js';

const open: MockDriver[] = [];
afterEach(async () => {
  for (const driver of open.splice(0)) await driver.close();
});

async function drive(handler: Handler, options: MockDriverOptions = {}): Promise<MockDriver> {
  const definition = defineDevice({
    name: 'probe',
    summary: 'a device for tests',
    virtioId: 63,
    options: v.object({}),
    arguments: {},
    queues: [{ name: 'requestq' }],
    open: () => ({ features: 0n, handlers: { requestq: handler }, close: () => {} }),
  });
  const driver = await MockDriver.open(definition, {}, options);
  open.push(driver);
  return driver;
}

/** Writes one byte at an address, past all that the writer allows. */
function poke(address: number): void {
  const fd = openSync('/bin/sh', 'r');
  preadInto(fd, address, 1, 0);
  closeSync(fd);
}

describe('a device that does wrong', () => {
  test.each([16, -1])('writes beside its buffer (at %i)', async (offset) => {
    const driver = await drive(({ writer }) => poke(writer.nextSegment().address + offset));
    await expect(driver.request(0, { writable: [16] })).rejects.toMatchObject({
      code: 'VLO_DEVICE_FAILED',
      message: 'queue 0 (requestq): the device wrote beside its buffers',
    });
  });

  test('writes into its readable part', async () => {
    const driver = await drive(({ reader }) => poke(reader.nextSegment().address));
    await expect(driver.request(0, { readable: [new Uint8Array(4)] })).rejects.toMatchObject({
      message: 'queue 0 (requestq): the device wrote in its readable part',
    });
  });

  test('never answers', async () => {
    const driver = await drive((request, queue) => {
      setTimeout(() => queue.complete(request), 60);
      return LATER;
    });
    await expect(driver.request(0, { writable: [4], timeoutMs: 20 })).rejects.toMatchObject({
      code: 'VLO_TIMEOUT',
      message: expect.stringContaining('1 requests are outstanding, 1 are in flight'),
    });
  });
});

describe('a test that does wrong', () => {
  test('more requests than the ring holds', async () => {
    const driver = await drive(() => LATER, { queueSize: 4, timeoutMs: 20, indirect: false });
    await driver.stopQueue(0);
    const results = driver.batch(0, Array(5).fill({ writable: [1] }));
    await expect(results[4]).rejects.toMatchObject({ code: 'VLO_REQUEST_INVALID' });
    await expect(results[0]).rejects.toMatchObject({
      message: expect.stringContaining('the queue is stopped'),
    });
  });

  test('more memory than there is, and again after it is free', async () => {
    const driver = await drive(() => {}, { memorySize: 1024 * 1024 });
    const huge = { writable: [2 * 1024 * 1024] };
    await expect(driver.request(0, huge)).rejects.toThrow(/larger memorySize/);
    for (let i = 0; i < 20; i += 1) await driver.request(0, { writable: [400_000, i] });
  });

  test('queues and features that are not there', async () => {
    const driver = await drive(() => {});
    expect(() => driver.batch(1, [])).toThrow('there is no queue 1');
    expect(() => driver.startQueue(0)).toThrow('runs already');
    expect(() => driver.placeRaw(0, Array(65).fill({ address: 0, size: 0 }))).toThrow(/only 64/);
  });
});

test('addresses are as asked for', async () => {
  const seen: number[] = [];
  const driver = await drive(({ segments }) => void seen.push(...segments.guestAddresses));
  await driver.request(0, { readable: [pattern(3)], alignment: 4096, misalignment: 5 });
  expect(seen[0]! % 4096).toBe(5);
  expect(seen[0]).toBeGreaterThan(MOCK_MEMORY_ADDRESS);
});

test('payloads are cut and joined', () => {
  const bytes = pattern(10);
  expect(cutAt(bytes, 1, 7).map(({ length }) => length)).toEqual([1, 6, 3]);
  expect(cutEvery(bytes, 4).map(({ length }) => length)).toEqual([4, 4, 2]);
  expect(cutSize(10, 1, 7)).toEqual([1, 6, 3]);
  expect(join(...cutAt(bytes, 3))).toEqual(bytes);
  expect(pattern(64, 1)).not.toEqual(pattern(64, 2));
});
