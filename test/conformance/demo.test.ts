/** `vlo demo` as users meet it: it verifies, tells when something is wrong, leaves nothing. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DemoOptions } from '../../src/hal/demo.js';
import { thisMachine } from '../../src/hal/doctor-machine.js';
import { mountsBelow, Program, VLO } from './vlo-process.js';

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url));
const { runDemo } = (await import(
  join(DIST, 'hal/demo.js')
)) as typeof import('../../src/hal/demo.js');

let folder: string;
let lines: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-demo-test-'));
  lines = [];
});
afterEach(() => {
  expect(mountsBelow(folder)).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
  rmSync(folder, { recursive: true });
});

/** What is started in here has the test's folder for what is temporary. */
function inFolder<T>(begin: () => T): T {
  const before = process.env.TMPDIR;
  process.env.TMPDIR = folder;
  try {
    return begin();
  } finally {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  }
}

const start = (...args: string[]): Program =>
  inFolder(() => new Program(VLO, ['demo', ...args], folder));

/** The demonstration in this process. */
function run(options: Partial<DemoOptions>): Promise<void> {
  const begin = (): Promise<void> =>
    runDemo({
      onStep: (isGood, _seconds, text) => lines.push(`${isGood ? 'ok' : 'FAIL'} ${text}`),
      onText: (line) => lines.push(line),
      ...options,
    });
  return inFolder(begin);
}

/** This machine without mounting. */
const unmountable = { ...thisMachine(), exists: (path: string) => !path.endsWith('/losetup') };

function expectVerified(out: string): void {
  expect(out).toMatch(
    /^verified: every checksum(?: and the file system)?, twice killed, nothing left; [\d.]+ s$/m,
  );
  expect(out).toMatch(/ 2 kills, 2 restarts, no request failed$/m);
  expect(out).toMatch(/^ {2}LAYER +REQUESTS +READ +WRITTEN +ERRORS +RESTARTS$/m);
  expect(out).toMatch(/^ {2}read 4 KiB, here and there +\d+ +\d+ MiB\/s +[\d.]+ [um]s/m);
}

test('vlo demo verifies all in time, and leaves nothing', async () => {
  const startedAt = Date.now();
  const program = start();
  expect([await program.ended, program.stderr]).toEqual([0, '']);
  expect(Date.now() - startedAt).toBeLessThan(30_000);
  expectVerified(program.stdout);
  expect(program.stdout).not.toContain('\x1b');
  const widths = program.stdout.split('\n').map((line) => line.length);
  expect(Math.max(...widths)).toBeLessThanOrEqual(80);
});

test('where nothing can be mounted, the files go to the disk itself', async () => {
  await run({ machine: unmountable });
  expectVerified(lines.join('\n'));
  expect(lines.join('\n')).toMatch(/no file system: /);
});

test('without FUSE the driver is used', async (context) => {
  const hide = ['--mount', 'sh', '-c', 'mount --bind /dev/null /dev/fuse && exec "$@"', 'sh'];
  const command = [process.execPath, VLO, 'demo'];
  if (spawnSync('unshare', [...hide, 'true']).status !== 0) {
    context.skip('FUSE cannot be hidden: unshare --mount is not permitted');
  }
  const child = inFolder(() =>
    spawnSync('unshare', [...hide, ...command], { encoding: 'utf8', timeout: 40_000 }),
  );
  expect([child.status, child.stderr]).toEqual([0, '']);
  expectVerified(child.stdout);
  expect(child.stdout).toContain('no FUSE file: ');
  expect(child.stdout).toContain('disk0, its driver');
});

/** Changes one byte of a stored file behind everybody's back. */
async function corrupt(image: string): Promise<void> {
  const bytes = readFileSync(image);
  const at = bytes.indexOf(readFileSync(join(DIST, 'hal/demo-tree.js')).subarray(0, 400));
  expect(at).toBeGreaterThan(0);
  bytes[at + 100]! ^= 1;
  writeFileSync(image, bytes, { flag: 'r+' });
}

test.each([
  ['as mounted', thisMachine()],
  ['not mounted', unmountable],
])('one wrong byte is found, %s', async (_name, machine) => {
  await expect(run({ machine, afterWriting: corrupt })).rejects.toMatchObject({
    code: 'VLO_DEMO_FAILED',
    message: expect.stringMatching(
      /^step 'verify files': the checksum of 'package\/hal\/demo-tree.js' is not that/,
    ),
  });
  expect(lines).toContain('FAIL verify files');
  expect(lines.at(-1)).toContain('ok all is down');
});

test.each(['up', 'collected', 'PID', 'wrote'])('interrupted after "%s"', async (text) => {
  const program = start();
  const word = text === 'PID' ? 'device process' : text;
  await expect.poll(() => program.stdout, { interval: 1, timeout: 30_000 }).toContain(word);
  program.child.kill('SIGINT');
  program.child.kill('SIGINT');
  expect(await program.ended).toBe(1);
  expect(program.stderr).toMatch(/^vlo: VLO_DEMO_FAILED: step '[\w ]+': interrupted\n$/);
  expect(program.stdout).toContain('all is down');
});

test('--keep keeps the folder, and says where', async () => {
  const program = start('--keep');
  expect(await program.ended).toBe(0);
  const path = /kept:\s+(\S+)/.exec(program.stdout)![1]!;
  expect(readdirSync(path).sort()).toEqual(expect.arrayContaining(['disk.img', 'run']));
  expect(readdirSync(join(path, 'run'))).toEqual(['lock']);
  rmSync(path, { recursive: true });
});
