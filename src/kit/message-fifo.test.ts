/** Messages that wait for buffers, over real rings. */
import { expect, test } from 'vitest';
import { pattern } from '../testing/index.js';
import { LOST, MessageFifo, type ServedQueue } from './index.js';
import { device, drive, echo } from './test-utils.js';

const EVENTQ = 1;

async function open(fifo: MessageFifo, packed = false) {
  let queue: (() => ServedQueue | null) | undefined;
  const definition = device(echo, (host) => {
    queue = () => host.queue('eventq');
    return { supplied: (supplied) => void fifo.deliverTo(supplied) };
  });
  const driver = await drive(definition, { packed });
  return { driver, deliver: () => fifo.deliverTo(queue!()) };
}

function push(fifo: MessageFifo, size: number, seed: number): boolean {
  const at = fifo.push(size);
  if (at !== LOST) fifo.bytes.set(pattern(size, seed), at);
  return at !== LOST;
}

test.each([false, true])('messages wait for buffers, in order (packed: %s)', async (packed) => {
  const fifo = new MessageFifo(4, 8);
  const { driver, deliver } = await open(fifo, packed);
  expect(deliver()).toBe(0);
  for (let seed = 1; seed <= 4; seed += 1) expect(push(fifo, seed * 2, seed)).toBe(true);
  expect([fifo.room, fifo.count]).toEqual([0, 4]);
  expect(push(fifo, 8, 5)).toBe(false);
  expect([fifo.lostCount, fifo.count]).toEqual([1, 4]);
  driver.supply(EVENTQ, [8, 8, 8]);
  for (let seed = 1; seed <= 3; seed += 1) {
    expect((await driver.nextFilled(EVENTQ)).bytes).toEqual(pattern(seed * 2, seed));
  }
  // Past the end of the slots, and on.
  for (let seed = 6; seed <= 8; seed += 1) expect(push(fifo, seed, seed)).toBe(true);
  driver.supply(EVENTQ, [8, 8, 8, 8, 8]);
  for (const seed of [4, 6, 7, 8]) {
    expect((await driver.nextFilled(EVENTQ)).bytes).toEqual(pattern(seed === 4 ? 8 : seed, seed));
  }
  push(fifo, 3, 9);
  expect(deliver()).toBe(1);
  expect((await driver.nextFilled(EVENTQ)).bytes).toEqual(pattern(3, 9));
});

test('a buffer that is too small is blamed on the driver; the message waits on', async () => {
  const fifo = new MessageFifo(2, 8);
  const { driver } = await open(fifo);
  push(fifo, 8, 1);
  driver.supply(EVENTQ, [7]);
  expect(await driver.nextFault()).toMatchObject({
    queueIndex: EVENTQ,
    fault: { reason: 'short' },
  });
  await driver.restartQueue(EVENTQ);
  driver.supply(EVENTQ, [8]);
  expect((await driver.nextFilled(EVENTQ)).bytes).toHaveLength(0); // The one that was too small.
  expect((await driver.nextFilled(EVENTQ)).bytes).toEqual(pattern(8, 1));
});

test('nothing is delivered without a queue, and what waits can be forgotten', () => {
  const fifo = new MessageFifo(1, 8);
  push(fifo, 8, 1);
  push(fifo, 8, 1);
  expect(fifo.deliverTo(null)).toBe(0);
  fifo.clear();
  expect([fifo.count, fifo.lostCount, fifo.room]).toEqual([0, 0, 1]);
  expect(() => fifo.push(9)).toThrow(/a message is larger than its slot/);
});
