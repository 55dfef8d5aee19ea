/** `vlo up` and those that talk to it, as users meet them: a HAL from its start to its end. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HalFolder, isAlive, mountsBelow, pidsOf, VLO } from './vlo-process.js';

const DISK0 = 'disk0: { type: blk, image: a.img, size: 1MiB }';
const DISK1 = 'disk1: { type: blk, image: b.img, size: 2MiB }';
const RNG0 = 'rng0: { type: rng }';
/** A third party's program: ours, as others would run it. */
const serveRng = (name: string, more = ''): string =>
  `${name}: { type: rng, command: ["${process.execPath}", "${VLO}", serve, rng, -s, ` +
  `"{socket}"]${more} }`;

let hal: HalFolder;
beforeEach(() => {
  hal = new HalFolder();
});
afterEach(() => hal.remove());

/** Nothing but the lock's file is left of a HAL that ended. */
function expectNothingLeft(pids: readonly number[]): void {
  expect(pids.filter(isAlive)).toEqual([]);
  expect(mountsBelow(hal.path)).toEqual([]);
  expect(readdirSync(hal.runDir)).toEqual(['lock']);
}

test('devices come up, tell how they do, and go down', async () => {
  const up = await hal.up([DISK0, DISK1, RNG0]);
  expect(up.stderr).toContain(`vlo: up: 3 devices, run directory ${hal.runDir}\n`);
  const status = await hal.status();
  expect(status).toMatchObject({ format: 1, pid: up.child.pid, runDirectory: hal.runDir });
  expect(status.config).toBe('hal.yaml');
  expect(status.devices.map(({ name, type }) => `${name} ${type}`)).toEqual([
    'disk0 blk',
    'disk1 blk',
    'rng0 rng',
  ]);
  for (const device of status.devices) {
    expect(device).toMatchObject({ state: 'ready', transport: 'user', queues: 1, restarts: 0 });
    expect(device.backEnd).toMatchObject({ kind: 'own', group: null });
    expect(existsSync(device.backEnd.socket)).toBe(true);
    // Where there is no FUSE a note says so, and a disk is not shown.
    expect(device.presentation !== null || device.note?.includes('no FUSE')).toBe(true);
    expect(device.uptimeMs).toBeGreaterThan(0);
  }
  const pids = pidsOf(status);
  expect(new Set(pids).size).toBe(3);
  expect(pids.every(isAlive)).toBe(true);
  const written = JSON.parse(readFileSync(hal.file('run/status.json'), 'utf8'));
  expect(pidsOf(written)).toEqual(pids);
  const table = await hal.ask('status');
  expect(table).toMatchObject({ status: 0, err: '' });
  expect(table.out).toMatch(/^NAME +TYPE +STATE +TRANSPORT.*\ndisk0 +blk +ready +user /);
  expect(await hal.ask('down')).toEqual({ status: 0, out: '', err: '' });
  expect(await up.ended).toBe(0);
  expectNothingLeft(pids);
});

test.each(['SIGTERM', 'SIGINT'] as const)('%s takes all down', async (signal) => {
  const up = await hal.up([DISK0, RNG0]);
  const pids = pidsOf(await hal.status());
  expect(await up.stop(signal)).toBe(0);
  expect(up.stdout).toBe('');
  expectNothingLeft(pids);
});

test('a signal while devices start leaves nothing', async () => {
  hal.write([DISK0, DISK1, RNG0]);
  for (const delayMs of [0, 25, 50, 75, 100]) {
    const up = hal.start('up', '--run-dir', hal.runDir);
    await expect.poll(() => existsSync(hal.file('run/control.sock')), { interval: 2 }).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    expect(await up.stop()).toBe(0);
    expectNothingLeft([]);
  }
});

test('restart replaces the process of one device, which keeps its data', async () => {
  await hal.up([DISK0, RNG0]);
  const [before, other] = (await hal.status()).devices;
  const path = before!.presentation;
  const disk = path === null ? null : await open(path, 'r+');
  await disk?.write(Buffer.alloc(4096, 7), 0, 4096, 8192);
  expect(await hal.ask('restart', 'disk0')).toEqual({ status: 0, out: '', err: '' });
  const bytes = Buffer.alloc(4096);
  await disk?.read(bytes, 0, 4096, 8192);
  await disk?.close();
  expect(bytes.every((byte) => byte === (disk === null ? 0 : 7))).toBe(true);
  await expect
    .poll(async () => (await hal.device('disk0')).state, { timeout: 10_000 })
    .toBe('ready');
  const after = await hal.device('disk0');
  expect(after.restarts).toBe(1);
  expect(after.backEnd.process!.pid).not.toBe(before!.backEnd.process!.pid);
  expect(isAlive(before!.backEnd.process!.pid)).toBe(false);
  expect((await hal.device('rng0')).backEnd.process).toEqual(other!.backEnd.process);
});

