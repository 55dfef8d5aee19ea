/**
 * qemu-storage-daemon on a block device of this kernel's (null_blk, in memory), with O_DIRECT and
 * io_uring, and with as many queues as there are processors, up to 4.
 */

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { runFio, startFio } from './fio.mjs';
import { run } from './programs.mjs';
import { mustHoldNothing, readAsNobody, Secret } from './stale-data.mjs';
import { modprobe } from './system.mjs';
import { cell, keepOffers } from './third-matrix.mjs';
import { ThirdParty } from './third-party.mjs';
import { probeBlk } from './third-probes.mjs';
import { offersOf } from './third-survey.mjs';

export const STORAGE = 'qemu-storage-daemon';
const QUEUES = 4;
const DISK_MIB = 192;
const SECTOR = 512;
const CONFIGFS = '/sys/kernel/config';
/** Kernels call the disk by this name, or by a number of their own: the first is 0. */
const NAME = 'nullb0';
const O_DIRECT = 0o40000;
const READER_BYTES = 128 * 1024;

/** The medium: a disk in memory, parts of which can be made unreadable. */
class Medium {
  folder = `${CONFIGFS}/nullb/${NAME}`;
  node = `/dev/${NAME}`;

  async make() {
    await modprobe('null_blk', 'nr_devices=0');
    if (!existsSync(`${CONFIGFS}/nullb`)) await run(['mount', '-t', 'configfs', 'none', CONFIGFS]);
    mkdirSync(this.folder);
    const settings = { blocksize: SECTOR, size: DISK_MIB, memory_backed: 1, power: 1 };
    for (const [name, value] of Object.entries(settings)) this.set(name, `${value}`);
  }

  set(name, value) {
    writeFileSync(`${this.folder}/${name}`, value);
  }

  /** Reads and writes of these sectors fail from now on. */
  spoil(first, last) {
    this.set('badblocks', `+${first}-${last}`);
  }

  mend(first, last) {
    this.set('badblocks', `-${first}-${last}`);
  }
}

class Disk extends ThirdParty {
  constructor(medium) {
    super('blk', (socket) => [
      STORAGE,
      '--blockdev',
      `driver=host_device,node-name=disk,filename=${medium.node},cache.direct=on,aio=io_uring`,
      '--export',
      `type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=${QUEUES},` +
        `addr.type=unix,addr.path=${socket}`,
    ]);
    this.medium = medium;
    this.mounted = this.path('mounted');
  }

  /** That it is as it was told to be: io_uring is a matter of how it was built, too. */
  mustBeDirect() {
    const { pid } = this.program;
    const files = readdirSync(`/proc/${pid}/fd`).map((fd) => {
      return { fd, target: readlinkSync(`/proc/${pid}/fd/${fd}`) };
    });
    const disk = files.find(({ target }) => target === this.medium.node);
    const info = disk === undefined ? '' : readFileSync(`/proc/${pid}/fdinfo/${disk.fd}`, 'utf8');
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8);
    if ((flags & O_DIRECT) === 0) throw new Error(`${this.medium.node} is not open with O_DIRECT`);
    if (!files.some(({ target }) => target.includes('io_uring'))) throw new Error('no io_uring');
  }

  get name() {
    return this.node.replace('/dev/', '');
  }
}

/** The node, and a queue for each processor. */
async function show(disk) {
  const node = await disk.attach();
  disk.mustBeDirect();
  const count = readdirSync(`/sys/block/${disk.name}/mq`).length;
  const wanted = Math.min(QUEUES, availableParallelism());
  if (count !== wanted) throw new Error(`${count} queues, not ${wanted}`);
  const reduced = wanted < QUEUES ? ` (${QUEUES} need a guest with --cpus ${QUEUES})` : '';
  return `${node}, ${count} queues${reduced}, O_DIRECT and io_uring`;
}

/** Looks at the queues until each had a request in it. */
async function watchQueues(disk, fio) {
  const folder = `/sys/kernel/debug/block/${disk.name}`;
  const left = new Set(readdirSync(folder).filter((name) => /^hctx\d+$/.test(name)));
  const count = left.size;
  while (!fio.isOver && left.size > 0) {
    for (const name of left) {
      if (readFileSync(`${folder}/${name}/busy`, 'utf8') !== '') left.delete(name);
    }
    await sleep(5);
  }
  if (left.size > 0) throw new Error(`no request was seen in ${[...left]}`);
  return count;
}

async function allQueues(disk) {
  const fio = startFio({
    ...{ name: 'queues', filename: disk.node, rw: 'randrw', bs: '4k', iodepth: 32 },
    ...{ numjobs: QUEUES, cpus_allowed: `0-${availableParallelism() - 1}` },
    ...{ cpus_allowed_policy: 'split', size: '8m', offset_increment: '8m', io_size: '16m' },
  });
  const count = await watchQueues(disk, fio);
  const { status, errors, requests } = await fio.result();
  if (status !== 0) throw new Error(`fio: ${errors}`);
  return `${requests} requests, all ${count} queues busy`;
}

/** Each writes its part of the disk, and reads it back with checksums. */
const LOADS = {
  '512 B to 128 KiB, 4 jobs, depth 16': {
    ...{ rw: 'randwrite', bsrange: '512-128k', numjobs: 4, iodepth: 16, size: '4m' },
  },
  '1 MiB, 2 jobs, depth 8': { rw: 'write', bs: '1m', numjobs: 2, iodepth: 8, size: '16m' },
};

async function load(disk, options) {
  const common = { name: 'load', filename: disk.node, offset_increment: '32m' };
  const { requests } = await runFio({ ...common, ...options, verify: 'crc32c' });
  return `${requests} requests, verified`;
}

