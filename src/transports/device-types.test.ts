import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DEVICES } from '../devices/catalog.js';
import { DEVICE_TYPES, planQueues } from './device-types.js';
import { differences } from './kernel-config.js';
import { countersOf } from './kernel-counters.js';

const MQ = 1n << 12n;
const MIB = 2 ** 20;

test('all devices of this package are there, by the same id', () => {
  for (const { name, virtioId } of DEVICES) {
    expect(DEVICE_TYPES.get(name)?.deviceId).toBe(virtioId);
  }
});

test.each([...DEVICE_TYPES.values()])('$name: sizes that the kernel takes', (type) => {
  expect(type.configSize(~0n & ((1n << 64n) - 1n))).toBeLessThanOrEqual(256);
  const entries = type.queues * type.queueSize;
  for (const features of [0n, ~0n & ((1n << 64n) - 1n)]) {
    expect(type.poolSize(entries, features) % 65536).toBe(0);
    expect(type.poolSize(entries, features)).toBeLessThanOrEqual(32 * MIB);
  }
  expect(Math.log2(type.queueSize) % 1).toBe(0);
  const size = type.configSize(0n);
  if (type.count !== null) {
    expect(type.count.offset + type.count.size).toBeLessThanOrEqual(size);
  }
  const substitute = type.substitute?.('name');
  if (substitute !== undefined) expect(substitute.config).toHaveLength(size);
});

/** Config space with one number in it. */
function configWith(size: number, offset: number, value: number): Uint8Array {
  const config = new Uint8Array(size);
  new DataView(config.buffer).setUint16(offset, value, true);
  return config;
}

test.each([
  { type: 'blk', offset: 34, value: 8, features: MQ, max: 4, queues: 4, left: 4 },
  { type: 'blk', offset: 34, value: 3, features: MQ, max: 4, queues: 3, left: 3 },
  { type: 'blk', offset: 34, value: 0, features: MQ, max: 4, queues: 1, left: 1 },
  { type: 'blk', offset: 34, value: 8, features: 0n, max: 4, queues: 1, left: 8 },
  { type: 'console', offset: 4, value: 31, features: 2n, max: 64, queues: 64, left: 31 },
  { type: 'console', offset: 4, value: 99, features: 2n, max: 64, queues: 64, left: 31 },
  { type: 'console', offset: 4, value: 99, features: 0n, max: 64, queues: 2, left: 99 },
  { type: 'fs', offset: 36, value: 5, features: 0n, max: 3, queues: 3, left: 2 },
  { type: 'scsi', offset: 0, value: 1, features: 0n, max: 64, queues: 3, left: 1 },
])('$type with $value: $queues queues of at most $max', ({ type, offset, value, ...rest }) => {
  const found = DEVICE_TYPES.get(type)!;
  const config = configWith(found.configSize(0n), offset, value);
  expect(planQueues(found, rest.features, config, rest.max)).toBe(rest.queues);
  expect(new DataView(config.buffer).getUint16(offset, true)).toBe(rest.left);
});

test('a network device without config space has an address of its own, always the same', () => {
  const { substitute } = DEVICE_TYPES.get('net')!;
  const { config, features } = substitute!('net0');
  expect(features).toBe(1n << 5n);
  expect(config[0]! & 3).toBe(2);
  expect(substitute!('net0').config).toEqual(config);
  expect(substitute!('net1').config).not.toEqual(config);
});

test('a pool has a frame for each entry, and room for larger requests', () => {
  const pool = (type: string, entries: number, features = 0n) =>
    DEVICE_TYPES.get(type)!.poolSize(entries, features);
  expect(pool('blk', 256)).toBe(14 * MIB);
  expect(pool('blk', 4 * 256)).toBe(20 * MIB);
  expect(pool('blk', 64 * 256)).toBe(32 * MIB);
  expect(pool('fs', 2 * 128)).toBe(8 * MIB);
  expect(pool('vsock', 3 * 128)).toBe(7 * MIB);
  expect(pool('rng', 64)).toBe(MIB);
  const [guestTso4, mergeable] = [1n << 7n, 1n << 15n];
  expect(pool('net', 512)).toBe(8 * MIB);
  expect(pool('net', 512, guestTso4 | mergeable)).toBe(8 * MIB);
  // 256 buffers for packets of 64 KiB stay in the pool until packets come.
  expect(pool('net', 512, guestTso4)).toBe(26 * MIB);
});

test('differences of two config spaces', () => {
  const before = Uint8Array.of(0, 1, 2, 3, 4);
  expect(differences(before, before)).toEqual([]);
  expect(differences(before, Uint8Array.of(9, 1, 8, 7, 4))).toEqual([
    { offset: 0, bytes: Uint8Array.of(9) },
    { offset: 2, bytes: Uint8Array.of(8, 7) },
  ]);
  expect(differences(before, Uint8Array.of(0, 1, 2, 3, 5))).toEqual([
    { offset: 4, bytes: Uint8Array.of(5) },
  ]);
});

test('what the kernel counted of a disk', () => {
  const sys = mkdtempSync(join(tmpdir(), 'vlo-sys-'));
  try {
    mkdirSync(join(sys, 'class/block/vda'), { recursive: true });
    const text = '  10 1 80 5 20 2 160 6 0 7 8 3 0 24 1 4 9\n';
    writeFileSync(join(sys, 'class/block/vda/stat'), text);
    const none = { requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0 };
    const counted = { requests: 37, errors: 0, bytesRead: 40960, bytesWritten: 81920 };
    expect(countersOf('/dev/vda', sys)).toEqual(counted);
    expect(countersOf('/dev/vdb', sys)).toEqual(none);
    expect(countersOf('/dev/hwrng', sys)).toEqual(none);
    expect(countersOf(null, sys)).toEqual(none);
  } finally {
    rmSync(sys, { recursive: true });
  }
});
