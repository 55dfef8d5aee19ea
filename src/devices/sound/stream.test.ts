/** Streams of the sound device: time, xruns, bad messages, and a back end that fails. */
import { afterEach, describe, expect, test } from 'vitest';
import { ERRNO } from '../../native/index.js';
import { MockDriver, type MockDriverOptions, pattern } from '../../testing/index.js';
import { FORMATS } from './format.js';
import { sound } from './index.js';
import * as utils from './test-utils.js';
import { command, nextEvent, play, prepare, record, sleep, statusOf } from './test-utils.js';
import { JackInfo, PCM_F, PcmStatus, PcmXfer, SND_Q, SND_R, SND_S } from './wire.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];
const PERIOD = 1920;
const PERIOD_MS = 10;
const { OK, IO_ERR } = SND_S;
const { PCM_RELEASE, PCM_START, PCM_STOP } = SND_R;

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

async function open(options: object = {}, mock: MockDriverOptions = {}): Promise<MockDriver> {
  const driver = await MockDriver.open(sound, options, mock);
  drivers.push(driver);
  return driver;
}

async function openTest(mock: MockDriverOptions = {}, streamCount = 2) {
  const opened = await utils.openTest(mock, streamCount);
  drivers.push(opened.driver);
  return opened;
}

describe.each(LAYOUTS)('$name ring: time', ({ packed }) => {
  test('a period ends when its frames have been heard', async () => {
    const { backEnd, driver } = await openTest({ packed });
    await prepare(driver, 0);
    const results = [1, 2, 3, 4].map(() => play(driver, 0, pattern(PERIOD)));
    await sleep(2 * PERIOD_MS);
    expect(backEnd.played).toBe(0); // Not before it is started.
    const startedAt = performance.now();
    expect(await command(driver, PCM_START, 0)).toBe(OK);
    for (const [index, result] of results.entries()) {
      const { length } = await result;
      const after = performance.now() - startedAt;
      expect(length).toBe(PcmStatus.size);
      expect(statusOf(await result)).toBe(OK);
      expect(after).toBeGreaterThan((index + 1) * PERIOD_MS - 1.5);
    }
    expect(backEnd.played).toBe(4 * PERIOD);
  });

  test('what is recorded comes in periods, with silence of its format', async () => {
    const driver = await open({}, { packed });
    for (const [format, silence] of [
      ['U8', [0x80]],
      ['U24_3LE', [0, 0, 0x80]],
      ['S16_LE', [0]],
    ] as const) {
      await prepare(driver, 1, { format, rate: 8000, channels: 1, periodBytes: 480 });
      const results = [record(driver, 1, 480), record(driver, 1, 480)];
      const startedAt = performance.now();
      await command(driver, PCM_START, 1);
      const [, second] = await Promise.all(results);
      const bits = FORMATS.find(({ name }) => name === format)!.bits;
      expect(performance.now() - startedAt).toBeGreaterThan((2 * 480) / bits - 2);
      expect(second!.length).toBe(480 + PcmStatus.size);
      expect(statusOf(second!)).toBe(OK);
      const wanted = Uint8Array.from({ length: 480 }, (_, i) => silence[i % silence.length]!);
      expect(second!.bytes.subarray(0, 480)).toEqual(wanted);
      await command(driver, PCM_STOP, 1);
      await command(driver, PCM_RELEASE, 1);
    }
  });

  test('RELEASE ends what waits before it is answered', async () => {
    const { backEnd, driver } = await openTest({ packed });
    await prepare(driver, 0, { periodBytes: 50 * PERIOD });
    const results = [1, 2, 3].map(() => play(driver, 0, pattern(50 * PERIOD)));
    await command(driver, PCM_START, 0);
    await command(driver, PCM_STOP, 0);
    let ended = 0;
    for (const result of results) void result.then(() => (ended += 1));
    await sleep(2 * PERIOD_MS);
    expect(ended).toBe(0);
    await command(driver, PCM_RELEASE, 0);
    await sleep(1);
    expect(ended).toBe(3);
    expect(backEnd.played).toBeLessThanOrEqual(50 * PERIOD);
    expect(backEnd.openPorts).toBe(0);
  });

  test('RELEASE is answered after what was placed before it, also when that was not seen yet', async () => {
    const { backEnd, driver } = await openTest({ packed });
    await prepare(driver, 0);
    await command(driver, PCM_START, 0);
    await command(driver, PCM_STOP, 0);
    const order: string[] = [];
    const last = play(driver, 0, pattern(PERIOD)).then((result) => {
      order.push('message');
      return statusOf(result);
    });
    // The control queue is served first.
    const released = command(driver, PCM_RELEASE, 0).then(() => order.push('release'));
    expect(await last).toBe(OK);
    await released;
    expect(order).toEqual(['message', 'release']);
    expect(backEnd.played).toBe(0);
    // That is over with the release: later ones are for a stream that was not prepared.
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(IO_ERR);
  });

  test('messages that wait while a stream is set up anew are not forgotten', async () => {
    const { driver } = await openTest({ packed });
    const early = play(driver, 0, pattern(PERIOD));
    while (driver.counters(SND_Q.TX).popped === 0) await sleep(1);
    expect(await utils.control(driver, utils.setParams(0))).toBe(OK);
    expect(statusOf(await early)).toBe(IO_ERR);
    await prepare(driver, 0);
    const filled = play(driver, 0, pattern(PERIOD));
    while (driver.counters(SND_Q.TX).popped === 1) await sleep(1);
    expect(await utils.control(driver, utils.setParams(0))).toBe(OK);
    expect(statusOf(await filled)).toBe(IO_ERR);
  });

  test('a pause holds the rest of a period back', async () => {
    const { driver } = await openTest({ packed });
    await prepare(driver, 0, { periodBytes: 100 * PERIOD });
    const result = play(driver, 0, pattern(100 * PERIOD));
    await command(driver, PCM_START, 0);
    await sleep(500);
    await command(driver, PCM_STOP, 0);
    await sleep(600);
    const goneOnAt = performance.now();
    await command(driver, PCM_START, 0);
    await result;
    const tookMs = performance.now() - goneOnAt;
    expect(tookMs).toBeGreaterThan(100);
  });

  test('what was not begun when its queue stops is heard when it goes on', async () => {
    const { driver, backEnd } = await openTest({ packed }, 4);
    await prepare(driver, 0);
    await prepare(driver, 2);
    await command(driver, PCM_START, 0);
    let endedCount = 0;
    const results = [0, 2, 0, 2].map(async (id) => {
      const status = statusOf(await play(driver, id, pattern(PERIOD)));
      endedCount += 1;
      return status;
    });
    while (driver.counters(SND_Q.TX).popped < 4) await sleep(1);
    await driver.stopQueue(SND_Q.TX);
    await sleep(3 * PERIOD_MS);
    expect(endedCount).toBe(1); // The one that was being played.
    driver.startQueue(SND_Q.TX);
    await command(driver, PCM_START, 2);
    expect(await Promise.all(results)).toEqual([OK, OK, OK, OK]);
    expect(backEnd.played).toBe(4 * PERIOD);
  });

  test('what cannot go back when its queue stops ends', async () => {
    const { driver } = await openTest({ packed }, 4);
    await prepare(driver, 0);
    await prepare(driver, 2);
    await command(driver, PCM_START, 2);
    // The second one is being played, and the first one lies behind it.
    const results = [0, 2].map((id) => play(driver, id, pattern(PERIOD)));
    while (driver.counters(SND_Q.TX).popped < 2) await sleep(1);
    await driver.stopQueue(SND_Q.TX);
    expect((await Promise.all(results)).map(statusOf)).toEqual([OK, OK]);
  });

  test('a recording that waits when its queue stops is made when it goes on', async () => {
    const { driver } = await openTest({ packed });
    await prepare(driver, 1);
    await command(driver, PCM_START, 1);
    const result = record(driver, 1, PERIOD);
    while (driver.counters(SND_Q.RX).popped === 0) await sleep(1);
    await driver.stopQueue(SND_Q.RX);
    driver.startQueue(SND_Q.RX);
    expect(statusOf(await result)).toBe(OK);
    expect((await result).bytes).toHaveLength(PERIOD + PcmStatus.size);
  });
});

