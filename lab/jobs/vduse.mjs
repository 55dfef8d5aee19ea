/**
 * Disks over VDUSE: ours and qemu-storage-daemon's; adapters and device processes that are killed
 * under load; what VDUSE refuses. Nothing of it needs the module of this package.
 *
 *   npm run lab -- vduse --no-module [-- --only killed]
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { check, skip } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, checksum, folder, makeImage, serve, serveBlk, VLO } from './support/stand.mjs';
import { modprobe } from './support/system.mjs';

const MIB = 2 ** 20;
const IMAGE_SIZE = 64 * MIB;
const WORDS = ['--transport', 'vduse'];
const FIO_MS = 180_000;
/** An adapter that is taken down needs a process for `vdpa dev del`, in emulation too. */
const STOP_MS = 60_000;
const ROUNDS = 3;

/** Devices that the kernel has over VDUSE. */
const devices = () => [
  ...readdirSync('/dev/vduse').filter((name) => name !== 'control'),
  ...(existsSync('/sys/bus/vdpa/devices') ? readdirSync('/sys/bus/vdpa/devices') : []),
  ...(existsSync('/run/vlo-vduse') ? readdirSync('/run/vlo-vduse') : []),
];

const waitForNoDevices = () =>
  waitFor(() => devices().length === 0, `end of ${devices()}`, STOP_MS);

/** A device process, an adapter, and the disk that they make. */
class Disk {
  constructor(kind, { queues = 1, words = [], name = 'disk0' } = {}) {
    this.kind = kind;
    this.queues = queues;
    this.words = [...WORDS, '--name', name, ...words];
    this.place = folder('vduse');
    this.image = makeImage(join(this.place, 'disk.img'), IMAGE_SIZE);
    this.socket = join(this.place, 'socket');
  }

  async up() {
    await this.serve();
    await this.attach();
    if (!/^\/dev\/vd[a-z]$/.test(this.node ?? '')) throw new Error(`the node is '${this.node}'`);
    return this;
  }

  async serve() {
    this.device = await serveBlk(this.kind, this.socket, this.image, { queues: this.queues });
  }

  async attach() {
    const { program, node } = await attach('blk', this.socket, this.words);
    this.adapter = program;
    this.node = node;
  }

  async kill(program) {
    program.kill('SIGKILL');
    await program.ended;
  }

