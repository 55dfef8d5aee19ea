/** Requests that no honest driver sends to the CAN device: answers, or a queue that stops. */
import fc from 'fast-check';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { NullBus } from '../../src/devices/can/backend-null.js';
import { CanDevice } from '../../src/devices/can/device.js';
import { CAN_FLAG, CAN_MESSAGE, CanControl, CanHeader } from '../../src/devices/can/wire.js';
import { can } from '../../src/devices/index.js';
import { defineDevice } from '../../src/kit/index.js';
import { MockDriver, malformedKinds, pattern, resourceCounts } from '../../src/testing/index.js';

const [TXQ, RXQ, CONTROLQ] = [0, 1, 2];
const { EXTENDED, FD, RTR } = CAN_FLAG;

/** Headers that are right mostly, or wrong in one field or more. */
const header = fc
  .record({
    messageType: fc.oneof({ weight: 8, arbitrary: fc.constant(1) }, fc.nat(0xffff)),
    length: fc.oneof({ weight: 6, arbitrary: fc.nat(9) }, fc.constantFrom(64, 65, 0xffff)),
    flags: fc.oneof(
      fc.constantFrom(0, EXTENDED, FD, RTR, FD | EXTENDED, RTR | EXTENDED, RTR | FD),
      fc.nat(0xffffffff),
    ),
    id: fc.oneof(fc.nat(0x7ff), fc.nat(0xffffffff)),
  })
  .map((fields) => CanHeader.encode(fields));
const control = fc
  .constantFrom(CAN_MESSAGE.SET_CTRL_MODE_START, CAN_MESSAGE.SET_CTRL_MODE_STOP, 0)
  .map((messageType) => CanControl.encode({ messageType }));
const piece = fc.uint8Array({ minLength: 1, maxLength: 70 });
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      queue: fc.constantFrom(TXQ, TXQ, CONTROLQ),
      readable: fc.oneof(
        fc.tuple(header, piece),
        fc.tuple(control),
        fc.array(piece, { maxLength: 3 }),
      ),
      writable: fc.oneof(
        { weight: 8, arbitrary: fc.constant([1]) },
        fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 3 }),
      ),
    }),
  },
  fc.record({ buffers: fc.array(fc.integer({ min: 1, max: 80 }), { maxLength: 5 }) }),
  fc.record({ size: fc.nat(64), flags: fc.constantFrom(0, FD, RTR, EXTENDED) }),
  fc.record({ answer: fc.nat(3) }),
  fc.record({ event: fc.constantFrom('busOff', 'writable', 'ended', 'canJoin', 'malformed') }),
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function act(driver: MockDriver, bus: NullBus, what: Step): Promise<void> {
  if ('queue' in what) {
    const { queue, readable, writable } = what;
    if (readable.length + writable.length === 0) return;
    driver.request(queue, { readable, writable }).catch(() => {});
  } else if ('buffers' in what) driver.supply(RXQ, what.buffers);
  else if ('size' in what) bus.receive(1, what.flags, pattern(what.size));
  else if ('answer' in what) bus.answer = what.answer;
  else if (what.event === 'canJoin') bus.canJoin = !bus.canJoin;
  else if (what.event === 'ended') bus.listener?.ended(bus.tokens.shift() ?? 255, true);
  else if (what.event === 'malformed') {
    await driver.restartQueue(TXQ);
    const kinds = malformedKinds(false);
    driver.placeMalformed(TXQ, kinds[bus.frames.length % kinds.length]!);
    await driver.nextFault();
    await driver.restartQueue(TXQ);
  } else bus.listener?.[what.event]();
}

async function runSteps(packed: boolean, steps: readonly Step[]): Promise<void> {
  const bus = new NullBus();
  const definition = defineDevice({
    ...can,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new CanDevice(bus, host).open(),
  });
  const driver = await MockDriver.open(definition, {}, { packed, timeoutMs: 2000 });
  try {
    for (const what of steps) {
      await act(driver, bus, what);
      await new Promise((resolve) => setImmediate(resolve));
      const fault = await driver.nextFault(0).catch(() => null);
      if (fault !== null) await driver.restartQueue(fault.queueIndex);
    }
    expect(driver.device.statistics.bugs, driver.log.join('\n')).toBe(0);
    // After any mess it serves the next driver.
    Object.assign(bus, { canJoin: true, answer: 0 });
    await driver.negotiate();
    const start = [CanControl.encode({ messageType: CAN_MESSAGE.SET_CTRL_MODE_START })];
    await driver.request(CONTROLQ, { readable: start, writable: [1] });
    const readable = [CanHeader.encode({ messageType: CAN_MESSAGE.TX, id: 5 })];
    const { bytes } = await driver.request(TXQ, { readable, writable: [1] });
    expect([...bytes]).toEqual([0]);
    driver.supply(RXQ, [80]);
    bus.receive(6, 0, pattern(8));
    expect(CanHeader.decode((await driver.nextFilled(RXQ)).bytes).id).toBe(6);
  } finally {
    await driver.close();
  }
}

test.each([false, true])(
  'any requests, buffers and events, packed %s',
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
