/** The examples do what they say. */
import {
  closeSync,
  constants,
  copyFileSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HalFolder, Program } from './vlo-process.js';

const example = (name: string): string =>
  fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));

let hal: HalFolder;
beforeEach(() => {
  hal = new HalFolder();
});
afterEach(() => hal.remove());

async function runDriver(name: string, socket: string): Promise<string> {
  const driver = new Program(example(name), [socket], hal.path);
  expect(await driver.ended, driver.stderr).toBe(0);
  expect(driver.stderr).toBe('');
  return driver.stdout;
}

test('disk-driver.mjs writes and reads', async () => {
  const [image, socket] = [hal.file('disk.img'), hal.file('disk.sock')];
  writeFileSync(image, '');
  truncateSync(image, 1024 * 1024);
  const server = hal.start('serve', 'blk', '--socket-path', socket, '--blk-file', image);
  await server.says('ready on');
  const text = await runDriver('disk-driver.mjs', socket);
  expect(text).toBe("1048576 bytes, beginning with 'Hello, disk!'\n");
  expect(readFileSync(image, 'utf8')).toMatch(/^Hello, disk! /);
});

test('random-driver.mjs reads other bytes each time', async () => {
  const socket = hal.file('rng.sock');
  await hal.start('serve', 'rng', '--socket-path', socket).says('ready on');
  const texts = [1, 2].map(() => runDriver('random-driver.mjs', socket));
  const [one, two] = await Promise.all(texts);
  expect(one).toMatch(/^[0-9a-f]{32}\n$/);
  expect(two).toMatch(/^[0-9a-f]{32}\n$/);
  expect(one).not.toBe(two);
});

test('hal-can.yaml comes up: one process for two controllers', async () => {
  copyFileSync(example('hal-can.yaml'), hal.file('hal.yaml'));
  const up = await hal.up();
  const { devices } = await hal.status();
  // Without vcan they have no interface, and `vlo status` says why.
  expect(devices.map(({ type, state }) => `${type} ${state}`)).toEqual(['can ready', 'can ready']);
  const pids = devices.map(({ backEnd }) => backEnd.process!.pid);
  expect(pids[0]).toBe(pids[1]);
  expect(await up.stop()).toBe(0);
});

test('hal.yaml comes up', async () => {
  copyFileSync(example('hal.yaml'), hal.file('hal.yaml'));
  const up = await hal.up();
  const { devices } = await hal.status();
  expect(devices.map(({ name, state }) => `${name} ${state}`)).toEqual([
    'disk0 ready',
    'rng0 ready',
    'logs0 ready',
    'rng1 ready',
  ]);
  const [disk0, rng0, logs0, rng1] = devices.map(({ backEnd }) => backEnd.process!.pid);
  expect(logs0).toBe(rng1);
  expect(new Set([disk0, rng0, logs0]).size).toBe(3);
  expect(statSync(hal.file('disk.img')).size).toBe(64 * 2 ** 20);
  expect(statSync(hal.file('logs.img')).size).toBe(16 * 2 ** 20);
  expect(await up.stop()).toBe(0);
});

test('hal-console.yaml comes up: a port between a socket and a terminal', async () => {
  copyFileSync(example('hal-console.yaml'), hal.file('hal.yaml'));
  const up = await hal.up();
  const { devices } = await hal.status();
  expect(devices.map(({ name, state }) => `${name} ${state}`)).toEqual([
    'agent0 ready',
    'tty0 ready',
  ]);
  expect(lstatSync(hal.file('tty')).isSymbolicLink()).toBe(true);
  expect(lstatSync(hal.file('agent.sock')).isSocket()).toBe(true);
  expect(await up.stop()).toBe(0);
});

test('hal-input.yaml comes up, and the script is played', async () => {
  for (const name of ['hal-input.yaml', 'keys.jsonl']) copyFileSync(example(name), hal.file(name));
  const up = hal.start('up', 'hal-input.yaml', '--run-dir', hal.runDir);
  await up.says('run directory ');
  const { presentation, state } = await hal.device('panel0');
  expect(state).toBe('ready');
  // With uinput it is a node of the kernel's.
  if (presentation !== hal.file('run', 'panel0', 'events')) {
    expect(presentation).toMatch(/^\/dev\/input\/event\d+$/);
  } else {
    const pipe = openSync(presentation, constants.O_RDONLY | constants.O_NONBLOCK);
    let text = '';
    const read = (): string[] => {
      const bytes = Buffer.alloc(4096);
      try {
        text += bytes.toString('utf8', 0, readSync(pipe, bytes));
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe('EAGAIN');
      }
      return text.split('\n').slice(0, -1);
    };
    const reports = ['KEY_UP', 'KEY_ENTER'].flatMap((key) =>
      [1, 0].map((value) => JSON.stringify({ events: [['EV_KEY', key, value]] })),
    );
    const device = expect.stringContaining('{"device":{"name":"Panel",');
    await expect.poll(read, { timeout: 20_000 }).toEqual([device, ...reports]);
    closeSync(pipe);
  }
  expect(await up.stop()).toBe(0);
});

test('hal-sound.yaml comes up, and plays', async () => {
  copyFileSync(example('hal-sound.yaml'), hal.file('hal.yaml'));
  const up = await hal.up();
  const { devices } = await hal.status();
  expect(devices.map(({ name, state }) => `${name} ${state}`)).toEqual([
    'snd0 ready',
    'snd1 ready',
  ]);
  // A period of CD quality: what is played as plain frames is kept as a WAV file.
  const frames = Buffer.alloc(3840, 0x5a);
  for (const { presentation } of devices) writeFileSync(`${presentation}/playback-0`, frames);
  const sizes = () =>
    ['played-1.wav', 'played.raw'].map(
      (name) => statSync(hal.file(name), { throwIfNoEntry: false })?.size,
    );
  await expect.poll(sizes, { timeout: 10_000 }).toEqual([44 + frames.length, frames.length]);
  expect(readFileSync(hal.file('played-1.wav')).subarray(44)).toEqual(frames);
  expect(await up.stop()).toBe(0);
});
