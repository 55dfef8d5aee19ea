/** Back ends with something behind them: WAV files, and programs. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { join as joinBytes, MockDriver, pattern, resourceCounts } from '../../testing/index.js';
import { FORMATS } from './format.js';
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
import { decodeWavHeader, encodeWavHeader, WAV_CODES, WAV_HEADER_SIZE } from './wav.js';
import { JackInfo, PcmInfo, SND_Q, SND_R, SND_S } from './wire.js';

const { PCM_START, PCM_STOP, PCM_RELEASE } = SND_R;
const PERIOD = 1920;
const S16 = FORMATS.find(({ name }) => name === 'S16_LE')!;
const CD = { format: S16, rate: 48000, channels: 2 };

let folder: string;
let driver: MockDriver | null = null;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-sound-'));
});
afterEach(async () => {
  await driver?.close();
  driver = null;
  rmSync(folder, { recursive: true });
});

const file = (name: string): string => join(folder, name);
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function open(options: object): Promise<MockDriver> {
  driver = await MockDriver.open(sound, options);
  return driver;
}

/** A file of so many bytes of frames; returns the frames. */
function writeWav(path: string, size: number, before = new Uint8Array(0)): Uint8Array {
  const frames = pattern(size);
  const header = encodeWavHeader(CD, size);
  writeFileSync(path, joinBytes(header.subarray(0, 36), before, header.subarray(36), frames));
  return frames;
}

/** Plays frames, from SET_PARAMS to RELEASE. */
async function playAll(frames: Uint8Array, params: TestParams = {}, streamId = 0): Promise<void> {
  const { periodBytes = PERIOD } = params;
  await prepare(driver!, streamId, params);
  await command(driver!, PCM_START, streamId);
  for (let at = 0; at < frames.length; at += periodBytes) {
    const result = await play(driver!, streamId, frames.subarray(at, at + periodBytes));
    expect(statusOf(result)).toBe(SND_S.OK);
  }
  await command(driver!, PCM_STOP, streamId);
  await command(driver!, PCM_RELEASE, streamId);
}

/** Records so many periods. */
async function recordAll(count: number, periodBytes = PERIOD): Promise<Uint8Array> {
  await prepare(driver!, 1, { periodBytes });
  await command(driver!, PCM_START, 1);
  const parts: Uint8Array[] = [];
  for (let i = 0; i < count; i += 1) {
    const result = await record(driver!, 1, periodBytes);
    expect(statusOf(result)).toBe(SND_S.OK);
    parts.push(result.bytes.subarray(0, periodBytes));
  }
  await command(driver!, PCM_STOP, 1);
  await command(driver!, PCM_RELEASE, 1);
  return joinBytes(...parts);
}

