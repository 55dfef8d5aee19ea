/** The `vlo` command as users and QEMU meet it: output, exit status, descriptors, signals. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BlkDriver } from '../../src/devices/index.js';
import { ERROR_TABLE } from '../../src/errors.js';
import { connectUnix, type Fd, listenUnix } from '../../src/native/index.js';

const VLO = fileURLToPath(new URL('../../dist/bin/vlo.js', import.meta.url));
let folder: string;
let image: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-cli-'));
  image = join(folder, 'disk.img');
  writeFileSync(image, '');
  truncateSync(image, 1024 * 1024);
  writeFileSync(join(folder, 'odd.img'), 'odd');
});
afterAll(() => rmSync(folder, { recursive: true }));

class Vlo {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly ended: Promise<number | null>;

  constructor(args: readonly string[], fds: readonly number[] = []) {
    this.child = spawn(process.execPath, [VLO, ...args], {
      stdio: ['ignore', 'pipe', 'pipe', ...fds],
    });
    this.child.stdout!.on('data', (bytes) => {
      this.stdout += String(bytes);
    });
    this.child.stderr!.on('data', (bytes) => {
      this.stderr += String(bytes);
    });
    this.ended = new Promise((resolve) => this.child.on('close', resolve));
  }

  async ready(): Promise<this> {
    await expect.poll(() => this.stderr, { timeout: 10_000 }).toContain('ready on');
    return this;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal);
    return this.ended;
  }
}

async function run(
  ...args: string[]
): Promise<{ status: number | null; out: string; err: string }> {
  const vlo = new Vlo(args);
  const status = await vlo.ended;
  return { status, out: vlo.stdout, err: vlo.stderr };
}

const ATTACH = ['attach', 'rng', '--backend', 'S', '--run-dir', 'FOLDER'] as const;
const socket = (name: string): string => join(folder, `${name}.sock`);

test('help has examples, and version is the package’s', async () => {
  const help = await run('serve', 'blk', '--help');
  expect(help).toMatchObject({ status: 0, err: '' });
  expect(help.out).toContain('--blk-file <path>');
  expect(help.out).toContain('Examples:');
  expect(await run('--version')).toMatchObject({ status: 0, out: '0.1.0\n' });
  expect((await run('serve', '--help')).out).toContain('random bytes');
});

test('help lists all commands, and each has its own', async () => {
  const { status, out, err } = await run('--help');
  expect([status, err]).toEqual([0, '']);
  const commands = ['up', 'down', 'status', 'restart', 'attach', 'serve', 'doctor', 'completion'];
  for (const command of commands) expect(out).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
  // Without a command the same text is an error.
  expect(await run()).toMatchObject({ status: 2, out: '', err: expect.stringContaining(out) });
  for (const command of commands) {
    const help = await run(command, '--help');
    expect(help).toMatchObject({ status: 0, err: '' });
    expect(help.out).toContain(`Usage: vlo ${command} `);
    expect((await run('help', command)).out).toBe(help.out);
  }
});

test('completion prints a script that bash takes', async () => {
  const { status, out, err } = await run('completion', 'bash');
  expect([status, err]).toEqual([0, '']);
  const script = `${out}\ncomplete -p vlo`;
  const bash = spawnSync('bash', ['--norc', '--noprofile'], { input: script, encoding: 'utf8' });
  expect(bash).toMatchObject({ status: 0, stdout: 'complete -F _vlo vlo\n', stderr: '' });
});

test('a word that is nearly a command', async () => {
  for (const [word, meant] of [
    ['stats', 'status'],
    ['serv', 'serve'],
    ['dokter', 'doctor'],
  ]) {
    const { status, err } = await run(word!);
    expect(status).toBe(2);
    expect(err).toContain(`vlo: VLO_USAGE: unknown command '${word}'\n(Did you mean ${meant}?)`);
  }
  expect((await run('nonsense')).err).toContain("vlo: VLO_USAGE: unknown command 'nonsense'\n");
});

test('capabilities are printed as JSON, whatever else is asked for', async () => {
  const { status, out } = await run('serve', 'blk', '--print-capabilities', '--fd', '77');
  expect(status).toBe(0);
  expect(JSON.parse(out)).toEqual({ type: 'block', features: ['read-only', 'blk-file'] });
  const rng = await run('serve', 'rng', '--print-capabilities');
  expect(JSON.parse(rng.out)).toEqual({ type: 'rng', features: [] });
});

test.each([
  [2, 'VLO_USAGE', []],
  [2, 'VLO_USAGE', ['serve']],
  [2, 'VLO_USAGE', ['bogus']],
  [2, 'VLO_USAGE', ['serve', 'blk', '--bogus']],
  [2, 'VLO_USAGE', ['serve', 'blk', '--blk-file', 'IMAGE']],
  [2, 'VLO_USAGE', ['serve', 'blk', '-s', 'S', '--fd', '3', '--blk-file', 'IMAGE']],
  [2, 'VLO_USAGE', ['serve', 'blk', '-s', 'S', '--blk-file', 'IMAGE', '--poll-us', 'often']],
  [2, 'VLO_USAGE', ['serve', 'blk', '-s', 'S', '--blk-file', 'IMAGE', 'extra']],
  [2, 'VLO_DEVICE_UNKNOWN', ['serve', 'floppy']],
  [2, 'VLO_OPTION_INVALID', ['serve', 'blk', '-s', 'S']],
  [2, 'VLO_OPTION_INVALID', ['serve', 'blk', '-s', 'S', '-b', 'IMAGE', '--num-queues', '0']],
  [2, 'VLO_OPTION_INVALID', ['serve', 'blk', '-s', 'S', '-b', 'IMAGE', '--num-queues', 'x']],
  [1, 'VLO_IMAGE_MISSING', ['serve', 'blk', '-s', 'S', '-b', 'FOLDER/none']],
  [2, 'VLO_IMAGE_TYPE', ['serve', 'blk', '-s', 'S', '-b', 'FOLDER']],
  [2, 'VLO_IMAGE_SIZE', ['serve', 'blk', '-s', 'S', '-b', 'FOLDER/odd.img']],
  [1, 'VLO_SOURCE_ACCESS', ['serve', 'input', '-s', 'S', '--no-grab', '-p', 'FOLDER/none']],
  [1, 'VLO_SOURCE_ACCESS', ['serve', 'rng', '-s', 'S', '-f', 'FOLDER/none']],
  [2, 'VLO_SOCKET_PATH', ['serve', 'rng', '-s', 'FOLDER/none/s']],
  [2, 'VLO_SOCKET_PATH', ['serve', 'rng', '-s', 'IMAGE']],
  [2, 'VLO_SOCKET_FD', ['serve', 'rng', '--fd', '77']],
  [2, 'VLO_USAGE', ['up', '--bogus']],
  [2, 'VLO_USAGE', ['up', 'a.yaml', 'b.yaml']],
  [2, 'VLO_USAGE', ['completion']],
  [2, 'VLO_USAGE', ['completion', 'tcsh']],
  [2, 'VLO_USAGE', ['completion', 'bash', 'zsh']],
  [2, 'VLO_USAGE', ['restart']],
  [2, 'VLO_USAGE', ['attach']],
  [2, 'VLO_USAGE', ['attach', 'rng']],
  [2, 'VLO_USAGE', ['attach', 'rng', '--backend', 'S', '--transport', 'pigeon']],
  [2, 'VLO_USAGE', ['attach', 'rng', '--backend', 'S', '--name', '../x']],
  [2, 'VLO_USAGE', [...ATTACH, '--memory', 'all']],
  [2, 'VLO_USAGE', [...ATTACH, '--pool-size', 'x']],
  [2, 'VLO_USAGE', [...ATTACH, '--queue-size', '0']],
  [2, 'VLO_USAGE', [...ATTACH, '--takeover', '601']],
  [2, 'VLO_DEVICE_UNKNOWN', ['attach', 'floppy', '--backend', 'S']],
  [1, 'VLO_TRANSPORT_UNAVAILABLE', ['attach', 'fs', '--backend', 'S', '--transport', 'user']],
  [1, 'VLO_TRANSPORT_UNAVAILABLE', [...ATTACH, '--transport', 'loopback']],
  [1, 'VLO_TRANSPORT_UNAVAILABLE', [...ATTACH, '--transport', 'vduse']],
  [1, 'VLO_DISCONNECTED', ATTACH],
  [1, 'VLO_RUN_DIR', ['attach', 'rng', '--backend', 'S', '--run-dir', 'IMAGE']],
] as const)('status %i and %s: vlo %j', async (status, code, args) => {
  const words = args.map((word) =>
    word === 'S' ? socket('bad') : word.replace('IMAGE', image).replace('FOLDER', folder),
  );
  const result = await run(...words);
  const isHelp = words.length === 0;
  expect(result.err).toContain(isHelp ? 'Usage: vlo' : `vlo: ${code}: `);
  expect(result.status).toBe(status);
  expect(ERROR_TABLE[code].exitStatus).toBe(status);
  expect(existsSync(socket('bad'))).toBe(false);
});

test.each(['SIGTERM', 'SIGINT'] as const)(
  '%s ends it with status 0, nothing left',
  async (signal) => {
    const path = socket('ends');
    const vlo = await new Vlo(['serve', 'blk', '-s', path, '-b', image]).ready();
    expect(vlo.stderr).toBe(`vlo: blk: ready on ${path}\n`);
    const second = await run('serve', 'rng', '-s', path);
    expect(second).toMatchObject({ status: 1 });
    expect(second.err).toContain('VLO_SOCKET_IN_USE');
    expect(await vlo.stop(signal)).toBe(0);
    expect(vlo.stdout).toBe('');
    expect(existsSync(path)).toBe(false);
  },
);

test('a socket left behind by SIGKILL is taken over', async () => {
  const path = socket('left');
  await (await new Vlo(['serve', 'rng', '-s', path]).ready()).stop('SIGKILL');
  expect(existsSync(path)).toBe(true);
  expect(await (await new Vlo(['serve', 'rng', '-s', path]).ready()).stop()).toBe(0);
});

async function useDisk(path: string): Promise<void> {
  const driver = await BlkDriver.connect({ path });
  await driver.write(4096, new Uint8Array(512).fill(7));
  const bytes = new Uint8Array(512);
  await driver.read(4096, bytes);
  expect(bytes.every((byte) => byte === 7)).toBe(true);
  await driver.close();
}

test('--fd takes a listening socket, and --trace shows the messages', async () => {
  const path = socket('handed');
  const listener = listenUnix(path);
  const args = ['serve', 'blk', '--fd', '3', '-b', image, '--trace'];
  const vlo = await new Vlo(args, [listener.number]).ready();
  listener.close();
  for (let i = 0; i < 2; i += 1) await useDisk(path);
  expect(vlo.stderr).toContain('< GET_FEATURES');
  expect(vlo.stderr).toMatch(/> GET_FEATURES reply value=0x[0-9a-f]+ \(.*RING_PACKED/);
  expect(await vlo.stop()).toBe(0);
});

test('--fd takes a connected socket, and ends when its peer leaves', async () => {
  const path = socket('pair');
  const listener = listenUnix(path);
  const client: Fd = connectUnix(path);
  const vlo = await new Vlo(['serve', 'rng', '--fd', '3'], [client.number]).ready();
  client.close();
  listener.close();
  expect(await vlo.ended).toBe(0);
});

test('attach shows a back end that somebody else runs, and leaves it alone', async () => {
  const path = socket('theirs');
  const server = await new Vlo(['serve', 'rng', '-s', path]).ready();
  const runDir = join(folder, 'attached');
  const args = ['attach', 'rng', '--backend', path, '--run-dir', runDir, '--name', 'rng7'];
  const vlo = new Vlo(args);
  await expect.poll(() => vlo.stderr, { timeout: 10_000 }).toContain('vlo: rng: ready at ');
  const random = join(runDir, 'rng7', 'random');
  expect(vlo.stderr).toContain(random);
  const file = await open(random, 'r');
  expect((await file.read(Buffer.alloc(100), 0, 100)).bytesRead).toBeGreaterThan(0);
  await file.close();
  const taken = await run(...args);
  expect([taken.status, taken.err]).toEqual([1, expect.stringContaining('vlo: VLO_RUN_DIR: ')]);
  expect(await vlo.stop()).toBe(0);
  expect(readdirSync(runDir)).toEqual([]);
  expect(await server.stop()).toBe(0);
});