const THP = '/sys/kernel/mm/transparent_hugepage/enabled';
const HUGE_BYTES = 32 * 2 ** 20;

/**
 * One request of as much as the disk takes, when the administrator raises the limit to what the
 * driver says. Memory in huge pages: nothing else makes it smaller.
 */
async function largest(disk) {
  const queue = `/sys/block/${disk.name}/queue`;
  const hardware = readFileSync(`${queue}/max_hw_sectors_kb`, 'utf8');
  writeFileSync(`${queue}/max_sectors_kb`, hardware);
  if (existsSync(THP)) writeFileSync(THP, 'always');
  const { requests } = await runFio({
    ...{ name: 'largest', filename: disk.node, rw: 'write', bs: `${HUGE_BYTES / 2 ** 20}m` },
    ...{ size: `${2 * HUGE_BYTES}`, iodepth: 1, verify: 'crc32c' },
  });
  const segment = readFileSync(`${queue}/max_segment_size`, 'utf8').trim();
  return `${requests} of 32 MiB, verified; max_sectors_kb ${hardware.trim()}, segments of ${segment}`;
}

/** Where a file's data lies, in sectors of the disk. */
async function sectorsOf(path) {
  const { stdout } = await run(['filefrag', '-v', `-b${SECTOR}`, path]);
  const [, first, last] = /^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\.\s*(\d+):/m.exec(stdout) ?? [];
  if (last === undefined) throw new Error(stdout);
  return [Number(first), Number(last)];
}

/** An ordinary user reads a file whose sectors cannot be read. */
async function readStale(disk) {
  const { medium, mounted } = disk;
  await run(['mkfs.ext4', '-q', '-F', disk.node]);
  mkdirSync(mounted, { recursive: true });
  await run(['mount', '-t', 'ext4', disk.node, mounted]);
  try {
    const secret = await Secret.make(`${mounted}/secret`);
    const victim = `${mounted}/victim`;
    await writeFile(victim, Buffer.alloc(READER_BYTES, 'mine'), { mode: 0o644 });
    await run(['sync', '-f', mounted]);
    const [first, last] = await sectorsOf(victim);
    await secret.spread();
    medium.spoil(first, last);
    const result = await readAsNobody(victim, READER_BYTES, secret).finally(() => {
      medium.mend(first, last);
    });
    if (result.error !== 'EIO') throw new Error(`the read gave ${JSON.stringify(result)}`);
    // The daemon says that it has written what it has not; for that the module gives zeros.
    const zeros = mustHoldNothing(result, READER_BYTES);
    return `EIO, and of 128 KiB ${zeros} zeros, the rest as before`;
  } finally {
    await run(['umount', mounted]);
  }
}

/** The successor finds no request in its rings, and has to be told of the next one. */
async function idle(disk) {
  await disk.replace();
  return allQueues(disk);
}

/** Bursts of many jobs. The daemon tracks nothing; the kernel knows what it did not complete. */
async function killed(disk, rounds) {
  const keep = {
    name: 'keep',
    filename: disk.node,
    rw: 'write',
    bs: '64k',
    size: '8m',
    iodepth: 4,
  };
  await runFio({ ...keep, verify: 'crc32c' });
  const fio = startFio({
    ...{ name: 'bursts', filename: disk.node, rw: 'randrw', bs: '4k', iodepth: 32, numjobs: 6 },
    ...{ offset: '16m', size: '8m', offset_increment: '8m', thinktime: 20_000 },
    ...{ thinktime_blocks: 64, continue_on_error: 'all', time_based: 1, runtime: 60 },
  });
  try {
    for (let round = 0; round < rounds; round += 1) {
      await sleep(1000);
      if (fio.isOver) throw new Error(`fio ended early: ${(await fio.result()).text}`);
      await disk.replace();
    }
    await sleep(1000);
  } finally {
    fio.interrupt();
  }
  const { failed, requests } = await fio.result();
  disk.mustBeAttached();
  if (failed > 0) throw new Error(`${failed} of ${requests} requests failed`);
  await runFio({ ...keep, rw: 'read', verify: 'crc32c' });
  const again = { name: 'again', filename: disk.node, rw: 'randwrite', bs: '4k', size: '4m' };
  await runFio({ ...again, offset: '16m', iodepth: 32, verify: 'crc32c' });
  return `${rounds} times, none of ${requests} requests failed; data kept, disk goes on`;
}

async function use(disk, put, isShort) {
  for (const [title, options] of Object.entries(LOADS)) {
    await put('data', title, () => load(disk, options));
  }
  await put('data', 'requests as large as can be', () => largest(disk));
  await put('load', 'all queues at once', () => allQueues(disk));
  await put('stale data', 'a read that fails leaves nothing', () => readStale(disk));
  await put('killed and back', 'killed and back with nothing outstanding', () => idle(disk));
  await put('killed and back', 'killed and back in bursts', () => killed(disk, isShort ? 3 : 20));
}

/** @param {{ isShort: boolean }} options */
export async function storage({ isShort }) {
  const medium = new Medium();
  const disk = new Disk(medium);
  const put = (column, title, action) => cell(STORAGE, column, title, action);
  await medium.make();
  await modprobe('virtio_blk');
  await put('data', 'what it offers', async () => {
    const offers = await disk.survey(offersOf);
    medium.spoil(64, 127);
    const probe = (socket) => probeBlk(socket, { failed: 64 });
    const lengths = await disk.survey(probe).finally(() => medium.mend(64, 127));
    return keepOffers(STORAGE, offers, lengths);
  });
  await disk.start();
  const isThere = await put('data', 'a disk', () => show(disk));
  if (isThere) await use(disk, put, isShort);
  await put('data', 'it goes', () => disk.stop());
}
