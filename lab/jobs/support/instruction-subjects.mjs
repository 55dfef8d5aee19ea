/** The disks of the job `instructions`: what serves each, and how the kernel comes by it. */

import { existsSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fill, NullBlock } from '../../../dist/evaluate/null-block.js';
import { skip } from './checks.mjs';
import { BASE, OURS } from './instruction-figures.mjs';
import { run, start } from './programs.mjs';
import { attach, folder, makeImage, serve, serveWithQemu } from './stand.mjs';
import { insertModule, MODULE, modprobe, RUN } from './system.mjs';
import { exportOverVduse } from './vduse-export.mjs';

export const SIZE = 32 * 2 ** 20;
const READY_MS = 60_000;
/** The processor of the device process and its adapter; fio has the other, if there is one. */
const DEVICE_PROCESSOR = cpus().length > 1 ? '1' : '0';

/** The processes behind a disk that is altogether in the kernel. */
const NO_PROCESS = { device: null, adapter: null };

/** An image without holes, in memory: to read a hole costs less. */
function fullImage(place) {
  const image = makeImage(join(place, 'disk.img'), SIZE);
  fill(image, SIZE);
  return image;
}

/** All threads that there are; those that they start later inherit it. */
const pin = ({ pid }) =>
  run(['taskset', '--all-tasks', '--cpu-list', '-p', DEVICE_PROCESSOR, `${pid}`]);

async function attached(id, kind, words, storage) {
  const place = folder(id);
  const socket = join(place, 'socket');
  const image = fullImage(place);
  const device =
    kind === 'qemu'
      ? await serveWithQemu(socket, image, { storage })
      : await serveOurs(socket, image);
  const { program: adapter, node } = await attach('blk', socket, [...words, '--name', id]);
  await pin(device);
  await pin(adapter);
  return { node, processes: { device: device.pid, adapter: adapter.pid } };
}

/**
 * It does not look at its ring before it sleeps: that takes no work from a request, and by this
 * clock 200,000 instructions for each at depth 1.
 */
const serveOurs = (socket, image) => serve('blk', socket, ['--blk-file', image, '--poll-us', '0']);

async function native(id, storage) {
  const { program, node } = await exportOverVduse(id, fullImage(folder(id)), storage);
  await pin(program);
  return { node, processes: { device: program.pid, adapter: null } };
}

/** The smallest server for ublk: Debian packages none. */
async function overUblk(id) {
  const program = start([join(RUN, 'ublk-server'), fullImage(folder(id))]);
  await program.waitForOutput(/^\/dev\/ublkb\d+$/m, READY_MS);
  await pin(program);
  return { node: program.stdout.trim(), processes: { device: program.pid, adapter: null } };
}

async function nullBlock(id) {
  const disk = new NullBlock(id, SIZE, 1);
  await disk.open(SIZE);
  return { node: disk.node, processes: NO_PROCESS };
}

const loopback = (memory) => ['--transport', 'loopback', '--memory', memory];
const VDUSE = ['--transport', 'vduse'];

/**
 * @typedef {object} Subject
 * @property {string} id
 * @property {string} title
 * @property {'loopback' | 'vduse' | 'null_blk' | 'ublk'} needs
 * @property {(id: string, storage: string) => Promise<{ node: string, processes: object }>} bringUp
 */
/** @type {readonly Subject[]} In the order in which rounds go through them. */
export const SUBJECTS = [
  {
    id: OURS,
    title: 'loopback bounce, qemu-storage-daemon',
    needs: 'loopback',
    bringUp: (id, storage) => attached(id, 'qemu', loopback('bounce'), storage),
  },
  {
    id: BASE,
    title: 'VDUSE native, qemu-storage-daemon',
    needs: 'vduse',
    bringUp: native,
  },
  {
    id: 'bounce-ours',
    title: 'loopback bounce, vlo serve that does not poll',
    needs: 'loopback',
    bringUp: (id) => attached(id, 'ours', loopback('bounce')),
  },
  {
    id: 'direct-qsd',
    title: 'loopback direct, qemu-storage-daemon',
    needs: 'loopback',
    bringUp: (id, storage) => attached(id, 'qemu', loopback('direct'), storage),
  },
  {
    id: 'direct-ours',
    title: 'loopback direct, vlo serve that does not poll',
    needs: 'loopback',
    bringUp: (id) => attached(id, 'ours', loopback('direct')),
  },
  {
    id: 'vduse-qsd',
    title: 'VDUSE by the adapter, qemu-storage-daemon',
    needs: 'vduse',
    bringUp: (id, storage) => attached(id, 'qemu', VDUSE, storage),
  },
  {
    id: 'vduse-ours',
    title: 'VDUSE by the adapter, vlo serve that does not poll',
    needs: 'vduse',
    bringUp: (id) => attached(id, 'ours', VDUSE),
  },
  { id: 'ublk', title: 'ublk, server of the lab', needs: 'ublk', bringUp: overUblk },
  { id: 'null_blk', title: 'null_blk (ceiling)', needs: 'null_blk', bringUp: nullBlock },
];

const LOADERS = {
  async loopback() {
    if (!existsSync(MODULE)) skip('the host built no module');
    await insertModule();
  },
  async vduse() {
    for (const name of ['vduse', 'virtio_vdpa']) await modprobe(name);
  },
  async ublk() {
    await modprobe('ublk_drv');
  },
  async null_blk() {
    await modprobe('configfs');
    await modprobe('null_blk', 'nr_devices=0');
    if (existsSync('/sys/kernel/config/nullb')) return;
    await run(['mount', '-t', 'configfs', 'none', '/sys/kernel/config']);
  },
};

/** Loads the modules that these subjects need. @param {readonly Subject[]} subjects */
export async function loadModules(subjects) {
  await modprobe('virtio_blk');
  for (const name of new Set(subjects.map(({ needs }) => needs))) await LOADERS[name]();
}

/**
 * The disk of a subject, ready to be measured.
 * @param {Subject} subject
 * @param {'threads' | 'io_uring' | 'null'} storage behind qemu-storage-daemon
 */
export async function bringUp(subject, storage) {
  const { node, processes } = await subject.bringUp(subject.id, storage);
  if (node === null) throw new Error(`${subject.title}: no disk appeared`);
  // The same way from fio to the driver for all; not every disk has a scheduler to choose.
  const scheduler = `/sys/block/${basename(node)}/queue/scheduler`;
  if (existsSync(scheduler)) writeFileSync(scheduler, 'none');
  return { ...subject, node, processes };
}
