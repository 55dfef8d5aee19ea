/** Requests that no honest driver sends to the GPIO device: answers, or a queue that stops. */
import fc from 'fast-check';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { SimulatedChip } from '../../src/devices/gpio/backend-sim.js';
import { GpioDevice } from '../../src/devices/gpio/device.js';
import { GpioRequest } from '../../src/devices/gpio/wire.js';
import { gpio } from '../../src/devices/index.js';
import { defineDevice } from '../../src/kit/index.js';
import { MockDriver, type MockRequest, resourceCounts } from '../../src/testing/index.js';

const LINE_COUNT = 5;
const MALFORMED = ['address', 'order', 'chain-length', 'indirect'] as const;

const small = fc.oneof(fc.nat(9), fc.constantFrom(32, 0x7fff, 0xffff));
const request = fc
  .record({ type: small, gpio: small, value: fc.oneof(small, fc.constant(0xffffffff)) })
  .map((fields) => GpioRequest.encode(fields));

/** Whole requests mostly, and pieces of any size. */
const piece = fc.uint8Array({ minLength: 1, maxLength: 9 });
const readable = fc.oneof(
  { weight: 8, arbitrary: request.map((bytes) => [bytes]) },
  { weight: 1, arbitrary: fc.array(piece, { maxLength: 3 }) },
);
const writable = fc.oneof(
  { weight: 8, arbitrary: fc.constant([2]) },
  { weight: 1, arbitrary: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 3 }) },
);
const step = fc.oneof(
  fc.record({ queue: fc.constantFrom(0, 0, 1), readable, writable }),
  fc.record({ drive: fc.nat(LINE_COUNT - 1), value: fc.nat(1) }),
  fc.record({ isGone: fc.boolean() }),
);

type Step =
  | { queue: number; readable: readonly Uint8Array[]; writable: readonly number[] }
  | { drive: number; value: number }
  | { isGone: boolean };

async function runSteps(packed: boolean, steps: readonly Step[]): Promise<void> {
  const chip = new SimulatedChip(LINE_COUNT, ['a', 'b']);
  const open = () => new GpioDevice(chip).open();
  const definition = defineDevice({ ...gpio, options: v.object({}), arguments: {}, open });
  const driver = await MockDriver.open(definition, {}, { packed, timeoutMs: 2000 });
  let bugs = 0;
  try {
    for (const what of steps) {
      if ('drive' in what) chip.drive(what.drive, what.value);
      else if ('isGone' in what) chip.setGone(what.isGone);
      else {
        const given: MockRequest = { readable: what.readable, writable: what.writable };
        if (what.readable.length + what.writable.length === 0) continue;
        const answer = driver.request(what.queue, given);
        answer.catch(() => {}); // It waits for its edge, or its queue is stopped.
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (driver.log.some((line) => line.includes('bug'))) bugs += 1;
      const fault = await driver.nextFault(0).catch(() => null);
      if (fault !== null) await driver.restartQueue(fault.queueIndex);
    }
    expect(bugs, driver.log.join('\n')).toBe(0);
    // After any mess it serves.
    chip.setGone(false);
    await driver.negotiate();
    const get = [GpioRequest.encode({ type: 2, gpio: 0 })];
    const { bytes } = await driver.request(0, { readable: get, writable: [2] });
    expect(bytes[0]).toBe(0);
  } finally {
    await driver.close();
  }
}

test.each([false, true])(
  'any requests and any edges, packed %s',
  async (packed) => {
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
  for (const queueIndex of [0, 1]) {
    const driver = await MockDriver.open(gpio, { deviceList: 's2' });
    driver.placeMalformed(queueIndex, kind);
    expect((await driver.nextFault()).queueIndex).toBe(queueIndex);
    await driver.restartQueue(queueIndex);
    const get = [GpioRequest.encode({ type: 2, gpio: 0 })];
    const { bytes } = await driver.request(0, { readable: get, writable: [2] });
    expect([...bytes]).toEqual([0, 0]);
    await driver.close();
  }
});
