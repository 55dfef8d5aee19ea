/** Processes, told apart from later ones with the same number. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, test } from 'vitest';
import { endProcess, identify, isSameProcess } from './process-identity.js';

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** A process that says `ready`, then waits. */
async function start(code = ''): Promise<ChildProcess> {
  const program = `${code}; process.stdout.write('ready'); setInterval(() => {}, 1000)`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'ignore'] });
  children.push(child);
  await once(child.stdout!, 'data');
  return child;
}

test('a process is itself, and another start is not', () => {
  const self = identify(process.pid)!;
  expect(self.pid).toBe(process.pid);
  expect(self.startTicks).toBeGreaterThan(0);
  expect(isSameProcess(self)).toBe(true);
  expect(isSameProcess({ ...self, startTicks: self.startTicks + 1 })).toBe(false);
});

test('a program may have any name', async () => {
  const child = await start(`process.title = 'a) S (b 1 2 3'`);
  expect(isSameProcess(identify(child.pid!)!)).toBe(true);
});

test('numbers that are none, or stand for more than one process, name nobody', () => {
  expect(identify(2 ** 22 + 1)).toBeNull();
  for (const pid of [-1, 0, 1, 1.5, Number.NaN]) {
    expect(isSameProcess({ pid, startTicks: identify(1)?.startTicks ?? 0 })).toBe(false);
  }
});

test('what ended is gone', async () => {
  const child = await start();
  const identity = identify(child.pid!)!;
  child.kill('SIGKILL');
  await once(child, 'close');
  expect(identify(child.pid!)).toBeNull();
  expect(isSameProcess(identity)).toBe(false);
});

test('a process is asked to end', async () => {
  const child = await start();
  const identity = identify(child.pid!)!;
  const closed = once(child, 'close');
  await endProcess(identity);
  expect(await closed).toEqual([null, 'SIGTERM']);
  // Again: nothing happens.
  await endProcess(identity);
});

test('one that will not end is ended', async () => {
  const child = await start(`process.on('SIGTERM', () => {})`);
  const closed = once(child, 'close');
  await endProcess(identify(child.pid!)!);
  expect(await closed).toEqual([null, 'SIGKILL']);
});

test('another one with its number is left alone', async () => {
  const child = await start();
  const identity = identify(child.pid!)!;
  await endProcess({ ...identity, startTicks: identity.startTicks - 1 });
  expect(isSameProcess(identity)).toBe(true);
});
