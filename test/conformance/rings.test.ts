/** Driver against device over both layouts and all features of a ring. */
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { combinations, RingPair, ringName } from './ring-pair.js';

const SPLIT_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768];
const PACKED_SIZES = [1, 2, 3, 5, 7, 16, 31, 100, 256, 257, 1000, 4097, 20011, 32767, 32768];
const OPERATIONS_MIN = 1_000_000;

let operationCount = 0;

afterAll(() => {
  console.log(`${operationCount} ring operations`);
  expect(operationCount).toBeGreaterThanOrEqual(OPERATIONS_MIN);
});

function runPair(pair: RingPair, work: () => void): void {
  try {
    work();
    pair.drain();
  } finally {
    operationCount += pair.operations;
    pair.close();
  }
}

describe.each([
  ['split', false, SPLIT_SIZES],
  ['packed', true, PACKED_SIZES],
] as const)('%s ring', (_, packed, sizes) => {
  const features = fc.constantFrom(...combinations(packed));
  const seed = fc.integer();

  test('serves any short sequence of operations', () => {
    const step = fc.tuple(fc.nat(9), fc.integer({ min: 1, max: 6 }));
    fc.assert(
      fc.property(
        features,
        fc.constantFrom(...sizes.filter((size) => size <= 16)),
        fc.array(step, { maxLength: 200 }),
        seed,
        (feature, size, steps, random) => {
          const pair = new RingPair({ ...feature, size }, random);
          runPair(pair, () => {
            for (const [kind, amount] of steps) pair.step(kind, amount);
          });
        },
      ),
      { numRuns: 500 },
    );
  });

  test.each(
    combinations(packed).map((feature) => [ringName({ ...feature, size: 0 }), feature] as const),
  )('serves random batches at every size: %s', (_name, feature) => {
    fc.assert(
      fc.property(fc.constantFrom(...sizes), seed, (size, random) => {
        const pair = new RingPair({ ...feature, size }, random);
        runPair(pair, () => pair.run(1000 + size));
      }),
      // Every size once, and some twice.
      { numRuns: 20, examples: sizes.map((size) => [size, 1] as [number, number]) },
    );
  });

  test.each(
    combinations(packed).map((feature) => [ringName({ ...feature, size: 64 }), feature] as const),
  )('crosses the end of 16-bit indices: %s', (_name, feature) => {
    const pair = new RingPair({ ...feature, size: packed ? 61 : 64 }, 7);
    runPair(pair, () => {
      while (pair.driver.counters.committed < 66_000) pair.run(10_000);
    });
  });
});