test('a process that is killed is replaced, and whoever reads and writes does not notice', async () => {
  await hal.up([DISK0, RNG0]);
  const status = await hal.status();
  const [path, random] = status.devices.map(({ presentation }) => presentation);
  // Without FUSE disks are not shown: DeviceUnit's own test has their requests.
  const disk = path === null ? null : await open(path!, 'r+');
  const entropy = await open(random!, 'r');
  for (let round = 1; round <= 2; round += 1) {
    const writes = Array.from({ length: 32 }, (_, index) =>
      disk?.write(Buffer.alloc(4096, round + index), 0, 4096, index * 4096),
    );
    for (const pid of pidsOf(await hal.status())) process.kill(pid, 'SIGKILL');
    await Promise.all(writes);
    await disk?.sync();
    const { bytesRead } = await entropy.read(Buffer.alloc(1000), 0, 1000);
    expect(bytesRead).toBeGreaterThan(0);
    await expect
      .poll(async () => (await hal.status()).devices.map((d) => `${d.state} ${d.restarts}`), {
        timeout: 10_000,
      })
      .toEqual([`ready ${round}`, `ready ${round}`]);
    for (let index = 0; disk !== null && index < 32; index += 1) {
      const { buffer } = await disk.read(Buffer.alloc(4096), 0, 4096, index * 4096);
      expect(buffer.every((byte) => byte === round + index)).toBe(true);
    }
  }
  await disk?.close();
  await entropy.close();
  if (disk !== null) expect(readFileSync(hal.file('a.img'))[4096]).toBe(3);
});

test('devices of a group share a process, and one restart is for all', async () => {
  const names = ['a', 'b', 'c', 'd', 'e'];
  await hal.up(names.map((name) => `${name}: { type: rng, group: all }`));
  const before = await hal.status();
  expect(new Set(pidsOf(before)).size).toBe(1);
  expect(before.devices.every(({ backEnd }) => backEnd.group === 'all')).toBe(true);
  expect((await hal.ask('restart', 'c')).status).toBe(0);
  await expect
    .poll(async () => (await hal.status()).devices.map((d) => `${d.state} ${d.restarts}`))
    .toEqual(names.map(() => 'ready 1'));
  expect(pidsOf(await hal.status())[0]).not.toBe(pidsOf(before)[0]);
});

test('when vlo up is killed its processes end, and the next one cleans up', async () => {
  const up = await hal.up([DISK0, RNG0, serveRng('other')]);
  const pids = pidsOf(await hal.status());
  await up.stop('SIGKILL');
  // Those of our own end by themselves; a third party's waits for the next HAL.
  await expect.poll(() => pids.slice(0, 2).filter(isAlive), { timeout: 2000 }).toEqual([]);
  const next = await hal.up();
  expect(isAlive(pids[2]!)).toBe(false);
  expect(next.stderr).toContain(`ending process ${pids[2]},`);
  const status = await hal.status();
  expect(status.devices.map(({ state }) => state)).toEqual(['ready', 'ready', 'ready']);
  expect(await next.stop()).toBe(0);
  expectNothingLeft(pidsOf(status));
});

test('two HALs live side by side, but not in one run directory', async () => {
  await hal.up([DISK0, RNG0]);
  hal.write([RNG0], 'more.yaml');
  const second = await hal.run('up', 'more.yaml', '--run-dir', hal.runDir);
  expect(second).toMatchObject({ status: 1, out: '' });
  expect(second.err).toContain('vlo: VLO_HAL_RUNNING: ');
  const other = hal.start('up', 'more.yaml', '--run-dir', hal.file('run2'));
  await other.says('up: 1 devices');
  const [one, two] = [await hal.status(), await hal.status(hal.file('run2'))];
  expect(one.devices.map(({ state }) => state)).toEqual(['ready', 'ready']);
  expect(two.devices.map(({ state }) => state)).toEqual(['ready']);
  expect(await other.stop()).toBe(0);
  expect((await hal.device('rng0')).state).toBe('ready');
});

test('a third party’s program is run, and replaced when it dies', async () => {
  await hal.up([serveRng('other')]);
  const before = await hal.device('other');
  expect(before).toMatchObject({ state: 'ready', backEnd: { kind: 'command' } });
  process.kill(before.backEnd.process!.pid, 'SIGKILL');
  await expect.poll(async () => (await hal.device('other')).restarts, { timeout: 10_000 }).toBe(1);
  await expect
    .poll(async () => (await hal.device('other')).state, { timeout: 10_000 })
    .toBe('ready');
});

test('a back end that is not there yet is waited for, and Ctrl-C does not wait', async () => {
  hal.write(['late: { type: rng, backend: late.sock }']);
  const up = hal.start('up', '--run-dir', hal.runDir);
  await up.says('late: waiting for it');
  const server = hal.start('serve', 'rng', '-s', hal.file('late.sock'));
  await up.says('up: 1 devices');
  const { backEnd, state } = await hal.device('late');
  expect([state, backEnd.process]).toEqual(['ready', null]);
  await server.stop('SIGKILL');
  await expect.poll(async () => (await hal.device('late')).state).toBe('waiting');
  expect(await up.stop()).toBe(0);
  rmSync(hal.file('late.sock'));
  const again = hal.start('up', '--run-dir', hal.runDir);
  await again.says('late: waiting for it');
  const startedAt = Date.now();
  expect(await again.stop()).toBe(0);
  expect(Date.now() - startedAt).toBeLessThan(1000);
});

