/** Requests that are held back, over real rings. */
import { expect, test } from 'vitest';
import { defineDevice, type Handler, HeldRequests, LATER, NO_PLACE } from './index.js';
import { device, drive } from './test-utils.js';

const ask = { readable: [Uint8Array.of(1)], writable: [1] };

test('requests wait at places, and are answered in any order', async () => {
  const held = new HeldRequests(2);
  let place = 0;
  const definition = device((request, queue) => {
    held.hold(place, request, queue);
    place += 1;
    return LATER;
  });
  const driver = await drive(definition);
  const answers = [driver.request(0, ask), driver.request(0, ask)];
  while (place < 2) await new Promise((resolve) => setImmediate(resolve));
  expect([held.isHeld(0), held.isHeld(1), held.isHeld(2)]).toEqual([true, true, false]);
  held.answer(1, 7);
  held.answer(1, 8); // Nobody waits there any more, nor where there is no place.
  held.answer(2, 8);
  expect((await answers[1]!).bytes).toEqual(Uint8Array.of(7));
  expect(held.isHeld(1)).toBe(false);
  held.answer(0, 9);
  expect((await answers[0]!).bytes).toEqual(Uint8Array.of(9));
});

test('a queue that stops takes its requests along', async () => {
  const held = new HeldRequests(4);
  const definition = device(
    (request, queue) => {
      held.hold(held.claim(), request, queue);
      return LATER;
    },
    () => ({ queueStopping: (queue) => held.answerAll(5, queue) }),
  );
  const driver = await drive(definition);
  const answers = [driver.request(0, ask), driver.request(0, ask)];
  while (!held.isHeld(1)) await new Promise((resolve) => setImmediate(resolve));
  await driver.stopQueue(0);
  for (const answer of await Promise.all(answers)) expect(answer.bytes).toEqual(Uint8Array.of(5));
});

test('a request without room for a status is blamed on the driver, and holds nothing up', async () => {
  const held = new HeldRequests(4);
  const definition = device(
    (request, queue) => {
      held.hold(held.claim(), request, queue);
      return LATER;
    },
    () => ({ queueStopping: (queue) => held.answerAll(5, queue) }),
  );
  const driver = await drive(definition);
  const answers = [driver.request(0, { readable: ask.readable }), driver.request(0, ask)];
  while (!held.isHeld(1)) await new Promise((resolve) => setImmediate(resolve));
  await driver.stopQueue(0);
  const [empty, full] = await Promise.all(answers);
  expect([[...empty!.bytes], [...full!.bytes]]).toEqual([[], [5]]);
  expect(await driver.nextFault()).toMatchObject({ fault: { reason: 'request' } });
});

test('a queue that stops leaves the requests of the others alone', async () => {
  const held = new HeldRequests(2);
  const definition = defineDevice({
    ...device(() => {}),
    queues: [{ name: 'firstq' }, { name: 'secondq' }],
    open: () => {
      const hold: Handler = (request, queue) => {
        held.hold(queue.index, request, queue);
        return LATER;
      };
      return {
        features: 0n,
        handlers: { firstq: hold, secondq: hold },
        queueStopping: (queue) => held.answerAll(5, queue),
        close: () => {},
      };
    },
  });
  const driver = await drive(definition);
  const answers = [driver.request(0, ask), driver.request(1, ask)];
  while (!held.isHeld(0) || !held.isHeld(1)) await new Promise((go) => setImmediate(go));
  await driver.stopQueue(0);
  expect([held.isHeld(0), held.isHeld(1)]).toEqual([false, true]);
  held.answer(1, 6);
  expect((await Promise.all(answers)).map(({ bytes }) => bytes[0])).toEqual([5, 6]);
});

test('a claimed place is given to nobody else, whatever became of its request', async () => {
  const held = new HeldRequests(2);
  expect([held.claim(), held.claim(), held.claim()]).toEqual([0, 1, NO_PLACE]);
  held.answer(0, 1); // Nothing waits there, and the claim goes on.
  expect(held.claim()).toBe(NO_PLACE);
  held.release(0);
  held.release(0); // A second time it means nothing.
  held.release(NO_PLACE);
  expect([held.claim(), held.claim()]).toEqual([0, NO_PLACE]);
  held.releaseAll();
  expect([held.claim(), held.claim()]).toEqual([0, 1]);
});

test('a place has room for one request', async () => {
  const held = new HeldRequests(1);
  const driver = await drive(
    device((request, queue) => {
      held.hold(0, request, queue);
      return LATER;
    }),
  );
  const first = driver.request(0, ask);
  const second = driver.request(0, ask);
  expect(await driver.nextFault()).toEqual({ queueIndex: 0, fault: null });
  held.answer(0, 3);
  expect((await first).bytes).toEqual(Uint8Array.of(3));
  await second; // Given back, without an answer.
});
