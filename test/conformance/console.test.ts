/** `vlo serve console --chardev stdio`: on pipes, and on a terminal, which is given back as it was. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ConsoleDriver } from '../../src/devices/index.js';
import { openPty, setTerminalSize } from '../../src/native/index.js';
import { eventually } from '../../src/native/test-utils.js';
import { HalFolder, VLO } from './vlo-process.js';

let hal: HalFolder;
beforeEach(() => {
  hal = new HalFolder();
});
afterEach(() => hal.remove());

/** The program with these descriptors as standard input and output, and a driver. */
async function start(
  input: number | 'pipe',
  output: number | 'pipe',
): Promise<{ child: ChildProcess; driver: ConsoleDriver; ended: Promise<number | null> }> {
  const path = hal.file('socket');
  const words = [VLO, 'serve', 'console', '--socket-path', path, '--chardev', 'stdio'];
  const child = spawn(process.execPath, words, { stdio: [input, output, 'pipe'] });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  let said = '';
  child.stderr!.on('data', (bytes) => {
    said += bytes;
  });
  await expect.poll(() => said, { timeout: 30_000 }).toContain('ready on');
  return { child, driver: await ConsoleDriver.connect({ path }), ended };
}

test('pipes: the end of the input leaves the output', async () => {
  const { child, driver, ended } = await start('pipe', 'pipe');
  let out = '';
  child.stdout!.on('data', (bytes) => {
    out += bytes;
  });
  const port = await driver.firstPort();
  let heard = '';
  port.listen({
    data: (bytes) => {
      heard += Buffer.from(bytes).toString();
      return true;
    },
  });
  child.stdin!.end('typed');
  await eventually(() => heard === 'typed');
  await port.write(Buffer.from('x'.repeat(300_000)));
  await eventually(() => out.length === 300_000);
  await driver.close();
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
});

test('a terminal: each key, its size, and its settings afterwards', async () => {
  const { fd, path } = openPty();
  const terminal = openSync(path, constants.O_RDWR | constants.O_NOCTTY);
  execFileSync('stty', ['-F', path, 'sane']);
  setTerminalSize(terminal, { cols: 100, rows: 30 });
  const settings = () => execFileSync('stty', ['-F', path, '-g']).toString();
  const before = settings();
  const { child, driver, ended } = await start(terminal, terminal);
  const port = await driver.firstPort();
  expect(port.size).toMatchObject({ cols: 100, rows: 30 });
  expect(settings()).not.toBe(before);
  setTerminalSize(terminal, { cols: 132, rows: 50 });
  child.kill('SIGWINCH');
  await eventually(() => port.size?.cols === 132);
  await driver.close();
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(settings()).toBe(before);
  closeSync(terminal);
  fd.close();
});
