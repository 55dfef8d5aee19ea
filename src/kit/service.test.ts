/** The service loop, through a mock driver. */
import { describe, expect, test } from 'vitest';
import { cutSize, malformedKinds, pattern } from '../testing/index.js';
import { DriverFault } from '../virtio/index.js';
import { type DeviceHost, LATER, NOT_NOW, type Request, type ServedQueue } from './index.js';
import { ask, device, drive, echo, sleep } from './test-utils.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

describe.each(LAYOUTS)('$name ring', ({ packed }) => {
  test.each([
    { indirect: false, eventIndex: false, inOrder: false },
    { indirect: true, eventIndex: false, inOrder: false },
    { indirect: false, eventIndex: true, inOrder: false },
    { indirect: true, eventIndex: true, inOrder: true },
  ])('requests come back: %o', async (ring) => {
    const driver = await drive(device(echo), { packed, ...ring });
    for (let round = 0; round < 100; round += 1) {
      const results = driver.batch(
        0,
        Array.from({ length: 8 }, (_, i) => ({
          readable: [pattern(5, i), pattern(300, round)],
          writable: cutSize(305, 1, 2, 100),
          misalignment: i,
        })),
      );
      for (const [i, result] of (await Promise.all(results)).entries()) {
        expect(result.length).toBe(305);
        expect(result.buffer.subarray(0, 5)).toEqual(pattern(5, i));
        expect(result.buffer.subarray(5)).toEqual(pattern(300, round));
      }
    }
  });

  test.each(['poll', 'in-band'] as const)('kicks by %s', async (kick) => {
    const driver = await drive(device(echo), { packed, kick });
    for (let i = 0; i < 20; i += 1) {
      expect((await ask(driver, i)).bytes).toEqual(pattern(8, i));
      if (i % 5 === 0) await sleep(3); // Let the loop fall asleep in between.
    }
  });

  test('LATER: the device completes, in any order', async () => {
    const held: { request: Request; queue: ServedQueue }[] = [];
    const driver = await drive(
      device((request, queue) => {
        held.push({ request, queue });
        return LATER;
      }),
      { packed },
    );
    const order: number[] = [];
    const results = [0, 1, 2].map((i) => ask(driver, i).then(() => order.push(i)));
    while (held.length < 3) await sleep(1);
    for (const at of [1, 2, 0]) {
      held[at]!.queue.complete(held[at]!.request);
      await sleep(2);
    }
    await Promise.all(results);
    expect(order).toEqual([1, 2, 0]);
  });

  test('IN_ORDER: completions out of order are shown in order', async () => {
    const held: { request: Request; queue: ServedQueue }[] = [];
    const driver = await drive(
      device((request, queue) => {
        held.push({ request, queue });
        return LATER;
      }),
      { packed, inOrder: true },
    );
    const order: number[] = [];
    const results = [0, 1, 2].map((i) => ask(driver, i).then(() => order.push(i)));
    while (held.length < 3) await sleep(1);
    for (const at of [2, 1]) held[at]!.queue.complete(held[at]!.request);
    await sleep(5);
    expect(order).toEqual([]);
    held[0]!.queue.complete(held[0]!.request);
    await Promise.all(results);
    expect(order).toEqual([0, 1, 2]);
  });

  test('NOT_NOW: the request goes back to the ring until the queue resumes', async () => {
    let refusals = 3;
    let served = 0;
    const driver = await drive(
      device((request, queue) => {
        if (refusals > 0) {
          refusals -= 1;
          setTimeout(() => queue.resume(), 2);
          return NOT_NOW;
        }
        served += 1;
        return echo(request, queue);
      }),
      { packed },
    );
    const results = await Promise.all([ask(driver, 1), ask(driver, 2)]);
    expect(results.map(({ bytes }) => bytes)).toEqual([pattern(8, 1), pattern(8, 2)]);
    expect([refusals, served]).toEqual([0, 2]);
  });

  test('a handler may return a promise', async () => {
    const driver = await drive(
      device(async (request, queue) => {
        await sleep(1);
        void echo(request, queue);
      }),
      { packed },
    );
    const results = await Promise.all([1, 2, 3].map((seed) => ask(driver, seed)));
    expect(results.map(({ bytes }) => bytes)).toEqual([1, 2, 3].map((seed) => pattern(8, seed)));
  });

  test.each(malformedKinds(packed))('a malformed chain (%s) stops its queue', async (kind) => {
    const driver = await drive(device(echo), { packed, indirect: kind !== 'indirect' });
    driver.placeMalformed(0, kind);
    const { queueIndex, fault } = await driver.nextFault();
    expect([queueIndex, fault?.reason]).toEqual([0, kind]);
    expect(driver.device.statistics).toEqual({ faults: 1, bugs: 0 });
    expect(driver.log).toHaveLength(1);
    driver.kick(0);
    await expect(ask(driver)).rejects.toMatchObject({ code: 'VLO_DEVICE_FAILED' });
    await driver.restartQueue(0);
    expect((await ask(driver, 7)).bytes).toEqual(pattern(8, 7));
    expect(driver.log).toHaveLength(1);
  });

  test.each([
    ['thrown', (fail: () => never) => () => fail()],
    ['rejected', (fail: () => never) => async () => fail()],
    [
      'thrown after it was completed',
      (fail: () => never) => (r: Request, q: ServedQueue) => {
        q.complete(r);
        fail();
      },
    ],
  ] as const)('a fault of the driver that is %s stops the queue', async (_how, make) => {
    let isFailing = true;
    const failing = make(() => {
      throw new DriverFault('request', 'what an odd request');
    });
    const driver = await drive(
      device((request, queue) => (isFailing ? failing(request, queue) : echo(request, queue))),
      { packed },
    );
    const result = await ask(driver);
    expect(result.length).toBe(0);
    const { fault } = await driver.nextFault();
    expect(fault).toMatchObject({ reason: 'request', message: 'what an odd request' });
    expect(driver.log).toEqual([
      'probe: queue 0 stopped: the driver broke the ring (request): what an odd request',
    ]);
    isFailing = false;
    await driver.restartQueue(0);
    expect((await ask(driver, 3)).bytes).toEqual(pattern(8, 3));
  });

  test.each([
    [
      'thrown',
      () => () => {
        throw new TypeError('oops');
      },
    ],
    [
      'rejected',
      () => async () => {
        throw new TypeError('oops');
      },
    ],
    ['a second completion', () => (r: Request, q: ServedQueue) => q.complete(r)],
    ['a second completion later', () => async (r: Request, q: ServedQueue) => q.complete(r)],
  ] as const)('a bug of the device, %s, stops the queue only', async (_how, make) => {
    let isFailing = true;
    const failing = make();
    const driver = await drive(
      device((request, queue) => (isFailing ? failing(request, queue) : echo(request, queue))),
      { packed },
    );
    await ask(driver);
    expect(await driver.nextFault()).toEqual({ queueIndex: 0, fault: null });
    expect(driver.device.statistics).toEqual({ faults: 0, bugs: 1 });
    expect(driver.log).toHaveLength(1);
    expect(driver.log[0]).toMatch(/stopped by a bug of the device.*(oops|completed twice)/);
    isFailing = false;
    await driver.restartQueue(0);
    expect((await ask(driver, 3)).bytes).toEqual(pattern(8, 3));
  });

  test('stop waits for what is in flight; the rest stays in the ring', async () => {
    const held: { request: Request; queue: ServedQueue }[] = [];
    let isHolding = true;
    const driver = await drive(
      device((request, queue) => {
        if (!isHolding) return echo(request, queue);
        held.push({ request, queue });
        return LATER;
      }),
      { packed },
    );
    const first = ask(driver, 1);
    while (held.length < 1) await sleep(1);
    let isStopped = false;
    const stop = driver.stopQueue(0).then(() => {
      isStopped = true;
    });
    const second = ask(driver, 2);
    await sleep(5);
    expect([isStopped, held.length]).toEqual([false, 1]);
    void echo(held[0]!.request, held[0]!.queue);
    held[0]!.queue.complete(held[0]!.request);
    await stop;
    expect((await first).bytes).toEqual(pattern(8, 1));
    isHolding = false;
    driver.startQueue(0);
    expect((await second).bytes).toEqual(pattern(8, 2));
  });

  test('a queue that does not stop is reported', async () => {
    const held: { request: Request; queue: ServedQueue }[] = [];
    const driver = await drive(
      device((request, queue) => {
        held.push({ request, queue });
        return LATER;
      }),
      { packed, timeoutMs: 40 },
    );
    const result = ask(driver);
    await expect(result).rejects.toMatchObject({
      code: 'VLO_TIMEOUT',
      message: expect.stringContaining('queue 0 (requestq): no answer within 40 ms'),
    });
    await expect(driver.stopQueue(0)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
    held[0]!.queue.complete(held[0]!.request);
  });

  test('a queue knows whether anything in its ring was served', async () => {
    const seen: boolean[] = [];
    const definition = device(echo, () => ({
      queueStarted: (started) => {
        if (started.name === 'requestq') seen.push(started.isFresh);
      },
    }));
    const driver = await drive(definition, { packed });
    await driver.stopQueue(0);
    driver.startQueue(0);
    await ask(driver);
    await driver.stopQueue(0);
    driver.startQueue(0);
    await driver.restartQueue(0);
    expect(seen).toEqual([true, true, false, true]);
  });

  test('a supply queue hands its buffers to the device', async () => {
    let queue: ServedQueue | null = null;
    let added = 0;
    const definition = device(echo, () => ({
      queueStarted: (started) => {
        if (started.name === 'eventq') queue = started;
      },
      supplied: () => {
        added += 1;
      },
    }));
    const driver = await drive(definition, { packed });
    expect(queue!.take()).toBeNull();
    added = 0;
    driver.supply(1, [4, 4]);
    while (added === 0) await sleep(1);
    for (const value of [7, 8]) {
      const buffer = queue!.take()!;
      buffer.writer.writeU8(value);
      queue!.complete(buffer);
    }
    expect(queue!.take()).toBeNull();
    expect((await driver.nextFilled(1)).bytes).toEqual(Uint8Array.of(7));
    expect((await driver.nextFilled(1)).bytes).toEqual(Uint8Array.of(8));
    added = 0;
    driver.supply(1, [4]);
    while (added === 0) await sleep(1);
    const buffer = queue!.take()!;
    queue!.putBack(buffer);
    expect(await Promise.race([driver.nextFilled(1, 20).catch(() => 'none')])).toBe('none');
  });

  test('deliver fills all its messages or none, and blames buffers that are too small', async () => {
    let queue!: ServedQueue;
    const definition = device(echo, () => ({
      queueStarted: (started) => {
        if (started.name === 'eventq') queue = started;
      },
    }));
    const driver = await drive(definition, { packed });
    const messages = [pattern(4, 1), pattern(6, 2)];
    expect(queue.deliver(messages)).toBe(false);
    driver.supply(1, [8]);
    expect(queue.deliver(messages)).toBe(false);
    driver.supply(1, [8]);
    const many = [pattern(1), pattern(2), pattern(3), pattern(4), pattern(5)];
    driver.supply(1, [8]);
    expect(queue.deliver(many)).toBe(false); // Several are put back, again and again.
    expect(queue.deliver(many)).toBe(false);
    expect(queue.deliver([messages[0]!])).toBe(true);
    expect((await driver.nextFilled(1)).bytes).toEqual(pattern(4, 1));
    expect(queue.deliver(messages.toReversed())).toBe(true);
    expect((await driver.nextFilled(1)).bytes).toEqual(pattern(6, 2));
    expect((await driver.nextFilled(1)).bytes).toEqual(pattern(4, 1));
    driver.supply(1, [8, 5]);
    expect(queue.deliver(messages.toReversed())).toBe(false);
    expect(await driver.nextFault()).toMatchObject({ queueIndex: 1, fault: { reason: 'short' } });
    expect(queue.deliver(messages)).toBe(false);
    await driver.restartQueue(1); // Nothing is in flight that would hold it up.
  });

  test('a supply queue without kicks is looked at', async () => {
    const definition = device(echo, () => ({
      supplied: (queue) => {
        const buffer = queue.take();
        if (buffer === null) return;
        buffer.writer.writeU8(9);
        queue.complete(buffer);
      },
    }));
    const driver = await drive(definition, { packed, kick: 'poll' });
    driver.supply(1, [1]);
    expect((await driver.nextFilled(1)).bytes).toEqual(Uint8Array.of(9));
  });

  test('a malformed supply buffer stops its queue, wherever it is taken', async () => {
    let taken: unknown;
    const definition = device(echo, () => ({
      supplied: (queue) => {
        taken = queue.take();
      },
    }));
    const driver = await drive(definition, { packed });
    driver.placeMalformed(1, 'address');
    expect(await driver.nextFault()).toMatchObject({ queueIndex: 1, fault: { reason: 'address' } });
    expect(taken).toBeNull();
    expect((await ask(driver, 4)).bytes).toEqual(pattern(8, 4));
  });
});

test('what a device is told when its queues start, and by which name it finds them', async () => {
  const calls: string[] = [];
  let host!: DeviceHost;
  const note = (what: string, queue: ServedQueue): void => {
    calls.push(`${what} ${queue.name} ${host.queue(queue.name) === queue}`);
  };
  const definition = device(echo, (given) => {
    host = given;
    return {
      queueStarted: (queue) => note('started', queue),
      supplied: (queue) => note('supplied', queue),
      queueStopping: (queue) => note('stopping', queue),
    };
  });
  const driver = await drive(definition);
  expect(calls.splice(0)).toEqual([
    ...['started requestq true', 'started eventq true', 'supplied eventq true'],
  ]);
  expect(host.queue('controlq')).toBeNull();
  const before = host.queue('eventq');
  driver.supply(1, [4]);
  await driver.stopQueue(1);
  expect(host.queue('eventq')).toBeNull();
  driver.startQueue(1); // With a buffer in its ring, of which no kick will tell.
  expect(calls.filter((call) => !call.startsWith('supplied eventq'))).toEqual([
    ...['stopping eventq false', 'started eventq true'],
  ]);
  expect(calls.at(-1)).toBe('supplied eventq true');
  expect(host.queue('eventq')).not.toBe(before);
});

test.each([
  ['queueStarted', ({ name }: ServedQueue) => name === 'eventq'],
  ['supplied', () => true],
] as const)('a bug in %s stops that queue only', async (hook, isWrong) => {
  const definition = device(echo, () => ({
    [hook]: (queue: ServedQueue) => {
      if (isWrong(queue)) throw new TypeError('oops');
    },
  }));
  const driver = await drive(definition);
  expect(await driver.nextFault()).toEqual({ queueIndex: 1, fault: null });
  expect((await ask(driver, 4)).bytes).toEqual(pattern(8, 4));
  expect(driver.device.statistics.bugs).toBe(1);
});
