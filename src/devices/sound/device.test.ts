/** The sound device: what it says of itself, the life of a stream, and time. */
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import { DeviceProcess, defineDevice } from '../../kit/index.js';
import { ERRNO } from '../../native/index.js';
import {
  MockDriver,
  type MockDriverOptions,
  pattern,
  resourceCounts,
} from '../../testing/index.js';
import type { PcmPort, SoundBackEnd } from './backend.js';
import { NullPort } from './backend-null.js';
import { SoundDevice } from './device.js';
import { ALL_FORMATS, ALL_RATES, FORMATS, type PcmOffer } from './format.js';
import { sound } from './index.js';
import {
  command,
  control,
  nextEvent,
  play,
  prepare,
  query,
  record,
  setParams,
  statusOf,
  type TestParams,
} from './test-utils.js';
import {
  ChmapInfo,
  JackInfo,
  JackRemap,
  PCM_F,
  PcmInfo,
  PcmStatus,
  PcmXfer,
  SND_Q,
  SND_R,
  SND_S,
  SndConfig,
} from './wire.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];
const PERIOD = 1920;
const PERIOD_MS = 10;
const { OK, BAD_MSG, NOT_SUPP, IO_ERR } = SND_S;
const { PCM_PREPARE, PCM_RELEASE, PCM_START, PCM_STOP } = SND_R;

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

async function open(options: object = {}, mock: MockDriverOptions = {}): Promise<MockDriver> {
  const driver = await MockDriver.open(sound, options, mock);
  drivers.push(driver);
  return driver;
}

/** A back end that does what a test tells it. */
class TestSound implements SoundBackEnd {
  /** What the next moves give, instead of all bytes. */
  result: number | null = null;
  openError: Error | null = null;
  played = 0;
  openPorts = 0;

  offer(): PcmOffer {
    return { formats: ALL_FORMATS, rates: ALL_RATES, channelsMin: 1, channelsMax: 2 };
  }

  open(
    _id: number,
    _direction: number,
    params: ConstructorParameters<typeof NullPort>[0],
  ): PcmPort {
    if (this.openError !== null) throw this.openError;
    this.openPorts += 1;
    const port = new NullPort(params);
    return {
      play: (reader) => {
        if (this.result !== null) return this.result;
        this.played += reader.remaining;
        return port.play(reader);
      },
      record: (writer) => this.result ?? port.record(writer),
      close: () => {
        this.openPorts -= 1;
      },
    };
  }

  close(): void {}
}