  async down() {
    const status = await this.adapter.stop('SIGTERM', STOP_MS);
    if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${this.adapter.stderr}`);
    await this.device.stop();
    await waitForNoDevices();
  }
}

/** fio writes at random and verifies, in the background. */
function startFio(node, { loops = 1, size = 1 } = {}) {
  return start([
    ...['fio', '--name=vduse', `--filename=${node}`, '--rw=randwrite', '--bs=4k', '--direct=1'],
    ...['--ioengine=libaio', '--iodepth=16', `--size=${size}M`, `--loops=${loops}`],
    ...['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64', '--output-format=json'],
  ]);
}

async function resultOf(fio) {
  const inTime = await Promise.race([fio.ended.then(() => true), sleep(FIO_MS, false)]);
  if (!inTime) throw new Error(`fio did not end within ${FIO_MS / 1000} s`);
  const text = fio.stdout.slice(fio.stdout.indexOf('{'));
  if (fio.status !== 0)
    throw new Error(`fio: ${fio.status} ${fio.stderr} ${fio.stdout.slice(0, 500)}`);
  const [job] = JSON.parse(text).jobs;
  if (job.error !== 0) throw new Error(`fio: error ${job.error}`);
  return job.read.total_ios + job.write.total_ios;
}

/** Requests that a disk has completed. */
async function completed(node) {
  const { stdout } = await run(['cat', `/sys/block/${node.replace('/dev/', '')}/stat`]);
  const words = stdout.trim().split(/\s+/).map(Number);
  return words[0] + words[4];
}

async function warm(disk, fio) {
  const before = await completed(disk.node);
  await waitFor(
    async () => fio.status !== null || (await completed(disk.node)) > before + 100,
    'requests of fio',
    60_000,
  );
  if (fio.status !== null) throw new Error(`fio ended before anything was done: ${fio.stderr}`);
}

/** A file system keeps a file over a remount, and the image is sound afterwards. */
async function keepFile(kind, options) {
  const disk = await new Disk(kind, options).up();
  const { node, image, place } = disk;
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
  const count = await resultOf(startFio(node));
  await run(['mkfs.ext4', '-q', '-F', node]);
  await disk.down();
  await run(['e2fsck', '-fn', image]);
  return `${node}, 8 MiB kept, ${count} requests of fio`;
}

/** The adapter is killed under load, and another one goes on. */
async function killAdapter(kind) {
  const disk = await new Disk(kind).up();
  const fio = startFio(disk.node, { loops: 4 });
  for (let round = 0; round < ROUNDS; round += 1) {
    await warm(disk, fio);
    await disk.kill(disk.adapter);
    await sleep(200);
    await disk.attach();
    if (!/took over/.test(disk.adapter.stderr)) throw new Error(disk.adapter.stderr);
  }
  const count = await resultOf(fio);
  await disk.down();
  return `${count} requests, ${ROUNDS} kills`;
}

/** The device process is killed under load, and another one goes on. */
async function killDevice() {
  const disk = await new Disk('ours').up();
  const fio = startFio(disk.node, { loops: 4 });
  for (let round = 0; round < ROUNDS; round += 1) {
    await warm(disk, fio);
    await disk.kill(disk.device);
    await disk.serve();
  }
  const count = await resultOf(fio);
  await disk.down();
  return `${count} requests, ${ROUNDS} kills`;
}

/**
 * A back end that keeps no in-flight memory: requests that are out fail, and the disk goes on.
 * @param {'adapter' | 'device'} victim
 */
async function killUntracked(victim) {
  const disk = await new Disk('qemu').up();
  const fio = startFio(disk.node, { loops: 8 });
  await warm(disk, fio);
  await disk.kill(disk[victim]);
  if (victim === 'device') await disk.serve();
  else await disk.attach();
  const inTime = await Promise.race([fio.ended.then(() => true), sleep(FIO_MS, false)]);
  if (!inTime) throw new Error('fio hangs');
  const count = await resultOf(startFio(disk.node));
  const failed = /(\d+) requests failed/.exec(disk.adapter.stderr)?.[1] ?? 'no';
  await disk.down();
  return `${failed} requests failed, fio ended with ${fio.status}; then ${count} requests`;
}

/** Both are killed at once. */
async function killBoth() {
  const disk = await new Disk('ours').up();
  const fio = startFio(disk.node, { loops: 4 });
  for (let round = 0; round < ROUNDS; round += 1) {
    await warm(disk, fio);
    await Promise.all([disk.kill(disk.adapter), disk.kill(disk.device)]);
    await disk.serve();
    await disk.attach();
  }
  const count = await resultOf(fio);
  await disk.down();
  return `${count} requests, ${ROUNDS} kills`;
}

/** The adapter is killed while the driver reads the partition table. */
async function killEarly() {
  const disk = new Disk('ours');
  await disk.serve();
  let kills = 0;
  for (const pause of [0, 30, 60, 100, 150, 200, 300]) {
    const words = ['attach', 'blk', '--backend', disk.socket, ...disk.words];
    const program = start([...VLO, ...words]);
    await waitFor(
      () => existsSync('/dev/vduse/disk0') || program.status !== null,
      'device',
      60_000,
    );
    await sleep(pause);
    await disk.kill(program);
    kills += 1;
  }
  await disk.attach();
  const count = await resultOf(startFio(disk.node));
  await disk.down();
  return `${kills} kills, then ${count} requests`;
}

/** Nobody serves the disk any more: requests fail, and the disk goes. */
async function loseDevice(kind) {
  const disk = await new Disk(kind).up();
  const fio = startFio(disk.node, { loops: 8 });
  await warm(disk, fio);
  await disk.kill(disk.device);
  await sleep(500);
  const status = await disk.adapter.stop('SIGTERM', STOP_MS);
  await waitForNoDevices();
  const inTime = await Promise.race([fio.ended.then(() => true), sleep(STOP_MS, false)]);
  if (!inTime) throw new Error('fio still waits');
  if (fio.status === 0) throw new Error('fio saw no error');
  return `vlo attach ended with ${status}, fio with ${fio.status}`;
}

/** Attaching fails, with a message that says what helps. */
async function refused(type, words, pattern) {
  const { status, stderr } = await run(
    [...VLO, 'attach', type, '--backend', '/nowhere', ...WORDS, ...words],
    { status: null },
  );
  if (status === 0 || !pattern.test(stderr)) throw new Error(`status ${status}: ${stderr}`);
  return stderr.trim();
}

/** Memory that VDUSE has not is refused, and the device process goes on. */
async function refuseDirect() {
  const disk = new Disk('ours', { words: ['--memory', 'direct'] });
  await disk.serve();
  const words = [...VLO, 'attach', 'blk', '--backend', disk.socket, ...disk.words];
  const { status, stderr } = await run(words, { status: null });
  if (status === 0 || !/VLO_OPTION_INVALID.*bounce/.test(stderr)) throw new Error(stderr);
  await disk.device.stop();
  return stderr.trim();
}

/** The same name twice at a time. */
async function sameName() {
  const disk = await new Disk('ours').up();
  const place = folder('second');
  const image = makeImage(join(place, 'disk.img'), IMAGE_SIZE);
  const socket = join(place, 'socket');
  const device = await serve('blk', socket, ['--blk-file', image]);
  const words = [...VLO, 'attach', 'blk', '--backend', socket, ...disk.words];
  const { status, stderr } = await run(words, { status: null });
  if (status === 0 || !/VLO_DEVICE_IN_USE/.test(stderr)) throw new Error(stderr);
  await device.stop();
  await disk.down();
  return stderr.trim();
}

/** Has qemu-storage-daemon do something. @param {string} path its monitor's socket */
function askMonitor(path, ...commands) {
  return new Promise((done, fail) => {
    const socket = createConnection(path);
    let text = '';
    socket.setEncoding('utf8').on('error', fail);
    socket.on('data', (part) => {
      text += part;
      if (/"error"/.test(text)) fail(new Error(text));
      if ((text.match(/"return"/g) ?? []).length === commands.length) done(socket.end());
    });
    for (const command of commands) socket.write(`${JSON.stringify(command)}\n`);
  });
}

/** The device tells of another size, and the driver reads it. */
async function grow() {
  const disk = new Disk('qemu');
  const monitor = join(disk.place, 'monitor');
  disk.device = start([
    ...['qemu-storage-daemon', '--chardev', `socket,id=m,path=${monitor},server=on,wait=off`],
    ...['--monitor', 'chardev=m'],
    ...['--blockdev', `driver=file,node-name=disk,filename=${disk.image}`, '--export'],
    `type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path=${disk.socket}`,
  ]);
  await waitFor(() => existsSync(disk.socket), 'socket of QEMU', 60_000);
  await disk.attach();
  const resize = { 'node-name': 'disk', size: 2 * IMAGE_SIZE };
  await askMonitor(
    monitor,
    { execute: 'qmp_capabilities' },
    { execute: 'block_resize', arguments: resize },
  );
  const size = join('/sys/block', disk.node.replace('/dev/', ''), 'size');
  const sectors = `${(2 * IMAGE_SIZE) / 512}`;
  await waitFor(() => readFileSync(size, 'utf8').trim() === sectors, 'larger disk', 30_000);
  await disk.down();
  return `${sectors} sectors`;
}

/** A HAL with a disk over VDUSE. */
async function bringUp() {
  const place = folder('hal');
  writeFileSync(
    join(place, 'hal.yaml'),
    'devices:\n  disk0: { type: blk, image: disk.img, size: 32MiB, transport: vduse }\n',
  );
  const words = ['--run-dir', join(place, 'run')];
  const hal = start([...VLO, 'up', join(place, 'hal.yaml'), ...words]);
  const ready = async () => {
    if (hal.status !== null) throw new Error(`vlo up ended: ${hal.stderr}`);
    const { stdout } = await run([...VLO, 'status', '--json', ...words], { status: null });
    const devices = stdout.startsWith('{') ? JSON.parse(stdout).devices : [];
    return devices.find(({ state }) => state === 'ready');
  };
  const { transport, presentation } = await waitFor(ready, 'device that is ready', 90_000);
  if (transport !== 'vduse') throw new Error(`the transport is '${transport}'`);
  const count = await resultOf(startFio(presentation));
  await run([...VLO, 'down', ...words]);
  if ((await hal.ended) !== 0) throw new Error(`vlo up ended with ${hal.status}: ${hal.stderr}`);
  await waitForNoDevices();
  return `${presentation}, ${count} requests`;
}

const CHECKS = [
  ['a file system on a disk of ours', () => keepFile('ours')],
  ['four queues', () => keepFile('ours', { queues: 4 })],
  ['packed rings', () => keepFile('ours', { words: ['--packed'] })],
  ['qemu-storage-daemon', () => keepFile('qemu')],
  ['the adapter is killed under load', () => killAdapter('ours')],
  ['the device process is killed under load', killDevice],
  ['both are killed under load', killBoth],
  ['the adapter is killed while the driver starts', killEarly],
  ['qemu-storage-daemon, the adapter is killed', () => killUntracked('adapter')],
  ['qemu-storage-daemon is killed', () => killUntracked('device')],
  ['nobody serves it any more', () => loseDevice('ours')],
  ['nobody serves it any more, qemu-storage-daemon', () => loseDevice('qemu')],
  ['the disk grows', grow],
  ['vlo up', bringUp],
  ['a name that is taken', sameName],
  ['a type that VDUSE refuses', () => refused('rng', [], /loopback/)],
  ['memory that VDUSE has not', refuseDirect],
];

export default async function job(words) {
  const { values } = parseArgs({
    args: words,
    options: { only: { type: 'string', default: '' } },
  });
  await check('without the modules, the error names them', async () => {
    const { status } = await run(['modprobe', '-n', 'vduse'], { status: null });
    if (status !== 0) skip('this kernel has no VDUSE');
    return refused('blk', [], /modprobe -a vduse virtio_vdpa/);
  });
  await check('the modules load', async () => {
    await modprobe('virtio_blk');
    await modprobe('-a', 'vduse', 'virtio_vdpa');
  });
  for (const [name, action] of CHECKS) {
    if (!new RegExp(values.only).test(name)) continue;
    await check(name, action, { timeout: 2 * FIO_MS });
  }
  await check('no device is left, and the modules go', async () => {
    await waitForNoDevices();
    await run(['rmmod', 'virtio_vdpa', 'vduse']);
  });
}
