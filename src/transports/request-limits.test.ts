import { describe, expect, test } from 'vitest';
import { limitBlk, limitScsi, requestMax } from './request-limits.js';

const MIB = 2 ** 20;
const SIZE_MAX = 1n << 1n;
const SEG_MAX = 1n << 2n;

describe('a disk', () => {
  /** What is left of the limits of a back end. */
  function limit(features: bigint, bytes: number, own: { sizeMax: number; segMax: number }) {
    const config = new Uint8Array(60);
    const view = new DataView(config.buffer);
    view.setUint32(8, own.sizeMax, true);
    view.setUint32(12, own.segMax, true);
    expect(limitBlk(config, features, bytes)).toBe(SIZE_MAX);
    return { sizeMax: view.getUint32(8, true), segMax: view.getUint32(12, true) };
  }

  test.each([
    { what: 'of 16 MiB of pool', features: SEG_MAX, pool: 16, own: [0, 126], left: [32768, 126] },
    { what: 'of 64 MiB of pool', features: SEG_MAX, pool: 64, own: [0, 126], left: [131072, 126] },
    { what: 'of its own', features: SIZE_MAX | SEG_MAX, pool: 16, own: [4096, 9], left: [4096, 9] },
    {
      what: 'that is too high',
      features: SIZE_MAX,
      pool: 16,
      own: [2 ** 31, 9],
      left: [4128768, 9],
    },
    { what: 'without SIZE_MAX', features: SEG_MAX, pool: 16, own: [7, 254], left: [16384, 254] },
    { what: 'without segments', features: 0n, pool: 16, own: [7, 0], left: [4128768, 0] },
    { what: 'of little pool', features: SEG_MAX, pool: 1, own: [0, 126], left: [4096, 60] },
  ])('gets a limit $what', ({ features, pool, own, left }) => {
    const [sizeMax, segMax] = own as [number, number];
    const bytes = requestMax(pool * MIB);
    const limits = limit(features, bytes, { sizeMax, segMax });
    expect(limits).toEqual({ sizeMax: left[0], segMax: left[1] });
    const segments = (features & SEG_MAX) === 0n ? 1 : limits.segMax;
    expect(segments * limits.sizeMax).toBeLessThanOrEqual(bytes);
  });

  test('a limit is the same when it is set again', () => {
    const first = limit(SEG_MAX, MIB, { sizeMax: 0, segMax: 126 });
    expect(limit(SEG_MAX | SIZE_MAX, MIB, first)).toEqual(first);
  });
});

test.each([
  { own: 0, left: 4080 },
  { own: 100_000, left: 4080 },
  { own: 128, left: 128 },
])('a SCSI host with $own sectors for a request: $left', ({ own, left }) => {
  const config = new Uint8Array(36);
  const view = new DataView(config.buffer);
  view.setUint32(8, own, true);
  expect(limitScsi(config, 0n, requestMax(16 * MIB))).toBe(0n);
  expect(view.getUint32(8, true)).toBe(left);
});
