/** The run directory: one HAL at a time, and nothing left of a dead one. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { listenUnix } from '../native/index.js';
import { identify, isSameProcess, type ProcessIdentity } from './process-identity.js';
import { controlSocket, defaultRunDirectory, RunDirectory } from './run-directory.js';
import type { DeviceStatus, HalStatus } from './status.js';

let base: string;
let path: string;
const opened: RunDirectory[] = [];
const children: ChildProcess[] = [];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'vlo-run-'));
  path = join(base, 'run');
});
afterEach(() => {
  for (const directory of opened.splice(0)) directory.close();
  for (const child of children.splice(0)) child.kill('SIGKILL');
  rmSync(base, { recursive: true, force: true });
});

function open(): RunDirectory {
  const directory = RunDirectory.open(path);
  opened.push(directory);
  return directory;
}

function close(): void {
  opened.pop()!.close();
}

async function startSleeper(): Promise<{ child: ChildProcess; identity: ProcessIdentity }> {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  children.push(child);
  await once(child, 'spawn');
  return { child, identity: identify(child.pid!)! };
}

function statusOf(devices: Record<string, ProcessIdentity | null>): HalStatus {
  return {
    ...{ format: 1, pid: 1, runDirectory: path, config: 'hal.yaml' },
    devices: Object.entries(devices).map(
      ([name, process]) => ({ name, backEnd: { process } }) as DeviceStatus,
    ),
  };
}

/** A socket that nobody listens on. */
function leaveSocket(name: string): void {
  listenUnix(join(path, name)).close();
}

async function cleanUp(...names: string[]): Promise<string[]> {
  const lines: string[] = [];
  await open().cleanUp(names, (line) => lines.push(line));
  return lines;
}

test('it is made, and one HAL has it until it closes', () => {
  open();
  expect(statSync(path).mode & 0o777).toBe(0o755);
  const running = expect.objectContaining({ code: 'VLO_HAL_RUNNING', exitStatus: 1 });
  expect(() => RunDirectory.open(path)).toThrow(running);
  // The failed attempt has not taken the lock with it.
  expect(() => RunDirectory.open(path)).toThrow(running);
  close();
  open();
});

test('the lock of a process that was killed is free', async () => {
  mkdirSync(path);
  const child = spawn('flock', [join(path, 'lock'), 'sleep', '60'], { detached: true });
  await once(child, 'spawn');
  await expect.poll(() => tryOpen()).toBe('VLO_HAL_RUNNING');
  process.kill(-child.pid!, 'SIGKILL');
  await expect.poll(() => tryOpen()).toBe('free');
});

function tryOpen(): string {
  try {
    RunDirectory.open(path).close();
    return 'free';
  } catch (error) {
    return (error as { code: string }).code;
  }
}

test('folders that cannot be used', () => {
  writeFileSync(path, 'a file');
  const unusable = expect.objectContaining({ code: 'VLO_RUN_DIR', exitStatus: 1 });
  expect(() => open()).toThrow(unusable);
  expect(() => RunDirectory.open(join(path, 'below'))).toThrow(unusable);
  // A folder that nobody may write to, not even root.
  expect(() => RunDirectory.open('/proc')).toThrow(unusable);
});

test('a socket whose path is too long', () => {
  const directory = open();
  expect(directory.socket('disk0')).toBe(join(path, 'disk0.sock'));
  const longest = 107 - Buffer.byteLength(join(path, '.sock'));
  expect(Buffer.byteLength(directory.socket('x'.repeat(longest)))).toBe(107);
  expect(() => directory.socket('x'.repeat(longest + 1))).toThrow(
    expect.objectContaining({
      code: 'VLO_RUN_DIR',
      message: expect.stringContaining('shorter --run-dir'),
    }),
  );
});

test('folders of presentations', () => {
  const directory = open();
  const folder = directory.makeFolder('disk0');
  expect(directory.makeFolder('disk0')).toBe(folder);
  writeFileSync(join(folder, 'theirs'), '');
  directory.removeFolder('disk0');
  expect(existsSync(folder)).toBe(true);
  rmSync(join(folder, 'theirs'));
  directory.removeFolder('disk0');
  expect(existsSync(folder)).toBe(false);
  writeFileSync(folder, 'a file');
  expect(() => directory.makeFolder('disk0')).toThrow(
    expect.objectContaining({ code: 'VLO_RUN_DIR' }),
  );
});

