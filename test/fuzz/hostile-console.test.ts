/** Drivers that no honest one is like: the console blames them, and serves the next one. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { NullEnd } from '../../src/devices/console/backend-null.js';
import { scriptedConsole } from '../../src/devices/console/test-utils.js';
import { ControlMessage, EVENT } from '../../src/devices/console/wire.js';
import { MockDriver, malformedKinds, pattern } from '../../src/testing/index.js';
import { F } from '../../src/virtio/index.js';
import { Random } from '../conformance/ring-pair.js';

const QUEUE_COUNT = 8;

/** A request that may be anything, and now and then what a driver would say. */
async function place(
  driver: MockDriver,
  random: Random,
  queue: number,
  broken: Set<number>,
): Promise<void> {
  if (random.below(8) === 0) {
    const kinds = malformedKinds((driver.features & F.RING_PACKED) !== 0n);
    await driver.restartQueue(queue);
    broken.delete(queue);
    if (random.below(2) === 0) return;
    driver.placeMalformed(queue, kinds[random.below(kinds.length)]!);
    broken.add(queue); // Until it is restarted: the mock driver does not know what it holds.
    return;
  }
  if (broken.has(queue)) return;
  const sizes = (): number[] =>
    Array.from({ length: random.below(4) }, () => 1 + random.below([4, 9, 300][random.below(3)]!));
  const message = ControlMessage.encode({
    id: random.below(8) === 0 ? 0xffffffff : random.below(4),
    event: random.below(10),
    value: random.below(3),
  });
  const readable =
    random.below(3) === 0 ? sizes().map((size) => pattern(size, random.below(99))) : [message];
  const request = random.below(2) === 0 ? { readable } : { writable: sizes() };
  void driver.request(queue, { ...request, timeoutMs: 50 }).catch(() => {});
}

async function torture(packed: boolean, seed: number): Promise<void> {
  const random = new Random(seed);
  const ends: NullEnd[] = [];
  const definition = scriptedConsole(['a', 'b,console', ''], ends);
  const driver = await MockDriver.open(definition, {}, { packed, timeoutMs: 2000 });
  const broken = new Set<number>();
  for (let step = 0; step < 60; step += 1) {
    await place(driver, random, random.below(QUEUE_COUNT), broken);
    const end = ends[random.below(ends.length)]!;
    if (random.below(4) === 0) end.say(pattern(random.below(3000), step));
    if (random.below(6) === 0) end.change(random.below(3) > 0, { cols: step + 1, rows: 2 });
    if (random.below(6) === 0) end.drain(random.below(500));
    if (random.below(10) === 0) driver.writeConfig(random.below(12), pattern(random.below(5)));
    if (random.below(4) === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(driver.device.statistics.bugs).toBe(0);
  // The next driver is served as if nothing had been.
  for (const end of ends) {
    end.change(true);
    end.drain();
    end.heard = new Uint8Array(0);
  }
  await driver.negotiate();
  driver.supply(2, [256, 256]);
  const readable = [ControlMessage.encode({ id: 0, event: EVENT.DEVICE_READY, value: 1 })];
  await driver.request(3, { readable });
  const { bytes } = await driver.nextFilled(2);
  expect(ControlMessage.decode(bytes)).toEqual({ id: 0, event: EVENT.DEVICE_ADD, value: 1 });
  await driver.request(1, { readable: [pattern(100, seed)] });
  expect(Buffer.compare(ends[0]!.heard!, pattern(100, seed))).toBe(0);
  await driver.close();
}

test.each([false, true])('a hostile driver, packed %s', async (packed) => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), (seed) => torture(packed, seed)),
    { numRuns: 40 },
  );
});
