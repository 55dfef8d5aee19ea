/** Scripts of input: what lines make, how they are timed, and files and pipes that hold them. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { MockDriver, resourceCounts } from '../../testing/index.js';
import { EventList, type InputSink } from './backend.js';
import { openScript } from './backend-script.js';
import { PROFILES } from './description.js';
import { input } from './index.js';
import { LineReader } from './line-reader.js';
import { describeDevice, deviceLine, parseLine, reportLine, ScriptCompiler } from './script.js';
import { EV, InputConfig, InputEvent, SELECT } from './wire.js';

let folder: string;
const drivers: MockDriver[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-input-'));
});
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
  rmSync(folder, { recursive: true });
});

const lines = (...values: unknown[]): string =>
  values.map((value) => `${JSON.stringify(value)}\n`).join('');

function script(...values: unknown[]): string {
  const path = join(folder, 'script.jsonl');
  writeFileSync(path, lines(...values));
  return path;
}

async function start(options: object): Promise<MockDriver> {
  const driver = await MockDriver.open(input, options);
  drivers.push(driver);
  driver.supply(0, new Array<number>(64).fill(8));
  return driver;
}

async function next(driver: MockDriver, count: number): Promise<number[][]> {
  const events: number[][] = [];
  for (let i = 0; i < count; i += 1) {
    const { type, code, value } = InputEvent.decode((await driver.nextFilled(0)).bytes);
    events.push([type, code, value | 0]);
  }
  return events;
}

describe('lines', () => {
  const compile = (profile: keyof typeof PROFILES, ...values: Record<string, unknown>[]) => {
    const compiler = new ScriptCompiler(PROFILES[profile]);
    return values.map((value) => [...compiler.compile(value).events]);
  };

  test('keys, alone and together', () => {
    const [tap, press, chord] = compile(
      'keyboard',
      { key: 'KEY_A' },
      { key: 30, value: 1 },
      { key: ['KEY_LEFTCTRL', 'KEY_C'] },
    );
    expect(tap).toEqual([1, 30, 1, 0, 0, 0, 1, 30, 0, 0, 0, 0]);
    expect(press).toEqual([1, 30, 1, 0, 0, 0]);
    expect(chord).toEqual([1, 29, 1, 1, 46, 1, 0, 0, 0, 1, 46, 0, 1, 29, 0, 0, 0, 0]);
  });

  test('movement, and events as they are', () => {
    expect(compile('mouse', { rel: { REL_X: -3, REL_WHEEL: 1 } })).toEqual([
      [2, 0, -3, 2, 8, 1, 0, 0, 0],
    ]);
    const raw = [
      ['EV_REL', 'REL_Y', 4],
      ['EV_SYN', 'SYN_REPORT', 0],
      [2, 0, 1],
    ];
    expect(compile('mouse', { events: raw })).toEqual([[2, 1, 4, 0, 0, 0, 2, 0, 1, 0, 0, 0]]);
    expect(compile('mouse', { after: 5 })).toEqual([[]]);
  });

  test('contacts, with what programs see that know of one only', () => {
    const [down, second, up, last] = compile(
      'touchscreen',
      { touch: { id: 1, x: 10, y: 20 } },
      { touch: { slot: 1, id: 2, x: 30, y: 40 } },
      { touch: { slot: 0, id: -1 } },
      { touch: [{ slot: 1, id: -1 }] },
    );
    expect(down).toEqual(
      [3, 47, 0, 3, 57, 1, 3, 53, 10, 3, 54, 20, 3, 0, 10, 3, 1, 20].concat([1, 330, 1, 0, 0, 0]),
    );
    expect(second).toEqual([3, 47, 1, 3, 57, 2, 3, 53, 30, 3, 54, 40, 0, 0, 0]);
    expect(up).toEqual([3, 47, 0, 3, 57, -1, 0, 0, 0]);
    expect(last).toEqual([3, 47, 1, 3, 57, -1, 1, 330, 0, 0, 0, 0]);
  });

  test.each<[string, Record<string, unknown>]>([
    ["there is no code 'KEY_NONE'", { key: 'KEY_NONE' }],
    ['the device has no event of type 1 and code 272', { key: 'BTN_LEFT' }],
    ['the device has no event of type 2 and code 0', { rel: { REL_X: 1 } }],
    ["'kee'", { kee: 'KEY_A' }],
    ["'value'", { key: 'KEY_A', value: 3 }],
    ["'value' needs a 'key'", { value: 1 }],
    ["'rel.REL_X'", { rel: { REL_X: 2 ** 31 } }],
    ["'after'", { key: 'KEY_A', after: -1 }],
    ['only SYN_REPORT', { events: [['EV_SYN', 3, 0]] }],
    ["'events", { events: [[1, 30]] }],
    ["'events", { events: [[1, 30, 0.5]] }],
    ["'events", { events: [[1, 30, 2 ** 31]] }],
    ["'events", { events: [[1, 0x10000, 1]] }],
    ["'events'", { events: {} }],
    ["'at'", { events: [[1, 30, 1]], at: -1 }],
    ["'after'", { events: [[1, 30, 1]], after: '1' }],
    ['there is no code', { events: [['EV_FF', 1, 0]] }],
    ["'touch.slot' is 1, and the device has up to 0", { touch: { slot: 1 } }],
    ['too many events', { events: new Array(2000).fill([1, 30, 1]) }],
  ])('refused: %s', (message, value) => {
    const compiler = new ScriptCompiler(PROFILES.keyboard);
    expect(() => compiler.compile(value)).toThrow(message);
  });

  test('a device and a report survive being written and read', () => {
    for (const profile of Object.values(PROFILES)) {
      const { device } = parseLine(deviceLine(profile)) as { device: unknown };
      expect(describeDevice(device)).toEqual(profile);
    }
    const list = new EventList();
    for (const event of [
      [EV.KEY, 30, 1],
      [EV.SYN, 0, 0],
    ]) {
      list.add(event[0]!, event[1]!, event[2]!);
    }
    expect(reportLine(list)).toBe('{"events":[["EV_KEY","KEY_A",1]]}\n');
  });
});

/** Takes reports, and has room for them or not. */
class Sink implements InputSink {
  readonly times: number[] = [];
  isFull = false;

