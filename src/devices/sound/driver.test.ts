/** The sound driver against the sound device, over a socket. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { pattern } from '../../testing/index.js';
import { BackEndServer } from '../../vhost-user/index.js';
import { SoundDriver } from './driver.js';
import type { StreamParams } from './driver-stream.js';
import { FORMATS } from './format.js';
import { sound } from './index.js';
import { encodeWavHeader } from './wav.js';

const PERIOD = 1920;
const CD: StreamParams = { format: 'S16_LE', rate: 48000, channels: 2, periodBytes: PERIOD };
const S16 = FORMATS.find(({ name }) => name === 'S16_LE')!;
const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Serves a sound card; the result ends it. */
async function serve(options: object = {}): Promise<() => Promise<void>> {
  const device = await DeviceProcess.open(sound, options, { packed: true });
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  return async () => {
    await server.close();
    await device.close();
  };
}

test.each(LAYOUTS)('plays and records what is in files, over a $name ring', ({ packed }) =>
  expectNoLeaks(async () => {
    const [out, source] = [join(folder, 'out.wav'), join(folder, 'in.wav')];
    const frames = pattern(20 * PERIOD);
    const wav = Buffer.concat([encodeWavHeader({ ...CD, format: S16 }, frames.length), frames]);
    writeFileSync(source, wav);
    const stop = await serve({ audioBackend: 'wav', playbackFile: out, captureFile: source });
    const driver = await SoundDriver.connect({ path, packed });
    expect(driver.jacks).toEqual([true, true]);
    const [player, recorder] = driver.streams;
    expect(player!.info).toMatchObject({ direction: 'playback', channelsMax: 2 });
    expect(recorder!.info).toMatchObject({ formats: ['S16_LE'], rates: [48000], channelsMin: 2 });

    await Promise.all([player!.prepare(CD), recorder!.prepare(CD)]);
    await recorder!.start();
    const heard: Uint8Array[] = [];
    for (let at = 0; at < frames.length; at += PERIOD) {
      await player!.write(frames.subarray(at, at + PERIOD));
      if (at === 3 * PERIOD) await player!.start();
      heard.push(await recorder!.read());
    }
    await player!.drain();
    await player!.release();
    await recorder!.release();
    expect(readFileSync(out)).toEqual(wav);
    expect(Buffer.concat(heard)).toEqual(Buffer.from(frames));
    expect([player!.errors, recorder!.errors]).toEqual([0, 0]);
    await driver.close();
    await stop();
  }),
);

test('what is not offered is refused before the device is asked', async () => {
  const stop = await serve({ rates: '48000' });
  const driver = await SoundDriver.connect({ path });
  const [stream] = driver.streams;
  for (const wrong of [
    { format: 'S17_LE' },
    { rate: 44100 },
    { channels: 3 },
    { periodBytes: 0 },
    { periodBytes: 32769 },
  ]) {
    await expect(stream!.prepare({ ...CD, ...wrong })).rejects.toMatchObject({
      code: 'VLO_REQUEST_INVALID',
    });
  }
  await expect(stream!.start()).rejects.toMatchObject({
    code: 'VLO_DEVICE_FAILED',
    message: expect.stringContaining('a bad message to START'),
  });
  await driver.close();
  await stop();
});

test('a device that is started again under a stream: it goes on', () =>
  expectNoLeaks(async () => {
    let stop = await serve();
    const log: string[] = [];
    const options = { path, reconnect: { delayMs: 1 }, log: (line: string) => void log.push(line) };
    const driver = await SoundDriver.connect(options);
    const [stream] = driver.streams;
    await stream!.prepare(CD);
    for (let i = 0; i < 4; i += 1) await stream!.write(pattern(PERIOD));
    await stream!.start();
    await stop();
    stop = await serve();
    for (let i = 0; i < 40; i += 1) await stream!.write(pattern(PERIOD));
    const { errors } = stream!;
    expect(errors).toBeLessThan(20);
    for (let i = 0; i < 10; i += 1) await stream!.write(pattern(PERIOD));
    expect(stream!.errors).toBe(errors);
    await stream!.drain();
    await stream!.release();
    await driver.close();
    await stop();
  }));

test('jacks and xruns', async () => {
  const control = join(folder, 'control');
  const stop = await serve({ control });
  const jacks: string[] = [];
  const driver = await SoundDriver.connect({
    path,
    onJack: (id, isConnected) => void jacks.push(`${id} ${isConnected}`),
  });
  const socket = createConnection(control);
  socket.write('jack 1 off\njack 1 on\njack 0 off\n');
  await expect.poll(() => jacks).toEqual(['1 false', '1 true', '0 false']);
  expect(driver.jacks).toEqual([false, true]);
  socket.destroy();
  const [stream] = driver.streams;
  await stream!.prepare(CD);
  await stream!.start();
  await expect.poll(() => stream!.xruns).toBe(1);
  await driver.close();
  await stop();
});

test('close fails what waits', () =>
  expectNoLeaks(async () => {
    const stop = await serve();
    const driver = await SoundDriver.connect({ path });
    const [player, recorder] = driver.streams;
    await player!.prepare(CD);
    for (let i = 0; i < 8; i += 1) await player!.write(pattern(PERIOD));
    const calls = [player!.write(pattern(PERIOD)), recorder!.read()];
    const results = Promise.allSettled(calls);
    await driver.close();
    for (const result of await results) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'VLO_CLOSED' } });
    }
    await expect(player!.prepare(CD)).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await stop();
  }));

test('without a back end', async () => {
  await expect(SoundDriver.connect({ path })).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
});

test('more frames than a message holds are refused, and take no place', async () => {
  const stop = await serve();
  const driver = await SoundDriver.connect({ path });
  const [player] = driver.streams;
  await player!.prepare(CD);
  for (let i = 0; i < 20; i += 1) {
    const frames = new Uint8Array(player!.periodBytesMax + 1);
    await expect(player!.write(frames)).rejects.toMatchObject({ code: 'VLO_REQUEST_INVALID' });
  }
  await player!.write(pattern(PERIOD));
  await player!.release();
  await driver.close();
  await stop();
});
