/**
 * A supervised device process under a driver: no request is lost when it is killed or replaced.
 * The built files are used: the program of a device process lies beside its supervisor.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DeviceUnit, UnitEvents } from '../../src/hal/device-unit.js';
import { isAlive } from './vlo-process.js';

const built = (path: string): Promise<unknown> =>
  import(fileURLToPath(new URL(`../../dist/${path}`, import.meta.url)));
const { BlkDriver } = (await built(
  'devices/index.js',
)) as typeof import('../../src/devices/index.js');
const { parseConfig } = (await built('hal/config.js')) as typeof import('../../src/hal/config.js');
const hal = (await built('hal/device-unit.js')) as typeof import('../../src/hal/device-unit.js');

const BLOCK = 4096;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-unit-'));
  for (const name of ['a.img', 'b.img']) {
    writeFileSync(join(folder, name), '');
    truncateSync(join(folder, name), 256 * BLOCK);
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts a unit of the devices in a text, and waits until it serves. */
async function start(
  devices: string,
): Promise<{ unit: DeviceUnit; paths: string[]; lines: string[]; isGivenUp: () => boolean }> {
  const { devices: configs } = parseConfig(`devices: ${devices}`, join(folder, 'hal.yaml'));
  const members = configs.map((config) => ({
    config,
    socket: join(folder, `${config.name}.sock`),
  }));
  const lines: string[] = [];
  let isGivenUp = false;
  let unit!: DeviceUnit;
  await new Promise<void>((resolve) => {
    const events: UnitEvents = {
      log: (line) => lines.push(line),
      onServing: () => resolve(),
      onDeath: () => {},
      onGivenUp: () => {
        isGivenUp = true;
      },
    };
    unit = new hal.DeviceUnit(members, events);
    unit.start();
  });
  const paths = members.map(({ socket }) => socket);
  return { unit, paths, lines, isGivenUp: () => isGivenUp };
}

const connect = (path: string) => BlkDriver.connect({ path, reconnect: { limitMs: 20_000 } });
const block = (value: number): Uint8Array => new Uint8Array(BLOCK).fill(value);

test('requests in flight outlive the process, and so does what was written', async () => {
  const { unit, paths } = await start('{ disk: { type: blk, image: a.img } }');
  const disk = await connect(paths[0]!);
  await disk.write(0, block(1));
  for (let round = 1; round <= 3; round += 1) {
    const requests = Array.from({ length: 64 }, (_, index) =>
      disk.write((index + 1) * BLOCK, block(round + index)),
    );
    process.kill(unit.identity!.pid, 'SIGKILL');
    await Promise.all(requests);
    expect(unit.restartCount).toBe(round);
    for (let index = 0; index < 64; index += 1) {
      const bytes = await disk.read((index + 1) * BLOCK, new Uint8Array(BLOCK));
      expect(bytes).toEqual(block(round + index));
    }
  }
  expect(await disk.read(0, new Uint8Array(BLOCK))).toEqual(block(1));
  await disk.close();
  await unit.stop();
});

test('a restart lets requests wait, and ends the process before', async () => {
  const { unit, paths } = await start('{ disk: { type: blk, image: a.img } }');
  const disk = await connect(paths[0]!);
  const before = unit.identity!.pid;
  const restarted = unit.restart();
  await Promise.all([disk.write(0, block(5)), restarted]);
  expect(isAlive(before)).toBe(false);
  expect(await disk.read(0, new Uint8Array(BLOCK))).toEqual(block(5));
  expect(unit.restartCount).toBe(1);
  await disk.close();
  const last = unit.identity!.pid;
  await unit.stop();
  expect(isAlive(last)).toBe(false);
});

test('a driver that comes between two processes waits for the next', async () => {
  const { unit, paths } = await start('{ disk: { type: blk, image: a.img } }');
  process.kill(unit.identity!.pid, 'SIGKILL');
  const disk = await connect(paths[0]!);
  expect(disk.size).toBe(256 * BLOCK);
  await disk.close();
  await unit.stop();
});

test('devices of a group die and return together', async () => {
  const devices =
    '{ a: { type: blk, image: a.img, group: g }, b: { type: blk, image: b.img, group: g } }';
  const { unit, paths } = await start(devices);
  const disks = await Promise.all(paths.map(connect));
  const requests = disks.map((disk, index) => disk.write(0, block(index + 1)));
  process.kill(unit.identity!.pid, 'SIGKILL');
  await Promise.all(requests);
  for (const [index, disk] of disks.entries()) {
    expect(await disk.read(0, new Uint8Array(BLOCK))).toEqual(block(index + 1));
    await disk.close();
  }
  await unit.stop();
});

test('what it is given up for is what the process said last', async () => {
  const { unit, lines, isGivenUp } = await start(
    '{ disk: { type: blk, image: a.img, restart: { limit: 2, within: 10s } } }',
  );
  rmSync(join(folder, 'a.img'));
  process.kill(unit.identity!.pid, 'SIGKILL');
  await expect.poll(isGivenUp, { timeout: 10_000 }).toBe(true);
  expect(lines.filter((line) => line.includes('its process ended'))).toHaveLength(3);
  expect(lines.join('\n')).toContain('VLO_IMAGE_MISSING');
  expect(unit.identity).toBeNull();
  await unit.stop();
});