test.each([
  ['false', 'status 1'],
  ['/no/such/program', 'ENOENT'],
])('a device whose program is %s is given up', async (program, reason) => {
  const restart = 'restart: { limit: 2, within: 10s }';
  hal.write([RNG0, `bad: { type: rng, command: ["${program}", "{socket}"], ${restart} }`]);
  const { status, err } = await hal.run('up', '--run-dir', hal.runDir);
  expect(status).toBe(1);
  expect(err.match(/bad: its process ended/g)).toHaveLength(3);
  expect(err).toMatch(
    new RegExp(`vlo: VLO_DEVICE_START: the process of bad died too often.*${reason}`),
  );
  expectNothingLeft([]);
});

test('a device that is given up fails alone, and restart brings it back', async () => {
  const up = await hal.up([RNG0, DISK0.replace(' }', ', restart: never }')]);
  const { backEnd } = await hal.device('disk0');
  rmSync(hal.file('a.img'));
  process.kill(backEnd.process!.pid, 'SIGKILL');
  await up.says('VLO_DEVICE_START');
  const failed = await hal.device('disk0');
  expect(failed).toMatchObject({ state: 'failed', backEnd: { process: null } });
  expect(failed.note).toMatch(/^VLO_DEVICE_START: the process of disk0 died too often.*SIGKILL/);
  if (failed.presentation !== null) {
    const disk = await open(failed.presentation, 'r').catch(() => null);
    await expect(disk?.read(Buffer.alloc(512), 0, 512, 4096) ?? Promise.reject()).rejects.toThrow();
    await disk?.close();
  }
  expect((await hal.device('rng0')).state).toBe('ready');
  writeFileSync(hal.file('a.img'), Buffer.alloc(1024 * 1024, 9));
  expect((await hal.ask('restart', 'disk0')).status).toBe(0);
  await expect
    .poll(async () => (await hal.device('disk0')).state, { timeout: 10_000 })
    .toBe('ready');
  expect((await hal.device('disk0')).note ?? 'no FUSE').toContain('no FUSE');
  expect(await up.stop()).toBe(0);
});

test('mistakes in the file are told with their place', async () => {
  hal.write(['disk0: { type: blk, imgae: a.img }', 'r: { type: rnd }', RNG0]);
  const { status, err } = await hal.run('up', '--run-dir', hal.runDir);
  expect(status).toBe(2);
  expect(err).toMatch(/hal\.yaml:2:\d+: VLO_CONFIG_KEY: unknown key 'imgae'/);
  expect(err).toMatch(/hal\.yaml:3:\d+: VLO_DEVICE_UNKNOWN: /);
  expect(existsSync(hal.runDir)).toBe(false);
  const missing = await hal.run('up', 'none.yaml', '--run-dir', hal.runDir);
  expect(missing).toMatchObject({ status: 2 });
  expect(missing.err).toContain("vlo: VLO_CONFIG_MISSING: the file of devices 'none.yaml'");
});

test('a run directory that cannot be used', async () => {
  hal.write([RNG0]);
  writeFileSync(hal.runDir, 'a file');
  const { status, err } = await hal.run('up', '--run-dir', hal.runDir);
  expect([status, err]).toEqual([1, expect.stringContaining('vlo: VLO_RUN_DIR: ')]);
  const long = await hal.run('up', '--run-dir', hal.file('x'.repeat(120)));
  expect([long.status, long.err]).toEqual([1, expect.stringContaining('vlo: VLO_RUN_DIR: ')]);
});

test.each([['status'], ['status', '--json'], ['down'], ['restart', 'disk0']])(
  'without a HAL: vlo %s %s',
  async (...args) => {
    const { status, out, err } = await hal.ask(args[0]!, ...args.slice(1).filter(Boolean));
    expect([status, out, err]).toEqual([
      1,
      '',
      expect.stringContaining('vlo: VLO_HAL_NOT_RUNNING'),
    ]);
  },
);

test('a name that no device has', async () => {
  await hal.up([RNG0]);
  const { status, err } = await hal.ask('restart', 'disk7');
  expect(status).toBe(2);
  expect(err).toBe("vlo: VLO_NAME_UNKNOWN: there is no device 'disk7'; there are rng0\n");
});

test('a transport that is not there', async () => {
  hal.write([RNG0.replace(' }', ', transport: vduse }')]);
  const { status, err } = await hal.run('up', '--run-dir', hal.runDir);
  expect([status, err]).toEqual([1, expect.stringContaining('VLO_TRANSPORT_UNAVAILABLE')]);
  expectNothingLeft([]);
});
