/** A sound card as pipes: files that are played, recordings, and applications that come and go. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SoundDriver, sound } from '../devices/index.js';
import { FORMATS } from '../devices/sound/format.js';
import { decodeWavHeader, encodeWavHeader } from '../devices/sound/wav.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { pattern } from '../testing/index.js';
import { SoundPipes } from './sound-pipes.js';
import { Served } from './test-utils.js';

const shell = (command: string) => promisify(execFile)('sh', ['-c', command], { cwd: folder });
const named = (name: string) => FORMATS.find((format) => format.name === name)!;
const CD = { format: named('S16_LE'), rate: 48000, channels: 2 };
/** Bytes of a period of 20 ms. */
const PERIOD = 3840;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-pipes-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = (name: string): string => join(folder, name);
const wav = (size: number, format = CD): Buffer =>
  Buffer.concat([encodeWavHeader(format, size), pattern(size)]);

async function withPipes(
  work: (pipes: SoundPipes, log: string[]) => Promise<void>,
  more: object = {},
): Promise<void> {
  await expectNoLeaks(async () => {
    const options = { audioBackend: 'wav', playbackFile: file('out-{take}.wav'), ...more };
    const served = await Served.start(sound, options);
    const driver = await SoundDriver.connect({ path: served.path });
    const log: string[] = [];
    const pipes = new SoundPipes(driver, folder, (line) => void log.push(line));
    try {
      await work(pipes, log);
    } finally {
      await pipes.close();
      await driver.close();
      await served.close();
      // The socket of a pipe closes its descriptor in a later turn.
      await delay(50);
    }
    expect(existsSync(file('playback-0'))).toBe(false);
  });
}

const take = async (number: number, size: number): Promise<Buffer> => {
  const path = file(`out-${number}.wav`);
  await expect
    .poll(() => existsSync(path) && readFileSync(path).length, { timeout: 5000 })
    .toBe(size);
  return readFileSync(path);
};

test('WAV files are played, one after the other, each in its format', () =>
  withPipes(async () => {
    const first = wav(12 * PERIOD);
    writeFileSync(file('one.wav'), first);
    await shell('cat one.wav > playback-0');
    expect(await take(1, first.length)).toEqual(first);
    await delay(50);
    const second = wav(2 * 160, { format: named('U8'), rate: 8000, channels: 1 });
    // What follows the frames in a file is none.
    writeFileSync(file('two.wav'), Buffer.concat([second, Buffer.from('LIST\u0004\0\0\0abcd')]));
    await shell('cat two.wav > playback-0');
    expect(await take(2, second.length)).toEqual(second);
  }));

test('plain frames are CD quality, and the end of them is heard, too', () =>
  withPipes(async () => {
    await writeFile(file('playback-0'), pattern(2 * PERIOD + 1000));
    const bytes = await take(1, 44 + 2 * PERIOD + 1000);
    expect(bytes).toEqual(wav(2 * PERIOD + 1000));
  }));

test('what cannot be played is said, and what follows is played', () =>
  withPipes(async (pipes, log) => {
    const bad = wav(100_000);
    bad[20] = 17;
    writeFileSync(file('bad.wav'), bad);
    await shell('cat bad.wav > playback-0');
    writeFileSync(file('odd.wav'), wav(8, { ...CD, rate: 47999 }));
    await expect.poll(() => log.length).toBe(1);
    await shell('cat odd.wav > playback-0');
    await expect.poll(() => log.length).toBe(2);
    expect(log[0]).toContain('its format (17, 16 bits) is not served');
    expect(log[1]).toContain('47999 Hz');
    expect(pipes.counters.errors).toBe(2);
    await writeFile(file('playback-0'), pattern(PERIOD));
    await take(1, 44 + PERIOD);
  }));

test('a recording is a WAV file, for each reader from its begin', () => {
  writeFileSync(file('in.wav'), wav(100 * PERIOD));
  return withPipes(
    async (pipes) => {
      for (let round = 0; round < 2; round += 1) {
        await shell(`head -c ${44 + 5 * PERIOD} capture-0 > copy.wav`);
        const bytes = readFileSync(file('copy.wav'));
        expect(decodeWavHeader(bytes)).toMatchObject(CD);
        expect(bytes.subarray(44)).toEqual(wav(5 * PERIOD).subarray(44));
        // That a reader has gone is known when the next period is written.
        await delay(150);
      }
      expect(pipes.counters.bytesRead).toBeGreaterThanOrEqual(10 * PERIOD);
    },
    { captureFile: file('in.wav') },
  );
});

test('closed while somebody plays and somebody records', () =>
  withPipes(async (pipes) => {
    const player = shell('cat /dev/zero > playback-0').catch(() => {});
    const recorder = shell('cat capture-0 > /dev/null').catch(() => {});
    await expect.poll(() => pipes.counters.bytesRead).toBeGreaterThan(0);
    await expect.poll(() => pipes.counters.bytesWritten).toBeGreaterThan(0);
    await pipes.close();
    await Promise.all([player, recorder]);
  }));

test('nobody plays or records: no processor time is used', () =>
  withPipes(async () => {
    await delay(100);
    const before = process.cpuUsage();
    await delay(500);
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(100);
  }));