test('the status is replaced as a whole, and gone in the end', () => {
  const directory = open();
  for (const status of [statusOf({ a: null, b: null }), statusOf({ a: null })]) {
    directory.writeStatus(status);
    expect(JSON.parse(readFileSync(join(path, 'status.json'), 'utf8'))).toEqual(status);
  }
  leaveSocket('control.sock');
  close();
  expect(readdirSync(path)).toEqual(['lock']);
});

test('what devices left is taken away, those of the last HAL and those to come', async () => {
  mkdirSync(join(path, 'rng0'), { recursive: true });
  mkdirSync(join(path, 'disk1'));
  execFileSync('mkfifo', [join(path, 'rng0/random')]);
  for (const name of ['control.sock', 'disk0.sock', 'disk1.sock']) leaveSocket(name);
  const status = statusOf({ disk0: null, rng0: null });
  writeFileSync(join(path, 'status.json'), JSON.stringify(status));
  writeFileSync(join(path, 'status.json.new'), '{');
  expect(await cleanUp('disk1')).toEqual([]);
  expect(readdirSync(path)).toEqual(['lock']);
});

test('what others keep there stays', async () => {
  mkdirSync(join(path, 'empty'), { recursive: true });
  mkdirSync(join(path, 'disk0'));
  mkdirSync(join(path, 'disk1.sock'));
  writeFileSync(join(path, 'disk0/notes'), 'mine');
  writeFileSync(join(path, 'disk0.sock'), 'no socket');
  writeFileSync(join(path, 'random'), 'no pipe');
  leaveSocket('theirs.sock');
  writeFileSync(join(path, 'status.json'), JSON.stringify(statusOf({ '../x': null })));
  writeFileSync(join(base, 'x.sock'), '');
  const before = readdirSync(path, { recursive: true }).filter((name) => name !== 'status.json');
  await cleanUp('disk0', 'disk1');
  expect(readdirSync(path, { recursive: true }).sort()).toEqual([...before, 'lock'].sort());
});

test.each(['', 'no json', '{}', '{"devices":[null]}', '{"devices":[{"name":"a"}]}'])(
  'a status that cannot be read says nothing: %j',
  async (text) => {
    mkdirSync(path);
    writeFileSync(join(path, 'status.json'), text);
    expect(await cleanUp()).toEqual([]);
    expect(readdirSync(path)).toEqual(['lock']);
  },
);

test('a process that was left is ended, but not another one with its number', async () => {
  const left = await startSleeper();
  const other = await startSleeper();
  mkdirSync(path);
  const status = statusOf({
    disk0: left.identity,
    disk1: { ...other.identity, startTicks: other.identity.startTicks - 1 },
  });
  writeFileSync(join(path, 'status.json'), JSON.stringify(status));
  const closed = once(left.child, 'close');
  expect(await cleanUp()).toEqual([expect.stringContaining(`ending process ${left.child.pid},`)]);
  expect(await closed).toEqual([null, 'SIGTERM']);
  expect(isSameProcess(other.identity)).toBe(true);
});

test('where a HAL is when nothing is said', () => {
  const { XDG_RUNTIME_DIR: before } = process.env;
  try {
    process.env.XDG_RUNTIME_DIR = '/run/user/1';
    const isRoot = process.geteuid!() === 0;
    expect(defaultRunDirectory()).toBe(isRoot ? '/run/vlo' : '/run/user/1/vlo');
    delete process.env.XDG_RUNTIME_DIR;
    if (!isRoot) {
      expect(() => defaultRunDirectory()).toThrow(expect.objectContaining({ code: 'VLO_RUN_DIR' }));
    }
    expect(controlSocket('/a')).toBe('/a/control.sock');
  } finally {
    if (before !== undefined) process.env.XDG_RUNTIME_DIR = before;
  }
});
