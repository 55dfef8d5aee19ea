/**
 * Drivers of the input device that no honest one is like: answers, a queue that stops, and never a
 * bug; reports stay whole and in order for those that behave.
 */
import fc from 'fast-check';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { input } from '../../src/devices/index.js';
import { NullInput } from '../../src/devices/input/backend-null.js';
import { PROFILES } from '../../src/devices/input/description.js';
import { InputDevice } from '../../src/devices/input/device.js';
import { EV, InputConfig, InputEvent } from '../../src/devices/input/wire.js';
import { defineDevice } from '../../src/kit/index.js';
import { MockDriver, resourceCounts } from '../../src/testing/index.js';

const EVENTQ = 0;
const STATUSQ = 1;
const RING_SIZE = 16;
const MALFORMED = ['address', 'order', 'chain-length', 'indirect'] as const;

const word = fc.oneof(fc.nat(0x20), fc.constantFrom(0x2ff, 0x300, 0x7fff, 0xffff));
const status = fc
  .record({ type: word, code: word, value: fc.constantFrom(0, 1, 0x80000000, 0xffffffff) })
  .map((fields) => InputEvent.encode(fields));
const piece = fc.uint8Array({ minLength: 1, maxLength: 9 });

const step = fc.oneof(
  fc.record({ status: fc.oneof(status, piece) }),
  fc.record({ supply: fc.array(fc.constantFrom(8, 8, 8, 8, 9, 64, 7, 1), { maxLength: 9 }) }),
  fc.record({ events: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ at: fc.nat(140), bytes: fc.uint8Array({ maxLength: 140 }) }),
  fc.record({ lose: fc.nat(0x2ff) }),
  fc.record({ again: fc.constantFrom(EVENTQ, STATUSQ) }),
  fc.record({ renegotiate: fc.constant(true) }),
);
type Step = Partial<{
  status: Uint8Array;
  supply: number[];
  events: number;
  at: number;
  bytes: Uint8Array;
  lose: number;
  again: number;
  renegotiate: boolean;
}>;

async function take(driver: MockDriver, source: NullInput, what: Step): Promise<void> {
  if (what.status !== undefined) {
    // A stopped queue answers never.
    driver.request(STATUSQ, { readable: [what.status] }).catch(() => {});
  } else if (what.supply !== undefined) driver.supply(EVENTQ, what.supply);
  else if (what.events !== undefined) {
    for (let i = 0; i < what.events; i += 1) source.tell([EV.KEY, 30 + (i % 5), i & 1]);
  } else if (what.bytes !== undefined) {
    const bytes = what.bytes.subarray(0, InputConfig.size - what.at!);
    if (bytes.length > 0) driver.writeConfig(what.at!, bytes);
    expect(driver.config(InputConfig).size).toBeLessThanOrEqual(128);
  } else if (what.lose !== undefined) {
    if (source.isLive) source.lose((state) => state.apply(EV.KEY, what.lose!, 1));
  } else if (what.again !== undefined) await driver.restartQueue(what.again);
  else await driver.negotiate();
}

async function runSteps(packed: boolean, isLive: boolean, steps: readonly Step[]): Promise<void> {
  const source = new NullInput(PROFILES.touchscreen, isLive);
  const definition = defineDevice({
    ...input,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new InputDevice(source, host).open(),
  });
  const driver = await MockDriver.open(
    definition,
    {},
    { packed, queueSize: RING_SIZE, timeoutMs: 2000 },
  );
  try {
    for (const what of steps) {
      const isFull = (error: { code?: string }) => expect(error.code).toBe('VLO_REQUEST_INVALID');
      await take(driver, source, what).catch(isFull);
      await new Promise((resolve) => setImmediate(resolve));
      const fault = await driver.nextFault(0).catch(() => null);
      if (fault !== null) {
        expect(fault.fault, driver.log.join('\n')).not.toBeNull();
        await driver.restartQueue(fault.queueIndex);
      }
    }
    await serves(driver, source);
  } finally {
    await driver.close();
  }
}

/** After any mess a driver that behaves gets what is told last, at the end of whole reports. */
async function serves(driver: MockDriver, source: NullInput): Promise<void> {
  await driver.negotiate();
  source.tell([EV.KEY, 0x14a, 1]);
  let isClosed = true;
  // As many buffers as the ring has entries, at all times: with fewer, reports wait.
  driver.supply(EVENTQ, new Array(RING_SIZE - 1).fill(8));
  for (let i = 0; i < 4000; i += 1) {
    driver.supply(EVENTQ, [8]);
    const { type, code } = InputEvent.decode((await driver.nextFilled(EVENTQ)).bytes);
    expect(type === EV.SYN && isClosed).toBe(false); // No report is empty.
    isClosed = type === EV.SYN;
    if (type === EV.KEY && code === 0x14a) break;
  }
  expect(InputEvent.decode((await driver.nextFilled(EVENTQ)).bytes).type).toBe(EV.SYN);
}

test.each([
  ['split', false],
  ['packed', true],
] as const)('random drivers of a %s ring', { timeout: 60_000 }, async (_name, packed) => {
  const before = resourceCounts().fds;
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.array(step, { maxLength: 25 }), (isLive, steps) =>
      runSteps(packed, isLive, steps as Step[]),
    ),
    { numRuns: 100 },
  );
  expect(resourceCounts().fds).toBe(before);
});

test.each(MALFORMED)('malformed chains, %s, on both queues at once', async (kind) => {
  const source = new NullInput(PROFILES.touchscreen);
  const definition = defineDevice({
    ...input,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new InputDevice(source, host).open(),
  });
  const driver = await MockDriver.open(definition, {}, { queueSize: RING_SIZE });
  for (const index of [EVENTQ, STATUSQ]) driver.placeMalformed(index, kind);
  source.tell([EV.KEY, 0x14a, 1]);
  const faults = [await driver.nextFault(), await driver.nextFault()];
  expect(faults.map(({ queueIndex }) => queueIndex).sort()).toEqual([EVENTQ, STATUSQ]);
  await serves(driver, source);
  await driver.close();
});
