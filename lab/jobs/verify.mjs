/**
 * Does it keep data: fio writes and reads back with checksums, in all sizes and depths, with one
 * queue and with four, over each ring layout and memory mode, ours and qemu-storage-daemon. Then
 * discard, write zeroes and flush.
 */

import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { check } from './support/checks.mjs';
import { run } from './support/programs.mjs';
import { attach, folder, makeImage, serveBlk, waitForNoDevices } from './support/stand.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';

const MIB = 2 ** 20;
const SIZE = 64 * MIB;
const FIO_MS = 240_000;

/** Device process, words for the adapter, number of queues. */
const CASES = [
  { device: 'ours', ring: 'split', memory: 'bounce', queues: 1 },
  { device: 'ours', ring: 'split', memory: 'bounce', queues: 4 },
  { device: 'ours', ring: 'packed', memory: 'bounce', queues: 4 },
  { device: 'ours', ring: 'split', memory: 'direct', queues: 4 },
  { device: 'ours', ring: 'packed', memory: 'direct', queues: 1 },
  { device: 'qemu', ring: 'split', memory: 'bounce', queues: 1 },
  { device: 'qemu', ring: 'split', memory: 'bounce', queues: 4 },
  { device: 'qemu', ring: 'split', memory: 'direct', queues: 1 },
];

/** Each writes its part and verifies it: fio's own options. */
const WORK = {
  'random, 512 B to 1 MiB, depth 64': {
    ...{ rw: 'randwrite', bsrange: '512-1M', blockalign: 512, iodepth: 64, size: '16M' },
    ...{ ioengine: 'io_uring' },
  },
  'sequential, 1 MiB, depth 4': { rw: 'write', bs: '1M', iodepth: 4, size: '16M' },
  'random, 512 B, depth 1': { rw: 'randwrite', bs: '512', iodepth: 1, size: '256k' },
  'four at once, 4 KiB, depth 16, with flushes': {
    ...{ rw: 'randwrite', bs: '4k', iodepth: 16, size: '2M', numjobs: 4, fsync: 32 },
    ...{ offset_increment: '16M' },
  },
  'buffered, 4 KiB to 64 KiB, mixed': {
    ...{ rw: 'randrw', bsrange: '4k-64k', iodepth: 1, size: '8M', direct: 0 },
    ...{ ioengine: 'psync', end_fsync: 1 },
  },
};

async function runFio(node, work) {
  const options = {
    ...{ name: 'verify', filename: node, direct: 1, ioengine: 'libaio' },
    ...{ verify: 'crc32c', do_verify: 1, verify_fatal: 1, 'output-format': 'json', ...work },
  };
  const words = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  const { stdout } = await run(['fio', ...words], { timeout: FIO_MS });
  const { jobs } = JSON.parse(stdout.slice(stdout.indexOf('{')));
  let count = 0;
  for (const job of jobs) {
    if (job.error !== 0) throw new Error(`fio: error ${job.error}`);
    count += job.read.total_ios + job.write.total_ios;
  }
  return count;
}

/** True when a part of the medium is all zero. */
function isZero(path, offset, size) {
  const fd = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(size, 1);
    if (readSync(fd, bytes, 0, size, offset) !== size) throw new Error(`${path} is too short`);
    return bytes.every((byte) => byte === 0);
  } finally {
    closeSync(fd);
  }
}

/** Discard and write zeroes reach the image, no further than asked. */
async function zero(node, image) {
  await run([
    'dd',
    'if=/dev/urandom',
    `of=${node}`,
    'bs=1M',
    'count=4',
    'oflag=direct',
    'status=none',
  ]);
  await run(['blkdiscard', '-o', `${MIB}`, '-l', `${MIB}`, node]);
  await run(['blkdiscard', '-z', '-o', `${2 * MIB}`, '-l', `${MIB / 2}`, node]);
  await run(['sync']);
  await run(['blockdev', '--flushbufs', node]);
  for (const path of [node, image]) {
    if (!isZero(path, MIB, MIB)) throw new Error(`${path}: what was discarded is not zero`);
    if (!isZero(path, 2 * MIB, MIB / 2)) throw new Error(`${path}: zeroes were not written`);
    if (isZero(path, 0, MIB) || isZero(path, 2 * MIB + MIB / 2, MIB / 2)) {
      throw new Error(`${path}: more was zeroed than asked`);
    }
  }
}

async function verify({ device, ring, memory, queues }) {
  const place = folder('verify');
  const image = makeImage(join(place, 'disk.img'), SIZE);
  const socket = join(place, 'socket');
  const server = await serveBlk(device, socket, image, { queues });
  const words = ['--transport', 'loopback', '--memory', memory];
  if (ring === 'packed') words.push('--packed');
  const { program, node } = await attach('blk', socket, words);
  let count = 0;
  for (const [title, work] of Object.entries(WORK)) {
    try {
      count += await runFio(node, work);
    } catch (error) {
      throw new Error(`${title}: ${error.message}`);
    }
  }
  await zero(node, image);
  const status = await program.stop();
  if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${program.stderr}`);
  await server.stop();
  return `${count} requests`;
}

export default async function job() {
  await check('the module loads', async () => {
    await modprobe('virtio_blk');
    await insertModule();
  });
  for (const one of CASES) {
    const { device, ring, memory, queues } = one;
    const title = `${device === 'qemu' ? 'qemu-storage-daemon' : 'ours'}, ${ring}, ${memory}`;
    await check(`${title}, ${queues} ${queues === 1 ? 'queue' : 'queues'}`, () => verify(one), {
      timeout: 2 * FIO_MS,
    });
  }
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