async function openTest(
  mock: MockDriverOptions = {},
): Promise<{ backEnd: TestSound; driver: MockDriver }> {
  const backEnd = new TestSound();
  const definition = defineDevice({
    ...sound,
    options: v.object({}),
    arguments: {},
    open: (_options, host) =>
      new SoundDevice(backEnd, {
        streamCount: 2,
        jackCount: 2,
        log: (line) => host.log(line),
      }).open(),
  });
  const driver = await MockDriver.open(definition, {}, mock);
  drivers.push(driver);
  return { backEnd, driver };
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('what there is', () => {
  test('config space and items', async () => {
    const driver = await open({ streams: 3, channels: 4 });
    expect(driver.config(SndConfig)).toEqual({ jacks: 3, streams: 3, chmaps: 9 });
    const streams = await query(driver, SND_R.PCM_INFO, [0, 3, PcmInfo.size]);
    expect(streams.status).toBe(OK);
    expect(streams.length).toBe(4 + 3 * PcmInfo.size);
    const infos = [0, 1, 2].map((i) => PcmInfo.decode(streams.items.subarray(i * PcmInfo.size)));
    expect(infos.map(({ nid, direction }) => [nid, direction])).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
    ]);
    expect(infos[0]).toMatchObject({
      features: PCM_F.EVT_XRUNS,
      formats: 2 ** 25 - 1,
      rates: 2 ** 16 - 1,
      channelsMin: 1,
      channelsMax: 4,
      padding: new Uint8Array(5),
    });
    const maps = await query(driver, SND_R.CHMAP_INFO, [3, 3, ChmapInfo.size]);
    const map = ChmapInfo.decode(maps.items.subarray(ChmapInfo.size));
    expect(map).toMatchObject({ nid: 0, direction: 1, channels: 2 });
    expect([...map.positions.subarray(0, 3)]).toEqual([3, 4, 0]);
    const jacks = await query(driver, SND_R.JACK_INFO, [1, 1, JackInfo.size]);
    expect(JackInfo.decode(jacks.items)).toMatchObject({ nid: 0, connected: 1, features: 1 });
  });

  test('structures of another size: cut, or filled up with zeros', async () => {
    const driver = await open();
    const whole = (await query(driver, SND_R.PCM_INFO, [0, 2, PcmInfo.size])).items;
    const short = await query(driver, SND_R.PCM_INFO, [0, 2, 8]);
    expect(short.status).toBe(OK);
    expect(short.items.subarray(0, 8)).toEqual(whole.subarray(0, 8));
    expect(short.items.subarray(8)).toEqual(whole.subarray(PcmInfo.size, PcmInfo.size + 8));
    const long = await query(driver, SND_R.PCM_INFO, [1, 1, 40]);
    expect(long.items.subarray(0, 32)).toEqual(whole.subarray(PcmInfo.size));
    expect(long.items.subarray(32)).toEqual(new Uint8Array(8));
  });

  test.each<[string, readonly [number, number, number], number?]>([
    ['past the end', [1, 2, 32]],
    ['far past the end', [0xffffffff, 0xffffffff, 32]],
    ['huge structures', [0, 1, 0xffffffff], 64],
    ['too little room', [0, 2, 32], 63],
  ])('%s: a bad message', async (_, what, room = 64) => {
    const driver = await open();
    const { status, length } = await query(driver, SND_R.PCM_INFO, what, room);
    expect([status, length]).toEqual([BAD_MSG, 4]);
  });

  test('a jack is moved to another place', async () => {
    const driver = await open();
    const remap = (jackId: number, association: number, sequence: number) =>
      control(driver, JackRemap.encode({ code: SND_R.JACK_REMAP, jackId, association, sequence }));
    expect(await remap(1, 7, 3)).toBe(OK);
    expect(await remap(1, 16, 0)).toBe(BAD_MSG);
    expect(await remap(2, 1, 1)).toBe(BAD_MSG);
    const { items } = await query(driver, SND_R.JACK_INFO, [0, 2, JackInfo.size]);
    const defconf = [0, 1].map((i) => JackInfo.decode(items.subarray(i * JackInfo.size)).defconf);
    expect(defconf).toEqual([0x01010010, 0x01a10073]);
  });

  test('requests that do not exist, or are cut short', async () => {
    const driver = await open();
    for (const code of [0, 0x300, 0x301, 0x304, 0x106, 0xffffffff]) {
      expect(await command(driver, code, 0)).toBe(NOT_SUPP);
    }
    expect(await control(driver, new Uint8Array(3))).toBe(BAD_MSG);
    for (const code of Object.values(SND_R)) {
      const cut = Uint8Array.from([...setParams(0)].slice(0, 6));
      new DataView(cut.buffer).setUint32(0, code, true);
      expect(await control(driver, cut)).toBe(BAD_MSG);
    }
    expect(await command(driver, PCM_PREPARE, 2)).toBe(BAD_MSG);
    const result = await driver.request(SND_Q.CONTROL, { readable: [setParams(0)], writable: [3] });
    expect(result.length).toBe(0);
    expect(await driver.nextFault()).toMatchObject({ queueIndex: 0, fault: { reason: 'request' } });
  });
});