describe('WAV files', () => {
  test('what is played is in the file, byte for byte, also before its end', async () => {
    await open({ playbackFile: file('out.wav') });
    const frames = pattern(5 * PERIOD);
    await prepare(driver!, 0);
    expect(readFileSync(file('out.wav'))).toHaveLength(WAV_HEADER_SIZE);
    expect(await command(driver!, SND_R.PCM_PREPARE, 0)).toBe(SND_S.OK);
    await command(driver!, PCM_START, 0);
    await play(driver!, 0, frames.subarray(0, PERIOD));
    const whole = (size: number) =>
      Buffer.from(joinBytes(encodeWavHeader(CD, size), frames.subarray(0, size)));
    expect(readFileSync(file('out.wav'))).toEqual(whole(PERIOD));
    await command(driver!, PCM_STOP, 0);
    await command(driver!, PCM_RELEASE, 0);
    await playAll(frames);
    expect(readFileSync(file('out.wav'))).toEqual(whole(frames.length));
  });

  test('a file for each take of each stream', async () => {
    await open({ audioBackend: 'wav', streams: 3, playbackFile: file('{stream}-{take}.wav') });
    const frames = pattern(3 * PERIOD);
    await Promise.all([playAll(frames), playAll(frames.subarray(0, PERIOD), {}, 2)]);
    await prepare(driver!, 0);
    expect(await command(driver!, SND_R.PCM_PREPARE, 0)).toBe(SND_S.OK); // Not a take of its own.
    await command(driver!, PCM_RELEASE, 0);
    const sizes = ['0-1', '0-2', '2-1'].map((name) => readFileSync(file(`${name}.wav`)).length);
    expect(sizes).toEqual([3 * PERIOD + 44, 44, PERIOD + 44]);
    expect(existsSync(file('0-3.wav'))).toBe(false);
  });

  test('all formats that a WAV file has', async () => {
    await open({ audioBackend: 'wav', playbackFile: file('out.wav'), channels: 18 });
    const { items } = await query(driver!, SND_R.PCM_INFO, [0, 1, PcmInfo.size]);
    const { formats } = PcmInfo.decode(items);
    const offered = FORMATS.filter(({ code }) => (formats >>> code) % 2 === 1);
    expect(offered.map(({ code }) => code).sort()).toEqual([...WAV_CODES].sort());
    for (const { name: format, bits } of offered) {
      const periodBytes = (480 * bits * 3) / 8;
      const frames = pattern(2 * periodBytes);
      await playAll(frames, { format, channels: 3, periodBytes });
      const bytes = readFileSync(file('out.wav'));
      expect(bytes.subarray(44)).toEqual(Buffer.from(frames));
      expect(decodeWavHeader(bytes)).toMatchObject({
        format: { name: format },
        rate: 48000,
        channels: 3,
        size: frames.length,
      });
    }
  });

  test('what is recorded is what is in the file, then silence', async () => {
    const frames = writeWav(file('in.wav'), 2.5 * PERIOD, Buffer.from('LIST\u0003\0\0\0abc\0'));
    await open({ audioBackend: 'wav', captureFile: file('in.wav') });
    const { items } = await query(driver!, SND_R.PCM_INFO, [1, 1, PcmInfo.size]);
    expect(PcmInfo.decode(items)).toMatchObject({
      formats: 1 << S16.code,
      rates: 1 << 7,
      channelsMin: 2,
      channelsMax: 2,
    });
    const recorded = await recordAll(4);
    expect(recorded.subarray(0, frames.length)).toEqual(frames);
    expect(recorded.subarray(frames.length)).toEqual(new Uint8Array(1.5 * PERIOD));
    // Each take begins at the begin.
    expect((await recordAll(1)).subarray(0, PERIOD)).toEqual(frames.subarray(0, PERIOD));
  });

  test('a file that begins again, and one that is cut short meanwhile', async () => {
    const frames = writeWav(file('in.wav'), 1000);
    await open({ audioBackend: 'wav', captureFile: file('in.wav'), loop: true });
    const recorded = await recordAll(2);
    expect(recorded).toEqual(Uint8Array.from(recorded, (_, i) => frames[i % 1000]!));
    await prepare(driver!, 1);
    await command(driver!, PCM_START, 1);
    writeFileSync(file('in.wav'), '');
    const silence = await record(driver!, 1, PERIOD);
    expect(silence.bytes.subarray(0, PERIOD)).toEqual(new Uint8Array(PERIOD));
  });

  test('a file that is repeated far too often is left for others in between', async () => {
    const frames = writeWav(file('in.wav'), 4);
    await open({ audioBackend: 'wav', captureFile: file('in.wav'), loop: true });
    const size = 4 * 4000;
    const recorded = await recordAll(1, size);
    expect(recorded).toEqual(Uint8Array.from(recorded, (_, i) => frames[i % 4]!));
    expect(recorded).toHaveLength(size);
  });

  test('a file that goes, is another one, or comes back', async () => {
    const frames = writeWav(file('in.wav'), PERIOD);
    await open({ audioBackend: 'wav', captureFile: file('in.wav') });
    const header = encodeWavHeader({ ...CD, rate: 44100 }, 4);
    const refused = async (): Promise<string> => {
      await control(driver!, setParams(1));
      expect(await command(driver!, SND_R.PCM_PREPARE, 1)).toBe(SND_S.IO_ERR);
      return driver!.log.at(-1)!;
    };
    rmSync(file('in.wav'));
    expect(await refused()).toMatch(/ENOENT.*--capture-file.*VLO_SOUND_ACCESS/);
    writeFileSync(file('in.wav'), joinBytes(header, new Uint8Array(4)));
    expect(await refused()).toMatch(/format has changed.*VLO_SOUND_ACCESS/);
    writeWav(file('in.wav'), PERIOD, Buffer.from('LIST\u0004\0\0\0abcd'));
    expect((await recordAll(1)).subarray(0, PERIOD)).toEqual(frames);
  });

  test('a file that cannot be written to now, and later can', async () => {
    await open({ audioBackend: 'wav', playbackFile: file('out-{take}.wav') });
    await control(driver!, setParams(0));
    // A pipe in its place must not stop the process until somebody reads from it.
    execFileSync('mkfifo', [file('out-1.wav'), file('out-2.wav')]);
    for (let i = 0; i < 2; i += 1) {
      expect(await command(driver!, SND_R.PCM_PREPARE, 0)).toBe(SND_S.IO_ERR);
      expect(driver!.log.at(-1)).toMatch(/ENXIO.*--playback-file.*VLO_SOUND_ACCESS/);
    }
    await playAll(pattern(PERIOD));
    expect(readFileSync(file('out-3.wav'))).toHaveLength(PERIOD + WAV_HEADER_SIZE);
  });

  test.each<[string, string | Uint8Array | null, string]>([
    ['is not there', null, 'ENOENT'],
    ['is empty', '', 'its header is cut short'],
    ['is something else', 'hello', 'it is no WAV file'],
    [
      'has no format',
      joinBytes(encodeWavHeader(CD, 0).subarray(0, 12), Buffer.from('data\0\0\0\0')),
      'its format is missing',
    ],
    ['ends in its header', encodeWavHeader(CD, 0).subarray(0, 30), 'its header is cut short'],
    ['has an odd rate', encodeWavHeader({ ...CD, rate: 47999 }, 0), 'no rate of 47999 Hz'],
    ['has too many channels', encodeWavHeader({ ...CD, channels: 19 }, 0), '19 channels'],
    [
      'is compressed',
      Uint8Array.from(encodeWavHeader(CD, 0)).fill(17, 20, 21),
      'its format (17, 16 bits)',
    ],
  ])('a file that %s is refused', async (_, content, message) => {
    if (content !== null) writeFileSync(file('in.wav'), content);
    const options = { audioBackend: 'wav', captureFile: file('in.wav') };
    await expect(DeviceProcess.open(sound, options)).rejects.toMatchObject({
      code: 'VLO_SOUND_ACCESS',
      message: expect.stringContaining(message),
    });
  });

  test('a folder that cannot be written to is refused', async () => {
    const options = { audioBackend: 'wav', playbackFile: file('none/out.wav') };
    await expect(DeviceProcess.open(sound, options)).rejects.toMatchObject({
      code: 'VLO_SOUND_ACCESS',
    });
  });

  test('a full disk is an I/O error, and the next period is tried', async () => {
    await open({ audioBackend: 'wav', playbackFile: '/dev/full' });
    await prepare(driver!, 0);
    await command(driver!, PCM_START, 0);
    const results = [1, 2].map(() => play(driver!, 0, pattern(PERIOD)));
    expect((await Promise.all(results)).map(statusOf)).toEqual([SND_S.IO_ERR, SND_S.IO_ERR]);
    expect(driver!.log.filter((line) => line.includes('fails'))).toHaveLength(1);
  });

  test('any bytes as a header', () => {
    const good = joinBytes(encodeWavHeader(CD, 8), new Uint8Array(8));
    for (let at = 0; at < 44; at += 1) {
      for (const value of [0, 1, 0x7f, 0xff]) {
        const bytes = good.slice();
        bytes[at] = value;
        for (let size = 0; size <= bytes.length; size += 11)
          decodeWavHeader(bytes.subarray(0, size));
      }
    }
  });
});