  report(): boolean {
    this.times.push(performance.now());
    return !this.isFull;
  }

  resync(): void {}
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Keeps the process from everything for a while. */
function stall(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !condition(); i += 1) await sleep(2);
  expect(condition()).toBe(true);
}

const options = { description: PROFILES.mouse, isRepeated: false, log: () => {} };

describe('times', () => {
  const step = { rel: { REL_X: 1 }, after: 0.5 };

  test('after stalls, all that is due is told at once, and no time is lost', async () => {
    const path = script(...new Array(1400).fill(step));
    const source = await openScript({ ...options, path });
    const sink = new Sink();
    source.start(sink);
    const startedAt = performance.now();
    await until(() => sink.times.length > 20);
    // One stall of the process, and one of the driver.
    stall(250);
    await sleep(5);
    const due = (performance.now() - startedAt) / 0.5;
    expect(sink.times.length).toBeGreaterThan(due - 100);
    sink.isFull = true;
    const before = sink.times.length;
    await sleep(250);
    expect(sink.times.length).toBeLessThanOrEqual(before + 1);
    sink.isFull = false;
    source.resume();
    await until(() => sink.times.length === 1400);
    const tookMs = sink.times.at(-1)! - startedAt;
    expect(tookMs).toBeGreaterThan(690);
    expect(tookMs).toBeLessThan(850);
    source.close();
  });

  test('lines of a pipe keep their times after a stall, and count from where they come late', async () => {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const writer = await open(path, 'r+');
    await writer.write(lines(step));
    const source = await openScript({ ...options, path });
    const sink = new Sink();
    source.start(sink);
    const startedAt = performance.now();
    await writer.write(lines(...new Array(1000).fill(step)));
    await until(() => sink.times.length > 10);
    stall(400);
    await until(() => sink.times.length === 1001);
    const tookMs = sink.times.at(-1)! - startedAt;
    expect(tookMs).toBeGreaterThan(490);
    expect(tookMs).toBeLessThan(700);
    await sleep(100);
    const saidAt = performance.now();
    await writer.write(lines({ ...step, after: 50 }, { ...step, after: 50 }));
    await until(() => sink.times.length === 1003);
    const [first, second] = sink.times.slice(-2);
    expect(first! - saidAt).toBeLessThan(40);
    expect(second! - first!).toBeGreaterThan(40);
    source.close();
    await writer.close();
  });
});

describe('lines of a stream', () => {
  async function read(...parts: string[]): Promise<{ lines: string[]; log: string[] }> {
    const log: string[] = [];
    const stream = Readable.from(parts.map((part) => Buffer.from(part)));
    const reader = new LineReader(stream, (line) => log.push(line));
    const ended = new Promise((resolve) => stream.once('close', resolve));
    const found: string[] = [];
    reader.onLine = () => {
      for (let line = reader.next(); line !== null; line = reader.next()) found.push(line);
    };
    await ended;
    return { lines: found, log };
  }

  test('empty ones are left out; the last one needs no end', async () => {
    expect(await read('a\n\nb', 'c\n \r\n', 'd')).toEqual({ lines: ['a', 'bc', 'd'], log: [] });
  });

  test('one that is too long is left out, whole, and said', async () => {
    const long = 'x'.repeat(60_000);
    const { lines: found, log } = await read('a\n', long, long, long, 'y\nb\n', 'c');
    expect(found).toEqual(['a', 'b', 'c']);
    expect(log).toEqual([expect.stringContaining('more than 65536 characters')]);
    expect((await read(`${long}${long}\nd`)).lines).toEqual(['d']);
  });

  test('no more is read while there are many', async () => {
    const stream = new PassThrough();
    const reader = new LineReader(stream, () => {});
    stream.write('a\n'.repeat(3000));
    await sleep(5);
    stream.write('b\n');
    await sleep(5);
    expect(stream.readableLength).toBe(2);
    for (let i = 0; i < 3000; i += 1) expect(reader.next()).toBe('a');
    expect(reader.next()).toBe(null);
    await sleep(5);
    expect([reader.next(), reader.next()]).toEqual(['b', null]);
    reader.close();
  });

  test('a stream that breaks is told of', async () => {
    const log: string[] = [];
    const stream = new PassThrough();
    new LineReader(stream, (line) => log.push(line));
    stream.destroy(new Error('EIO'));
    await sleep(5);
    expect(log).toEqual(['the script cannot be read any more: EIO']);
  });
});

