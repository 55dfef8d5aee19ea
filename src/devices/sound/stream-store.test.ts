/** Streams that outlive the process that served them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type DeviceHost, DeviceProcess, defineDevice, type ServedQueue } from '../../kit/index.js';
import { MockDriver, pattern } from '../../testing/index.js';
import { SoundDevice } from './device.js';
import { sound } from './index.js';
import { StreamStore } from './stream-store.js';
import { command, play, prepare, statusOf, TestSound } from './test-utils.js';
import { SND_R, SND_S } from './wire.js';

const { PCM_PREPARE, PCM_RELEASE, PCM_START, PCM_STOP } = SND_R;

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-sound-'));
  path = join(folder, 'state');
});
afterEach(() => rmSync(folder, { recursive: true }));

const lines: string[] = [];
const host: DeviceHost = {
  log: (line) => lines.push(line),
  setConfig: () => {},
  wake: () => {},
  queues: () => [],
  queue: () => null,
};

/** A process that replaces another one: its control queue goes on, or begins. */
function replace(isFresh = false, backEnd = new TestSound()) {
  const store = new StreamStore(path);
  const device = new SoundDevice(backEnd, { streamCount: 4, jackCount: 0, store }, host);
  const open = device.open();
  open.queueStarted!({ name: 'controlq', isFresh } as ServedQueue);
  const states = device.streams.map(({ state }) => state);
  return { device, states, backEnd, close: () => open.close() };
}

async function openKept(): Promise<MockDriver> {
  const store = new StreamStore(path);
  const definition = defineDevice({
    ...sound,
    options: sound.options,
    open: (_options, kit) =>
      new SoundDevice(new TestSound(), { streamCount: 4, jackCount: 0, store }, kit).open(),
  });
  return MockDriver.open(definition, {});
}

test('another process goes on with the streams, in every state', async () => {
  const driver = await openKept();
  for (const id of [0, 1, 2, 3]) await prepare(driver, id, { rate: 44100 });
  await command(driver, PCM_START, 0);
  await command(driver, PCM_START, 1);
  await command(driver, PCM_STOP, 1);
  await command(driver, PCM_RELEASE, 3);
  await driver.close();
  const next = replace();
  expect(next.states).toEqual(['running', 'stopped', 'prepared', 'set']);
  expect(next.backEnd.openPorts).toBe(3);
  const [stream] = next.device.streams;
  expect(stream!.params).toMatchObject({ rate: 44100, channels: 2, format: { name: 'S16_LE' } });
  await next.close();
  expect(next.backEnd.openPorts).toBe(0);
  const another = replace(); // To end is not to forget.
  expect(another.states[0]).toBe('running');
  await another.close();
});

test('a new driver begins with nothing, and so does whoever comes then', async () => {
  const driver = await openKept();
  await prepare(driver, 0);
  await driver.close();
  const fresh = replace(true);
  expect(fresh.states).toEqual(['idle', 'idle', 'idle', 'idle']);
  await fresh.close();
  const next = replace();
  expect(next.states[0]).toBe('idle');
  await next.close();
});

test('a stream that cannot be opened any more is set, and can be prepared later', async () => {
  const driver = await openKept();
  await prepare(driver, 0);
  await driver.close();
  const backEnd = new TestSound();
  backEnd.openError = new RangeError('no such card');
  const next = replace(false, backEnd);
  expect([next.states[0], lines.at(-1)]).toEqual(['set', expect.stringContaining('no such card')]);
  await next.close();
});

test('the streams of a served device are kept with --state', async () => {
  const driver = await MockDriver.open(sound, { state: path });
  await prepare(driver, 0);
  expect(await command(driver, PCM_START, 0)).toBe(SND_S.OK);
  expect(statusOf(await play(driver, 0, pattern(1920)))).toBe(SND_S.OK);
  await driver.close();
  const store = new StreamStore(path);
  expect(store.load(0)).toMatchObject({ state: 'running', channels: 2 });
  expect(store.load(1)).toBeNull();
  store.close();
  const again = await MockDriver.open(sound, { state: path });
  expect(await command(again, PCM_PREPARE, 0)).toBe(SND_S.BAD_MSG); // Another driver.
  await again.close();
});

test('a file with anything in it is no harm', async () => {
  const anything = fc.asyncProperty(fc.uint8Array({ maxLength: 80 }), async (bytes) => {
    writeFileSync(path, bytes);
    await replace().close();
  });
  await fc.assert(anything);
});

test('a file that cannot be opened is named', async () => {
  await expect(DeviceProcess.open(sound, { state: folder })).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: expect.stringMatching(/^sound: --state: cannot open .* \(EISDIR\)$/),
  });
});
