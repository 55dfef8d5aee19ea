/** What the tests of the block device have in common: requests as a driver builds them. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join as joinPath } from 'node:path';
import * as v from 'valibot';
import { afterEach, expect } from 'vitest';
import { defineDevice } from '../../kit/index.js';
import {
  join,
  MockDriver,
  type MockDriverOptions,
  type MockRequest,
  type MockResult,
} from '../../testing/index.js';
import type { Disk } from './backend.js';
import { MemoryDisk } from './backend-null.js';
import { BlkDevice } from './device.js';
import { blk } from './index.js';
import { type BLK_F, BLK_S, BLK_T } from './wire.js';

export type FeatureName = keyof typeof BLK_F;

/** The header of a request; sectors may be any 64-bit number. */
export function header(type: number, sector: number | bigint = 0): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setBigUint64(8, BigInt.asUintN(64, BigInt(sector)), true);
  return bytes;
}

/** A segment of DISCARD or WRITE_ZEROES. */
export function range(sector: number | bigint, sectorCount: number, flags = 0): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt.asUintN(64, BigInt(sector)), true);
  view.setUint32(8, sectorCount, true);
  view.setUint32(12, flags, true);
  return bytes;
}

/** How a request is cut; by default header, data and status have a segment each. */
export type Cut = Pick<MockRequest, 'alignment' | 'misalignment' | 'timeoutMs'>;

export const requests = {
  read: (sector: number | bigint, size: number): MockRequest => ({
    readable: [header(BLK_T.IN, sector)],
    writable: [size, 1],
  }),
  write: (sector: number | bigint, data: Uint8Array): MockRequest => ({
    readable: [header(BLK_T.OUT, sector), data],
    writable: [1],
  }),
  flush: (): MockRequest => ({ readable: [header(BLK_T.FLUSH)], writable: [1] }),
  id: (size = 20): MockRequest => ({ readable: [header(BLK_T.GET_ID)], writable: [size, 1] }),
  discard: (...ranges: Uint8Array[]): MockRequest => ({
    readable: [header(BLK_T.DISCARD), join(...ranges)],
    writable: [1],
  }),
  zero: (...ranges: Uint8Array[]): MockRequest => ({
    readable: [header(BLK_T.WRITE_ZEROES), join(...ranges)],
    writable: [1],
  }),
} as const;

export const statusOf = (result: MockResult): number => result.buffer.at(-1)!;
export const dataOf = (result: MockResult): Uint8Array => result.buffer.subarray(0, -1);

/** Compares bytes; for a few megabytes `toEqual` takes seconds. */
export function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  expect(actual.length).toBe(expected.length);
  const at =
    Buffer.compare(actual, expected) === 0 ? -1 : actual.findIndex((b, i) => b !== expected[i]);
  expect(at, 'first byte that differs').toBe(-1);
}

const drivers: MockDriver[] = [];
const folders: string[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** A driver that speaks to a block device. */
export class BlkDriver {
  readonly mock: MockDriver;

  constructor(mock: MockDriver) {
    this.mock = mock;
    drivers.push(mock);
  }

  /** Sends a request and returns its status. */
  async status(request: MockRequest, queueIndex = 0): Promise<number> {
    return statusOf(await this.mock.request(queueIndex, request));
  }

  /** Reads; the read has to succeed. */
  async read(sector: number, size: number, cut: Cut = {}): Promise<Uint8Array> {
    const result = await this.mock.request(0, { ...requests.read(sector, size), ...cut });
    expect(statusOf(result)).toBe(BLK_S.OK);
    expect(result.length).toBe(size + 1);
    return dataOf(result);
  }

  /** Writes; the write has to succeed. */
  async write(sector: number, data: Uint8Array, cut: Cut = {}): Promise<void> {
    const result = await this.mock.request(0, { ...requests.write(sector, data), ...cut });
    expect([statusOf(result), result.length]).toEqual([BLK_S.OK, 1]);
  }

  /** Sends requests that the device finds together, and returns their statuses. */
  async statuses(batch: readonly MockRequest[]): Promise<number[]> {
    const results = await Promise.all(this.mock.batch(0, batch));
    return results.map(statusOf);
  }
}

/** A block device over any disk. */
export async function openDisk(
  disk: Disk,
  options: MockDriverOptions = {},
  queueCount = 1,
): Promise<BlkDriver> {
  const definition = defineDevice({
    ...blk,
    options: v.object({}),
    arguments: {},
    open: (_options, host) =>
      new BlkDevice(disk, {
        queueCount,
        serial: 'serial',
        setConfig: (bytes) => host.setConfig(bytes),
        wake: () => host.wake(),
      }).open(),
  });
  return new BlkDriver(await MockDriver.open(definition, {}, options));
}

/** A block device in memory whose content is `bytes` where given. */
export async function openMemory(
  options: MockDriverOptions = {},
  { size = 64 * 1024, isReadOnly = false, queueCount = 1 } = {},
): Promise<{ disk: MemoryDisk; driver: BlkDriver }> {
  const disk = new MemoryDisk(size, isReadOnly);
  return { disk, driver: await openDisk(disk, options, queueCount) };
}

/** A folder for files, removed after the test. */
export function makeFolder(): string {
  const folder = mkdtempSync(joinPath(tmpdir(), 'vlo-blk-'));
  chmodSync(folder, 0o755); // What lies in it decides by itself who may open it.
  folders.push(folder);
  return folder;
}

/** An image file, removed after the test. */
export function makeImage(content: Uint8Array): string {
  const path = joinPath(makeFolder(), 'disk.img');
  writeFileSync(path, content);
  return path;
}
