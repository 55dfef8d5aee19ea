/**
 * Does it work at all: disks and entropy over each transport of the kernel, a HAL, and an adapter
 * that is stopped while I/O goes on.
 */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, skip } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import {
  attach,
  checksum,
  folder,
  makeImage,
  serve,
  serveBlk,
  VLO,
  waitForNoDevices,
} from './support/stand.mjs';
import { ARCH, insertModule, KERNEL, modprobe, removeModule } from './support/system.mjs';

const MIB = 2 ** 20;
const LOOPBACK = ['--transport', 'loopback'];
const IS_FOREIGN = ARCH !== 'x86-64';
/** A check on an architecture that is emulated from scratch: each start of Node takes seconds. */
const SLOW_MS = 200_000;

async function hasVduse() {
  const { status } = await run(['modprobe', '-n', 'vduse'], { status: null });
  return status === 0;
}

/** A file system on the disk keeps a file over a remount, and the image is sound afterwards. */
async function useDisk(kind, words) {
  const place = folder('disk');
  const image = makeImage(join(place, 'disk.img'), 64 * MIB);
  const socket = join(place, 'socket');
  const device = await serveBlk(kind, socket, image);
  const { program, node } = await attach('blk', socket, words);
  if (!/^\/dev\/vd[a-z]$/.test(node ?? '')) throw new Error(`the node is '${node}'`);
  const mount = join(place, 'mount');
  mkdirSync(mount);
  await run(['mkfs.ext4', '-q', node]);
  await run(['mount', '-t', 'ext4', node, mount]);
  const file = join(mount, 'file');
  await run(['dd', 'if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=8', 'status=none']);
  const before = await checksum(file);
  await run(['umount', mount]);
  await run(['mount', '-t', 'ext4', node, mount]);
  const after = await checksum(file);
  if (before !== after) throw new Error(`sha256 ${before} became ${after}`);
  await run(['umount', mount]);
  const status = await program.stop();
  if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${program.stderr}`);
  await device.stop();
  await run(['e2fsck', '-fn', image]);
  return `${node}, 8 MiB kept`;
}

/** What /dev/hwrng gives is what the device process was given. */
async function useRng(words) {
  const place = folder('rng');
  const source = join(place, 'source');
  writeFileSync(source, Buffer.alloc(4 * MIB, 0xa5));
  const socket = join(place, 'socket');
  const device = await serve('rng', socket, ['--filename', source]);
  const { program, node } = await attach('rng', socket, words);
  if (node !== '/dev/hwrng') throw new Error(`the node is '${node}'`);
  const copy = join(place, 'copy');
  await run(['dd', `if=${node}`, `of=${copy}`, 'bs=4096', 'count=4', 'status=none']);
  const bytes = readFileSync(copy);
  if (bytes.length !== 16384) throw new Error(`${bytes.length} bytes`);
  if (!bytes.every((byte) => byte === 0xa5))
    throw new Error('other bytes than those of the source');
  await program.stop();
  await device.stop();
  return '16 KiB from /dev/hwrng';
}

/** Requests go on while the adapter cannot run. */
async function stopAdapter() {
  const place = folder('stopped');
  const image = makeImage(join(place, 'disk.img'), 32 * MIB);
  const socket = join(place, 'socket');
  const device = await serveBlk('ours', socket, image);
  const { program, node } = await attach('blk', socket, LOOPBACK);
  program.kill('SIGSTOP');
  const { stdout } = await run([
    ...['fio', '--name=stopped', `--filename=${node}`, '--rw=randrw', '--bs=4k', '--iodepth=8'],
    ...['--ioengine=libaio', '--direct=1', '--io_size=4M', '--size=32M', '--verify=crc32c'],
    '--output-format=json',
  ]);
  const { total_ios: reads } = JSON.parse(stdout).jobs[0].read;
  program.kill('SIGCONT');
  await program.stop();
  await device.stop();
  return `${reads} reads with the adapter stopped`;
}

/** A HAL with both, transport auto. */
async function bringUp() {
  const place = folder('hal');
  writeFileSync(
    join(place, 'hal.yaml'),
    'devices:\n  disk0: { type: blk, image: disk.img, size: 32MiB }\n  rng0: { type: rng }\n',
  );
  const words = ['--run-dir', join(place, 'run')];
  const started = performance.now();
  const hal = start([...VLO, 'up', join(place, 'hal.yaml'), ...words]);
  // A program for each look would take most of the time.
  const status = () => {
    const path = join(place, 'run/status.json');
    return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).devices : [];
  };
  const devices = await waitFor(
    () => {
      const found = status();
      if (hal.status !== null) throw new Error(`vlo up ended: ${hal.stderr}`);
      return found.length === 2 && found.every(({ state }) => state === 'ready') ? found : null;
    },
    'two devices that are ready',
    SLOW_MS,
  );
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const found = devices.map(
    ({ name, transport, presentation }) => `${name} ${transport} ${presentation}`,
  );
  if (!devices.every(({ transport }) => transport === 'loopback'))
    throw new Error(found.join(', '));
  const { stdout } = await run([...VLO, 'status', '--json', ...words]);
  if (JSON.parse(stdout).devices.length !== 2) throw new Error(stdout);
  const { presentation: node } = devices.find(({ type }) => type === 'blk');
  await run([
    'dd',
    'if=/dev/urandom',
    `of=${node}`,
    'bs=1M',
    'count=4',
    'oflag=direct',
    'status=none',
  ]);
  const seen = await checksum(node);
  await run([...VLO, 'down', ...words]);
  if ((await hal.ended) !== 0) throw new Error(`vlo up ended with ${hal.status}: ${hal.stderr}`);
  if ((await checksum(join(place, 'disk.img'))) !== seen) throw new Error('the image differs');
  await waitForNoDevices();
  return `${found.join(', ')}; ready after ${seconds} s`;
}

const slowCheck = (name, action) => check(name, action, { timeout: SLOW_MS });

export default async function smoke() {
  await check('the module loads', async () => {
    await modprobe('virtio_blk');
    await modprobe('virtio_rng');
    await insertModule();
  });
  for (const memory of ['bounce', 'direct']) {
    const words = [...LOOPBACK, '--memory', memory];
    await slowCheck(`blk over loopback, ${memory}`, () => useDisk('ours', words));
    if (IS_FOREIGN && memory === 'direct') continue;
    await slowCheck(`blk of qemu-storage-daemon, ${memory}`, () => useDisk('qemu', words));
    await slowCheck(`rng over loopback, ${memory}`, () => useRng(words));
  }
  await slowCheck('blk over VDUSE', async () => {
    if (!(await hasVduse())) skip('this kernel has no VDUSE');
    // Our interrupts come as interrupts do; VDUSE's come from a workqueue, and it takes a plain
    // lock inside virtio_blk's. The two disks never share a lock, but lockdep knows only kinds.
    if (KERNEL.includes('-lab-debug')) skip('lockdep would take its locks for those of loopback');
    await modprobe('vduse');
    await modprobe('virtio_vdpa');
    return useDisk('ours', ['--transport', 'vduse']);
  });
  if (!IS_FOREIGN) await slowCheck('I/O goes on while the adapter is stopped', stopAdapter);
  await slowCheck('vlo up brings all up over loopback', bringUp);
  await slowCheck('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