describe('programs', () => {
  test('one that plays gets what is played, and what it has to know', async () => {
    const out = file('out.raw');
    await open({
      audioBackend: 'command',
      playbackCommand: `cat > ${out}; echo {format} {rate} {channels} {stream} >> ${out}`,
    });
    const frames = pattern(20 * PERIOD);
    await playAll(frames);
    await expect
      .poll(() => readFileSync(out).length, { timeout: 4000 })
      .toBeGreaterThan(20 * PERIOD);
    const bytes = readFileSync(out);
    expect(bytes.subarray(0, frames.length)).toEqual(Buffer.from(frames));
    expect(bytes.subarray(frames.length).toString()).toBe('S16_LE 48000 2 0\n');
  });

  test('one that records gives what is recorded', async () => {
    const frames = pattern(10 * PERIOD);
    writeFileSync(file('in.raw'), frames);
    await open({ captureCommand: `cat ${file('in.raw')}; sleep 5` });
    expect(await recordAll(10)).toEqual(frames);
  });

  test('one that records and ends: nothing that it wrote is lost', async () => {
    const frames = pattern(4 * PERIOD);
    writeFileSync(file('in.raw'), frames);
    await open({ captureCommand: `exec cat ${file('in.raw')}` });
    expect(await recordAll(4)).toEqual(frames);
    expect(driver!.log).toEqual([]);
    await prepare(driver!, 1);
    await command(driver!, PCM_START, 1);
    const parts = [1, 2, 3, 4, 5].map(() => record(driver!, 1, PERIOD));
    const statuses = (await Promise.all(parts)).map(statusOf);
    expect(statuses).toEqual([SND_S.OK, SND_S.OK, SND_S.OK, SND_S.OK, SND_S.IO_ERR]);
    expect(driver!.log[0]).toContain('ended with status 0');
  });

  test('one at a time for each stream, however often it is set up', async () => {
    const [marks, together] = [file('marks'), file('together')];
    mkdirSync(marks);
    await open({
      playbackCommand:
        `mkdir ${marks}/one || echo >> ${together}; cat > /dev/null; sleep 0.3; ` +
        `rmdir ${marks}/one`,
    });
    for (let i = 0; i < 5; i += 1) {
      await prepare(driver!, 0);
      await sleep(20);
    }
    await playAll(pattern(2 * PERIOD));
    expect(existsSync(together)).toBe(false);
  });

  test('one that does not want to end does not hold the next up for ever', async () => {
    await open({ playbackCommand: "trap '' TERM; cat > /dev/null; while :; do sleep 0.1; done" });
    await playAll(pattern(PERIOD));
    await playAll(pattern(8 * PERIOD));
  });

  test('when the last one ends with the device, so does the one before', async () => {
    const mark = `${process.pid}${Math.round(performance.now())}`;
    const left = (): number => {
      const text = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' });
      return text.split('\n').filter((line) => line === `sleep 601.${mark}`).length;
    };
    await open({ playbackCommand: `cat > /dev/null; sleep 601.${mark}; true` });
    await prepare(driver!, 0);
    await sleep(50);
    await prepare(driver!, 0);
    await command(driver!, PCM_RELEASE, 0);
    await expect.poll(left, { timeout: 2000 }).toBe(1);
    await prepare(driver!, 0); // It waits for the first one.
    await driver!.close();
    driver = null;
    await expect.poll(left, { timeout: 900 }).toBe(0);
  });

  test('one that ends is started again, and the driver hears of both', async () => {
    const [out, broken] = [file('out.raw'), file('broken')];
    writeFileSync(broken, '');
    await open({
      audioBackend: 'command',
      playbackCommand: `test ! -e ${broken} && exec cat > ${out}`,
    });
    driver!.supply(SND_Q.EVENT, [8, 8]);
    await prepare(driver!, 0);
    await command(driver!, PCM_START, 0);
    await sleep(100);
    expect(statusOf(await play(driver!, 0, pattern(PERIOD)))).toBe(SND_S.IO_ERR);
    expect(await nextEvent(driver!)).toBe('JACK_DISCONNECTED 0');
    rmSync(broken);
    let status: number = SND_S.IO_ERR;
    for (let i = 0; i < 400 && status !== SND_S.OK; i += 1) {
      status = statusOf(await play(driver!, 0, pattern(PERIOD)));
    }
    expect(status).toBe(SND_S.OK);
    expect(await nextEvent(driver!)).toBe('JACK_CONNECTED 0');
    expect(driver!.log.join('\n')).toContain('ended with status 1');
  });

  test('one that does not read holds the stream up', async () => {
    await open({ audioBackend: 'command', playbackCommand: 'sleep 0.3; cat > /dev/null' });
    const startedAt = performance.now();
    await playAll(pattern(20 * PERIOD));
    expect(performance.now() - startedAt).toBeGreaterThan(250);
  });

  test('the next take waits for the last one, but not for long', async () => {
    const out = file('out.txt');
    await open({
      audioBackend: 'command',
      playbackCommand: `cat > /dev/null; sleep 30; echo >> ${out}`,
    });
    await playAll(pattern(PERIOD));
    const startedAt = performance.now();
    await playAll(pattern(8 * PERIOD));
    expect(performance.now() - startedAt).toBeGreaterThan(500);
    expect(existsSync(out)).toBe(false);
  });

  test('none is left behind', async () => {
    const mark = `${process.pid}${Math.round(performance.now())}`;
    const left = (): number => {
      const text = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' });
      return text.split('\n').filter((line) => line === `sleep 600.${mark}`).length;
    };
    const run = async () => {
      await open({ captureCommand: `sleep 600.${mark}; true` });
      await prepare(driver!, 1);
      await expect.poll(left, { timeout: 2000 }).toBe(1);
      await driver!.close();
      driver = null;
    };
    await run();
    await sleep(100);
    const before = resourceCounts();
    await run();
    await expect.poll(resourceCounts, { timeout: 2000 }).toEqual(before);
    await expect.poll(left, { timeout: 2000 }).toBe(0);
  });
});

