import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NullEnd } from '../devices/console/backend-null.js';
import { scriptedConsole } from '../devices/console/test-utils.js';
import { ConsoleDriver } from '../devices/index.js';
import { terminalSize } from '../native/index.js';
import { eventually, expectNoLeaks } from '../native/test-utils.js';
import { pattern } from '../testing/index.js';
import { ConsoleTerminals } from './console-terminals.js';
import { Served } from './test-utils.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-tty-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function withTerminals(
  ports: readonly string[],
  work: (shown: ConsoleTerminals, ends: readonly NullEnd[]) => Promise<void>,
): Promise<void> {
  await expectNoLeaks(async () => {
    const ends: NullEnd[] = [];
    const served = await Served.start(scriptedConsole(ports, ends));
    const driver = await ConsoleDriver.connect({ path: served.path });
    const shown = await ConsoleTerminals.open(driver, folder, () => {});
    try {
      await work(shown, ends);
    } finally {
      await shown.close();
      await driver.close();
      await served.close();
    }
  });
}

const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
const openTerminal = (path: string): number => openSync(path, O_RDWR | O_NOCTTY | O_NONBLOCK);

/** Reads until there are so many bytes. */
async function hear(fd: number, size: number): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  let at = 0;
  await eventually(() => {
    try {
      at += readSync(fd, bytes, at, size - at, null);
    } catch (error) {
      if ((error as { code?: string }).code !== 'EAGAIN') throw error;
    }
    return at === size;
  }, 10_000);
  return bytes;
}

test('one console: bytes both ways and a size', async () => {
  await withTerminals([], async (shown, ends) => {
    expect(shown.path).toBe(join(folder, 'console'));
    ends[0]!.say(Buffer.from('login: '));
    const fd = openTerminal(shown.path);
    expect((await hear(fd, 7)).toString()).toBe('login: ');
    writeSync(fd, 'root\r');
    await eventually(() => Buffer.from(ends[0]!.heard!).toString() === 'root\r');
    const sent = pattern(300_000);
    ends[0]!.say(sent);
    expect((await hear(fd, sent.length)).equals(sent)).toBe(true);
    ends[0]!.change(true, { cols: 100, rows: 30 });
    await eventually(() => terminalSize(fd)?.cols === 100);
    await eventually(() => shown.counters.requests === 1);
    expect(shown.counters).toMatchObject({ errors: 0, bytesRead: 300_007, bytesWritten: 5 });
    closeSync(fd);
  });
  expect(readdirSync(folder)).toEqual([]);
});

test('several ports have their names; a port is open while its terminal is', async () => {
  await withTerminals(['agent', '../x', ''], async (shown, ends) => {
    await eventually(() => readdirSync(folder).length === 3);
    expect(readdirSync(folder).sort()).toEqual(['agent', 'port1', 'port2']);
    expect(shown.path).toBe(join(folder, 'agent'));
    expect(ends[1]!.wanted.readable).toBe(false);
    const fd = openTerminal(join(folder, 'port1'));
    await eventually(() => ends[1]!.wanted.readable);
    ends[1]!.say(Buffer.from('hello'));
    expect((await hear(fd, 5)).toString()).toBe('hello');
    // Nobody is at the device's end: what is typed waits.
    ends[1]!.change(false);
    await new Promise((resolve) => setTimeout(resolve, 20));
    writeSync(fd, 'later');
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(ends[1]!.heard).toHaveLength(0);
    ends[1]!.change(true);
    await eventually(() => Buffer.from(ends[1]!.heard!).toString() === 'later');
    closeSync(fd);
    await eventually(() => !ends[1]!.wanted.readable);
  });
  expect(existsSync(join(folder, 'agent'))).toBe(false);
});
