/** Requests that no honest driver sends to the sound device: answers, or a queue that stops. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sound } from '../../src/devices/index.js';
import {
  PcmRequest,
  PcmSetParams,
  PcmXfer,
  SND_Q,
  SND_R,
  SND_S,
  SndQuery,
} from '../../src/devices/sound/wire.js';
import { join, MockDriver, type MockRequest, resourceCounts } from '../../src/testing/index.js';

const MALFORMED = ['address', 'order', 'chain-length', 'indirect'] as const;
const CODES = [...Object.values(SND_R), 0, 0x300, 0xffffffff];

const number = fc.oneof(fc.nat(4), fc.constantFrom(32, 1024, 0x7fffffff, 0xffffffff));
const streamId = fc.oneof({ weight: 4, arbitrary: fc.nat(3) }, number);
const request = fc
  .record({ code: fc.constantFrom(...CODES), streamId })
  .map((fields) => PcmRequest.encode(fields));
const settings = fc
  .record({
    streamId,
    bufferBytes: fc.oneof(fc.constantFrom(64, 128, 1024), number),
    periodBytes: fc.oneof(fc.constantFrom(32, 64), number),
    features: fc.oneof(fc.constantFrom(0, 16), number),
    channels: fc.nat(3),
    format: fc.nat(26),
    rate: fc.nat(17),
  })
  .map((fields) =>
    join(
      PcmRequest.encode({ code: SND_R.PCM_SET_PARAMS, streamId: fields.streamId }),
      PcmSetParams.encode(fields),
    ),
  );
const query = fc
  .record({ code: fc.constantFrom(...CODES), startId: number, count: number, size: number })
  .map((fields) => SndQuery.encode(fields));
const control = fc.oneof(
  { weight: 4, arbitrary: request },
  { weight: 3, arbitrary: settings },
  { weight: 2, arbitrary: query },
  { weight: 1, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 40 }) },
);
const message = fc
  .record({ id: streamId, frames: fc.uint8Array({ maxLength: 200 }) })
  .map(({ id, frames }) => join(PcmXfer.encode({ streamId: id }), frames));
const sizes = fc.oneof(
  { weight: 4, arbitrary: fc.constant([8]) },
  { weight: 2, arbitrary: fc.constant([4, 64, 8]) },
  { weight: 1, arbitrary: fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 3 }) },
);
const placed = (queue: number, bytes: fc.Arbitrary<Uint8Array>) =>
  fc.record({ queue: fc.constant(queue), readable: bytes.map((b) => [b]), writable: sizes });
const step = fc.oneof(
  { weight: 5, arbitrary: placed(SND_Q.CONTROL, control) },
  { weight: 2, arbitrary: placed(SND_Q.TX, message) },
  { weight: 2, arbitrary: placed(SND_Q.RX, message) },
  { weight: 1, arbitrary: fc.record({ supply: fc.integer({ min: 1, max: 9 }) }) },
);

const GOOD = [
  join(
    PcmRequest.encode({ code: SND_R.PCM_SET_PARAMS, streamId: 0 }),
    PcmSetParams.encode({
      bufferBytes: 768,
      periodBytes: 384,
      ...{ channels: 2, format: 5, rate: 7 },
    }),
  ),
  PcmRequest.encode({ code: SND_R.PCM_PREPARE, streamId: 0 }),
  PcmRequest.encode({ code: SND_R.PCM_START, streamId: 0 }),
];

/** It serves: a stream is brought up, and a period is played. */
async function expectToServe(driver: MockDriver): Promise<void> {
  for (const bytes of GOOD) {
    const answer = await driver.request(SND_Q.CONTROL, { readable: [bytes], writable: [4] });
    expect([...answer.bytes]).toEqual([SND_S.OK & 0xff, SND_S.OK >> 8, 0, 0]);
  }
  const frames = [PcmXfer.encode({ streamId: 0 }), new Uint8Array(384)];
  const { length } = await driver.request(SND_Q.TX, { readable: frames, writable: [8] });
  expect(length).toBe(8);
}

async function runSteps(packed: boolean, steps: readonly object[]): Promise<void> {
  const driver = await MockDriver.open(sound, { streams: 3 }, { packed, timeoutMs: 2000 });
  try {
    for (const what of steps as readonly Record<string, never>[]) {
      if ('supply' in what) driver.supply(SND_Q.EVENT, [what.supply!]);
      else {
        const given: MockRequest = { readable: what.readable!, writable: what.writable! };
        // It may wait for its turn, or its queue is stopped.
        driver.request(what.queue!, given).catch(() => {});
      }
      await new Promise((resolve) => setImmediate(resolve));
      const fault = await driver.nextFault(0).catch(() => null);
      if (fault !== null) await driver.restartQueue(fault.queueIndex);
    }
    expect(driver.log.filter((line) => line.includes('bug'))).toEqual([]);
    await driver.negotiate();
    await expectToServe(driver);
  } finally {
    await driver.close();
  }
}

test.each([false, true])(
  'any requests in any order, packed %s',
  async (packed) => {
    await runSteps(packed, []);
    const before = resourceCounts();
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), (steps) => runSteps(packed, steps)),
      { numRuns: 60 },
    );
    expect(resourceCounts()).toEqual(before);
  },
  60_000,
);

test.each(MALFORMED)('a chain that is malformed (%s) stops its queue only', async (kind) => {
  for (const queueIndex of [SND_Q.CONTROL, SND_Q.TX, SND_Q.RX]) {
    const driver = await MockDriver.open(sound, {});
    driver.placeMalformed(queueIndex, kind);
    expect((await driver.nextFault()).queueIndex).toBe(queueIndex);
    await driver.restartQueue(queueIndex);
    await expectToServe(driver);
    await driver.close();
  }
});
