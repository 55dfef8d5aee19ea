/** The sound device: what it says of itself, and the life of a stream. */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import {
  MockDriver,
  type MockDriverOptions,
  pattern,
  resourceCounts,
} from '../../testing/index.js';
import { FORMATS } from './format.js';
import { sound } from './index.js';
import {
  command,
  control,
  openTest,
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
  SND_Q,
  SND_R,
  SND_S,
  SndConfig,
} from './wire.js';

const PERIOD = 1920;
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
    await driver.negotiate();
    const again = await query(driver, SND_R.JACK_INFO, [1, 1, JackInfo.size]);
    expect(JackInfo.decode(again.items).defconf).toBe(0x01a10010);
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
    expect(await say(PCM_RELEASE, PCM_START, PCM_PREPARE, PCM_RELEASE)).toEqual([
      OK,
      BAD_MSG,
      OK,
      OK,
    ]);
    // As Linux does after an xrun: to be set up again is to be released first.
    expect(await say(PCM_PREPARE, PCM_START, PCM_STOP, PCM_PREPARE)).toEqual([OK, OK, OK, OK]);
    expect(await say(PCM_START, PCM_STOP)).toEqual([OK, OK]);
    expect(await control(driver, setParams(0))).toBe(OK);
    expect(await say(PCM_START, PCM_PREPARE, PCM_START)).toEqual([BAD_MSG, OK, OK]);
  });

  test('a reset forgets it', async () => {
    const { backEnd, driver } = await openTest();
    drivers.push(driver);
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
    drivers.push(driver);
    backEnd.openError = new RangeError('no such card');
    expect(await control(driver, setParams(0))).toBe(OK);
    expect(await command(driver, PCM_PREPARE, 0)).toBe(IO_ERR);
    expect(driver.log.join()).toContain('no such card');
    backEnd.openError = null;
    expect(await command(driver, PCM_PREPARE, 0)).toBe(OK);
  });
});

const QUEUES = Object.values(SND_Q);

/** The front end of the driver goes away. */
async function leave(driver: MockDriver): Promise<void> {
  for (const queue of QUEUES) await driver.stopQueue(queue);
  driver.device.reset('disconnect');
}

test('streams are kept for a front end that comes back, and for no other driver', async () => {
  const { backEnd, driver } = await openTest();
  drivers.push(driver);
  await prepare(driver, 0);
  expect(await command(driver, PCM_START, 0)).toBe(OK);
  const early = play(driver, 0, pattern(PERIOD));
  await leave(driver);
  for (const queue of QUEUES) driver.startQueue(queue);
  expect(statusOf(await early)).toBe(OK); // Wherever it was: at the device, or still in the ring.
  expect(statusOf(await play(driver, 0, pattern(PERIOD)))).toBe(OK);
  expect(await command(driver, PCM_STOP, 0)).toBe(OK);
  await driver.restartQueue(SND_Q.CONTROL); // Only this queue began anew: it is the same driver.
  expect(backEnd.openPorts).toBe(1);
  await leave(driver);
  await driver.restartQueue(SND_Q.CONTROL); // A ring that nobody has used: another driver.
  expect(backEnd.openPorts).toBe(0);
  expect(await command(driver, PCM_START, 0)).toBe(BAD_MSG);
});

test('streams of a front end that stays away are closed', async () => {
  const { backEnd, driver } = await openTest();
  drivers.push(driver);
  await prepare(driver, 0);
  vi.useFakeTimers();
  try {
    await leave(driver);
    vi.advanceTimersByTime(9999);
    expect(backEnd.openPorts).toBe(1);
    vi.advanceTimersByTime(1);
    expect(backEnd.openPorts).toBe(0);
  } finally {
    vi.useRealTimers();
  }
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
  [{ audioBackend: 'pulse' }, "--audio-backend: 'null', 'wav', 'command' or 'alsa' is needed"],
  [{ streams: 0 }, '--streams: at least 1 is needed'],
  [{ streams: 17 }, '--streams: at most 16 is possible'],
  [{ jacks: 3 }, '--jacks: at most one a stream: 2'],
  [{ channels: 19 }, '--channels: at most 18 is possible'],
  [{ formats: 'S16_LE,S17' }, "--formats: there is no 'S17'"],
  [{ rates: '44101' }, "--rates: there is no '44101'"],
  [{ audioBackend: 'null', playbackFile: 'x' }, "--playback-file: it is for '--audio-backend wav'"],
  [
    { captureFile: 'x', captureCommand: 'x' },
    "--capture-command: it is for '--audio-backend command'",
  ],
  [{ loop: true }, '--loop: --capture-file is needed'],
  [{ audioBackend: 'wav', playbackFile: 'x', formats: 'DSD_U8' }, '--formats: a WAV file has none'],
  [{ audioBackend: 'wav', playbackFile: 'x', streams: 3 }, "--playback-file: '{stream}' is needed"],
])('options: %o is refused', async (options, message) => {
  await expect(DeviceProcess.open(sound, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: expect.stringContaining(`sound: ${message}`),
  });
});