test('the control socket: jacks and figures', async () => {
  await open({ control: file('control') });
  driver!.supply(SND_Q.EVENT, [8, 8]);
  const socket = createConnection(file('control'));
  let text = '';
  socket.setEncoding('utf8').on('data', (part) => (text += part));
  const say = async (line: string): Promise<Record<string, unknown>> => {
    text = '';
    socket.write(`${line}\n`);
    await expect.poll(() => text).toContain('\n');
    return JSON.parse(text) as Record<string, unknown>;
  };
  expect(await say('jack 1 off')).toEqual({ ok: true });
  expect(await nextEvent(driver!)).toBe('JACK_DISCONNECTED 1');
  const { items } = await query(driver!, SND_R.JACK_INFO, [1, 1, JackInfo.size]);
  expect(JackInfo.decode(items).connected).toBe(0);
  expect(await say('status')).toEqual({
    streams: [
      { id: 0, direction: 'playback', state: 'idle', errno: 0, periods: 0, xruns: 0, errors: 0 },
      { id: 1, direction: 'capture', state: 'idle', errno: 0, periods: 0, xruns: 0, errors: 0 },
    ],
    jacks: ['on', 'off'],
  });
  expect(await say('jack 1 on')).toEqual({ ok: true });
  expect(await nextEvent(driver!)).toBe('JACK_CONNECTED 1');
  expect(await say('jack 2 on')).toEqual({ error: 'there is no jack 2; there are 2' });
  for (const line of ['', 'jack', 'jack x on', 'jack 1 maybe', 'help']) {
    expect(await say(line)).toHaveProperty('error');
  }
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('x'.repeat(5000));
  await closed;
});