describe('the life of a stream', () => {
  test.each<[string, TestParams, number]>([
    ['as offered', {}, OK],
    ['with XRUN events', { features: PCM_F.EVT_XRUNS }, OK],
    ['with shared memory', { features: PCM_F.SHMEM_GUEST }, NOT_SUPP],
    ['with polling', { features: PCM_F.MSG_POLLING }, NOT_SUPP],
    ['with unknown features', { features: 0x80000000 }, NOT_SUPP],
    ['no channels', { channels: 0 }, NOT_SUPP],
    ['too many channels', { channels: 3 }, NOT_SUPP],
    ['a rate that is not offered', { rate: 44100 }, NOT_SUPP],
    ['a format that is not offered', { format: 'U8' }, NOT_SUPP],
    ['no period', { periodBytes: 0, bufferBytes: 4096 }, BAD_MSG],
    ['no buffer', { bufferBytes: 0 }, BAD_MSG],
    ['a buffer of broken periods', { periodBytes: 1000, bufferBytes: 1500 }, BAD_MSG],
    ['a huge buffer', { periodBytes: 2 ** 31, bufferBytes: 2 ** 31 }, BAD_MSG],
  ])('parameters: %s', async (_, params, status) => {
    const driver = await open({ rates: '48000', formats: 's16_le,s32_le' });
    expect(await control(driver, setParams(0, params))).toBe(status);
  });

  test('values that are not defined', async () => {
    const driver = await open();
    const bytes = setParams(1);
    for (const [at, value] of [
      [21, FORMATS.length],
      [21, 255],
      [22, 16],
      [22, 255],
    ] as const) {
      const wrong = bytes.slice();
      wrong[at] = value;
      expect(await control(driver, wrong)).toBe(NOT_SUPP);
    }
  });

  test('only requests that fit its state', async () => {
    const driver = await open();
    const say = (...codes: number[]) =>
      codes.reduce<Promise<number[]>>(
        async (before, code) => [...(await before), await command(driver, code, 0)],
        Promise.resolve([]),
      );
    expect(await say(PCM_PREPARE, PCM_START, PCM_STOP)).toEqual([BAD_MSG, BAD_MSG, BAD_MSG]);
    // A device that was started again under its driver is released before anything else.
    expect(await say(PCM_RELEASE)).toEqual([OK]);
    expect(await control(driver, setParams(0))).toBe(OK);
    expect(await say(PCM_START, PCM_PREPARE, PCM_PREPARE)).toEqual([BAD_MSG, OK, OK]);
    expect(await control(driver, setParams(0))).toBe(OK);
    expect(await say(PCM_PREPARE, PCM_STOP, PCM_START, PCM_START)).toEqual([
      OK,
      BAD_MSG,
      OK,
      BAD_MSG,
    ]);
    expect(await control(driver, setParams(0))).toBe(BAD_MSG);
    expect(await say(PCM_STOP, PCM_START, PCM_STOP)).toEqual([OK, OK, OK]);
    expect(await control(driver, setParams(0))).toBe(BAD_MSG);
    expect(await say(PCM_RELEASE, PCM_START, PCM_PREPARE, PCM_RELEASE)).toEqual([
      OK,
      BAD_MSG,
      OK,
      OK,
    ]);
  });

  test('a reset forgets it', async () => {
    const { backEnd, driver } = await openTest();
    await prepare(driver, 0);
    const waiting = play(driver, 0, pattern(PERIOD));
    expect(backEnd.openPorts).toBe(1);
    await driver.negotiate();
    await waiting.catch(() => {});
    expect(backEnd.openPorts).toBe(0);
    expect(await command(driver, PCM_START, 0)).toBe(BAD_MSG);
  });

  test('a back end that cannot be opened now, and later can', async () => {
    const { backEnd, driver } = await openTest();
    backEnd.openError = new RangeError('no such card');
    expect(await control(driver, setParams(0))).toBe(OK);
    expect(await command(driver, PCM_PREPARE, 0)).toBe(IO_ERR);
    expect(driver.log.join()).toContain('no such card');
    backEnd.openError = null;
    expect(await command(driver, PCM_PREPARE, 0)).toBe(OK);
  });
});

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
      expect(after).toBeLessThan((index + 1) * PERIOD_MS + 60);
    }
    expect(backEnd.played).toBe(4 * PERIOD);
  });

  test('the clock does not drift, though each period is late', async () => {
    const { driver } = await openTest({ packed });
    await prepare(driver, 0);
    const [first, second] = [play(driver, 0, pattern(PERIOD)), play(driver, 0, pattern(PERIOD))];
    const startedAt = performance.now();
    await command(driver, PCM_START, 0);
    let [one, two] = [first, second];
    const count = 30;
    for (let i = 2; i < count; i += 1) {
      await one;
      [one, two] = [two, play(driver, 0, pattern(PERIOD))];
    }
    await two;
    const tookMs = performance.now() - startedAt;
    expect(tookMs).toBeGreaterThan(count * PERIOD_MS - 2);
    expect(tookMs).toBeLessThan(count * PERIOD_MS + 40);
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

  test('a pause holds the rest of a period back', async () => {
    const { driver } = await openTest({ packed });
    await prepare(driver, 0, { periodBytes: 4 * PERIOD });
    const result = play(driver, 0, pattern(4 * PERIOD));
    await command(driver, PCM_START, 0);
    await sleep(2 * PERIOD_MS);
    await command(driver, PCM_STOP, 0);
    await sleep(6 * PERIOD_MS);
    const goneOnAt = performance.now();
    await command(driver, PCM_START, 0);
    await result;
    const tookMs = performance.now() - goneOnAt;
    expect(tookMs).toBeGreaterThan(2);
    expect(tookMs).toBeLessThan(2 * PERIOD_MS + 20);
  });

  test('a queue that stops ends what is in it', async () => {
    const { driver } = await openTest({ packed });
    await prepare(driver, 0);
    const result = play(driver, 0, pattern(PERIOD));
    while (driver.counters(SND_Q.TX).popped === 0) await sleep(1);
    await driver.stopQueue(SND_Q.TX);
    expect(statusOf(await result)).toBe(OK);
    driver.startQueue(SND_Q.TX);
    const next = play(driver, 0, pattern(PERIOD));
    await command(driver, PCM_START, 0);
    expect(statusOf(await next)).toBe(OK);
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

  test('late by less than a period is no xrun', async () => {
    const { driver } = await openTest();
    driver.supply(SND_Q.EVENT, [8]);
    await prepare(driver, 0, { features, periodBytes: 10 * PERIOD });
    const startedAt = performance.now();
    await command(driver, PCM_START, 0);
    for (let i = 0; i < 3; i += 1) {
      await sleep(4 * PERIOD_MS);
      await play(driver, 0, pattern(10 * PERIOD));
    }
    const tookMs = performance.now() - startedAt;
    expect(tookMs).toBeLessThan(300 + 40);
    await command(driver, PCM_STOP, 0);
    await expect(driver.nextFilled(SND_Q.EVENT, 1)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
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

test('nothing is left behind, even while streams run', async () => {
  const run = async () => {
    const driver = await MockDriver.open(sound, {});
    await prepare(driver, 0);
    await prepare(driver, 1);
    await command(driver, PCM_START, 0);
    await command(driver, PCM_START, 1);
    play(driver, 0, pattern(PERIOD)).catch(() => {});
    record(driver, 1, PERIOD).catch(() => {});
    await driver.close();
  };
  await run();
  const before = resourceCounts();
  await run();
  expect(resourceCounts()).toEqual(before);
});

test.each<[object, string]>([
  [{ backend: 'pulse' }, "--backend: 'null', 'wav', 'command' or 'alsa' is needed"],
  [{ streams: 0 }, '--streams: at least 1 is needed'],
  [{ streams: 17 }, '--streams: at most 16 is possible'],
  [{ jacks: 3 }, '--jacks: at most one a stream: 2'],
  [{ channels: 19 }, '--channels: at most 18 is possible'],
  [{ formats: 'S16_LE,S17' }, "--formats: there is no 'S17'"],
  [{ rates: '44101' }, "--rates: there is no '44101'"],
  [{ playbackFile: 'x' }, "--playback-file: it is for '--backend wav'"],
  [{ backend: 'wav', captureCommand: 'x' }, "--capture-command: it is for '--backend command'"],
  [{ backend: 'wav', loop: true }, '--loop: --capture-file is needed'],
  [{ backend: 'wav', playbackFile: 'x', formats: 'DSD_U8' }, '--formats: a WAV file has none'],
  [{ backend: 'wav', playbackFile: 'x', streams: 3 }, "--playback-file: '{stream}' is needed"],
])('options: %o is refused', async (options, message) => {
  await expect(DeviceProcess.open(sound, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: expect.stringContaining(`sound: ${message}`),
  });
});