describe('xruns', () => {
  const features = PCM_F.EVT_XRUNS;

  test('a stream that runs dry says so, once, and goes on with what comes', async () => {
    const { driver } = await openTest();
    driver.supply(SND_Q.EVENT, [8, 8, 8]);
    await prepare(driver, 0, { features });
    const first = play(driver, 0, pattern(PERIOD));
    await command(driver, PCM_START, 0);
    await first;
    expect(await nextEvent(driver)).toBe('PCM_XRUN 0');
    await sleep(5 * PERIOD_MS);
    await expect(driver.nextFilled(SND_Q.EVENT, 1)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
    const startedAt = performance.now();
    await play(driver, 0, pattern(PERIOD));
    // Time that was lost is not caught up with.
    expect(performance.now() - startedAt).toBeGreaterThan(PERIOD_MS - 1.5);
    expect(await nextEvent(driver)).toBe('PCM_XRUN 0');
  });

  test('a recording without buffers, too; nothing is said to who did not ask', async () => {
    const { driver } = await openTest();
    driver.supply(SND_Q.EVENT, [8, 8]);
    await prepare(driver, 0);
    await prepare(driver, 1, { features });
    await command(driver, PCM_START, 0);
    await command(driver, PCM_START, 1);
    expect(await nextEvent(driver)).toBe('PCM_XRUN 1');
    await expect(driver.nextFilled(SND_Q.EVENT, 30)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
  });

  test('events without a buffer are dropped', async () => {
    const { driver } = await openTest();
    await prepare(driver, 0, { features });
    await command(driver, PCM_START, 0);
    await sleep(3 * PERIOD_MS);
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(OK);
  });
});

describe('bad input, and a back end that fails', () => {
  test.each(LAYOUTS)('messages that are cut short stop their queue ($name)', async ({ packed }) => {
    const { driver } = await openTest({ packed });
    for (const queue of [SND_Q.TX, SND_Q.RX]) {
      for (const bad of [
        { readable: [new Uint8Array(3)], writable: [8] },
        { readable: [PcmXfer.encode({ streamId: queue - 2 })], writable: [7] },
        { writable: [8] },
      ]) {
        driver.request(queue, bad).catch(() => {});
        expect((await driver.nextFault()).queueIndex).toBe(queue);
        await driver.restartQueue(queue);
      }
    }
    await prepare(driver, 0);
    await command(driver, PCM_START, 0);
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(OK);
  });

  test('streams that do not exist, or go the other way', async () => {
    const driver = await open();
    expect(statusOf(await play(driver, 7, pattern(8)))).toBe(IO_ERR);
    expect(statusOf(await play(driver, 1, pattern(8)))).toBe(IO_ERR);
    expect(statusOf(await record(driver, 0, 8))).toBe(IO_ERR);
  });

  test('messages for a stream that was not prepared fail, slowly', async () => {
    const driver = await open();
    const startedAt = performance.now();
    const results = await Promise.all([play(driver, 0, pattern(8)), play(driver, 0, pattern(8))]);
    expect(results.map(statusOf)).toEqual([IO_ERR, IO_ERR]);
    expect(performance.now() - startedAt).toBeGreaterThan(5);
  });

  test('messages of odd sizes, and empty ones', async () => {
    const { backEnd, driver } = await openTest();
    await prepare(driver, 0);
    await command(driver, PCM_START, 0);
    for (const size of [1, 7, 1919, 5000]) {
      expect(statusOf(await play(driver, 0, pattern(size)))).toBe(OK);
    }
    const empty = await driver.request(SND_Q.TX, {
      readable: [PcmXfer.encode({ streamId: 0 })],
      writable: [8],
    });
    expect(statusOf(empty)).toBe(OK);
    expect(backEnd.played).toBe(1 + 7 + 1919 + 5000);
  });

  test('a back end that fails and works again: statuses, jack, log', async () => {
    const { backEnd, driver } = await openTest();
    driver.supply(SND_Q.EVENT, [8]);
    await prepare(driver, 0);
    await command(driver, PCM_START, 0);
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(OK);
    backEnd.result = -ERRNO.EPIPE!;
    const failed = [1, 2].map(() => play(driver, 0, pattern(PERIOD)));
    expect((await Promise.all(failed)).map(statusOf)).toEqual([IO_ERR, IO_ERR]);
    expect(await nextEvent(driver)).toBe('JACK_DISCONNECTED 0');
    backEnd.result = null;
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(OK);
    // There was no buffer for it; it is not lost.
    driver.supply(SND_Q.EVENT, [8]);
    expect(await nextEvent(driver)).toBe('JACK_CONNECTED 0');
    expect(driver.log).toHaveLength(2);
  });

  test('a stream that failed counts as working once it is released: it may be opened again', async () => {
    const { backEnd, driver } = await openTest();
    driver.supply(SND_Q.EVENT, [8, 8]);
    await prepare(driver, 0);
    await command(driver, PCM_START, 0);
    backEnd.result = -ERRNO.EPIPE!;
    expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(IO_ERR);
    expect(await nextEvent(driver)).toBe('JACK_DISCONNECTED 0');
    await command(driver, PCM_STOP, 0);
    await command(driver, PCM_RELEASE, 0);
    expect(await nextEvent(driver)).toBe('JACK_CONNECTED 0');
    expect(driver.log.at(-1)).toBe('sound: stream 0 failed, and is closed');
  });

  test('a jack that was not asked for is told of', async () => {
    const { backEnd, driver } = await openTest();
    await prepare(driver, 1);
    await command(driver, PCM_START, 1);
    backEnd.result = -ERRNO.EIO!;
    await record(driver, 1, PERIOD); // Nobody can be told yet.
    await utils.query(driver, SND_R.JACK_INFO, [0, 1, JackInfo.size]);
    await utils.query(driver, SND_R.JACK_INFO, [1, 9, JackInfo.size]); // A bad message.
    driver.supply(SND_Q.EVENT, [8]);
    expect(await nextEvent(driver)).toBe('JACK_DISCONNECTED 1');
  });

  test('a back end that is full for a while', async () => {
    const { backEnd, driver } = await openTest();
    await prepare(driver, 0);
    backEnd.result = 0;
    const result = play(driver, 0, pattern(PERIOD));
    await command(driver, PCM_START, 0);
    await sleep(4 * PERIOD_MS);
    expect(backEnd.played).toBe(0);
    backEnd.result = null;
    expect(statusOf(await result)).toBe(OK);
    expect(backEnd.played).toBe(PERIOD);
  });

  test('a failing recording is silent, and as long as it has to be', async () => {
    const { backEnd, driver } = await openTest();
    await prepare(driver, 1);
    backEnd.result = -ERRNO.EIO!;
    await command(driver, PCM_START, 1);
    const result = await record(driver, 1, PERIOD);
    expect([result.length, statusOf(result)]).toEqual([PERIOD + 8, IO_ERR]);
    expect(result.bytes.subarray(0, PERIOD)).toEqual(new Uint8Array(PERIOD));
  });
});

test('two streams at a time do not wait for each other', async () => {
  const driver = await open({ streams: 3 }, { packed: true });
  await prepare(driver, 0, { periodBytes: 20 * PERIOD });
  await prepare(driver, 2);
  await command(driver, PCM_START, 0);
  await command(driver, PCM_START, 2);
  const order: number[] = [];
  const note = (id: number) => () => void order.push(id);
  const long = play(driver, 0, pattern(20 * PERIOD)).then(note(0));
  const short = [1, 2, 3].map(() => play(driver, 2, pattern(PERIOD)).then(note(2)));
  await Promise.all([long, ...short]);
  expect(order).toEqual([2, 2, 2, 0]);
});