describe('files', () => {
  test('the first line says what the device is; times are kept', async () => {
    const device = { name: 'Panel', keys: ['KEY_A', 'KEY_B'], leds: ['LED_CAPSL'] };
    const path = script(
      { device },
      { key: 'KEY_A', value: 1, at: 60 },
      { key: 'KEY_A', value: 0, after: 60 },
      { key: 'KEY_B', value: 1 },
    );
    const driver = await start({ script: path });
    driver.writeConfig(0, Uint8Array.of(SELECT.ID_NAME, 0));
    const { size, answer } = driver.config(InputConfig);
    expect(new TextDecoder().decode(answer.subarray(0, size))).toBe('Panel');
    const startedAt = performance.now();
    expect(await next(driver, 2)).toEqual([
      [1, 30, 1],
      [0, 0, 0],
    ]);
    await next(driver, 4);
    const tookMs = performance.now() - startedAt;
    expect(tookMs).toBeGreaterThan(80);
    const led = InputEvent.encode({ type: EV.LED, code: 1, value: 1 });
    await driver.request(1, { readable: [led] });
    expect(driver.log).toEqual(['input: LED_CAPSL is on']);
  });

  test('reports that are due together are told with one notification', async () => {
    const taps = new Array<object>(16).fill({ key: 'KEY_A' });
    const driver = await start({ script: script({ after: 20 }, ...taps) });
    expect(await next(driver, 64)).toHaveLength(64);
    expect(driver.counters(0).notifications).toBeLessThanOrEqual(2);
  });

  test('again and again', async () => {
    const driver = await start({ script: script({ key: 'KEY_A' }), repeat: true });
    const events = await next(driver, 64);
    expect(events.filter(([type]) => type === EV.KEY)).toHaveLength(32);
  });

  test('again and again, with nothing in it, ends', async () => {
    await start({ script: script({ after: 0 }), repeat: true });
  });

  test.each([
    ['{"key": "KEY_A"}\n\n{', ':3: a JSON object is needed, not {'],
    ['[1]', ':1: a JSON object is needed'],
    ['{"device": {"keys": ["KEY_Q7"]}}', ":1: there is no code 'KEY_Q7'"],
    ['{"device": {"abs": {"ABS_X": {}}}}', ":1: 'abs.ABS_X.max'"],
    ['{"key": "KEY_A"}\n{"device": {}}', ":2: 'device'"],
  ])('%j is refused', async (text, message) => {
    const path = join(folder, 'bad.jsonl');
    writeFileSync(path, text);
    await expect(DeviceProcess.open(input, { script: path })).rejects.toMatchObject({
      code: 'VLO_OPTION_INVALID',
      message: expect.stringContaining(`bad.jsonl${message}`),
    });
  });

  test('one that is not there, and a folder', async () => {
    for (const [path, reason] of [
      ['/nowhere', 'ENOENT'],
      [folder, 'neither a file nor a pipe'],
    ]) {
      await expect(DeviceProcess.open(input, { script: path })).rejects.toMatchObject({
        code: 'VLO_SOURCE_ACCESS',
        message: expect.stringContaining(reason!),
      });
    }
  });
});

test('a pipe: writers come and go, bad lines are told of, and nothing is left behind', async () => {
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  const before = resourceCounts().fds;
  const writer = await open(path, 'r+');
  await writer.write(lines({ device: { keys: ['KEY_A'] } }));
  const driver = await start({ script: path });
  await writer.write(lines({ key: 'KEY_A', value: 1 }));
  expect(await next(driver, 2)).toHaveLength(2);
  await writer.write(`no JSON\n${lines({ key: 'KEY_B' }, { key: 'KEY_A', value: 0 })}{"key":`);
  expect((await next(driver, 2))[0]).toEqual([1, 30, 0]);
  await writer.close();
  const second = await open(path, 'w');
  await second.write(' "KEY_A", "value": 1}\n');
  await second.close();
  expect((await next(driver, 2))[0]).toEqual([1, 30, 1]);
  expect(driver.log).toEqual([
    expect.stringContaining('a JSON object is needed, not no JSON'),
    expect.stringContaining('the device has no event of type 1 and code 48'),
  ]);
  // More than the driver has room for waits, and more than that stays in the pipe.
  const third = await open(path, 'w');
  for (let i = 0; i < 500; i += 1) await third.write(lines({ key: 'KEY_A' }));
  await next(driver, 58);
  for (let left = 2000 - 58; left > 0; left -= 32) {
    driver.supply(0, new Array<number>(32).fill(8));
    await next(driver, Math.min(left, 32));
  }
  await third.close();
  await drivers.pop()!.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(resourceCounts().fds).toBe(before);
});
