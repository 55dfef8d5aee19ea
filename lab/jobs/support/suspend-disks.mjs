/** Loads of the job `suspend` with files: on a disk, on a disk whose image is on a disk, on virtiofs. */

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, start } from './programs.mjs';
import { attach, folder, makeImage, serveBlk } from './stand.mjs';
import { modprobe, RUN } from './system.mjs';

const MIB = 2 ** 20;
const LOOPBACK = ['--transport', 'loopback'];
/** fio interrupted by SIGINT. */
const INTERRUPTED = 128;
const STOP_MS = 60_000;
const KEPT = 'kept';

/** fio on files of a folder until it is stopped; it reads back and compares what it has written. */
class Fio {
  /** @param {string} place @param {boolean} isDirect @param {number} pause after a request, µs */
  constructor(place, isDirect, pause) {
    const common = {
      ...{ directory: place, size: '4M', bs: '4k', rw: 'randrw', time_based: 1, runtime: 36_000 },
      ...{ verify: 'crc32c', verify_backlog: 32, verify_fatal: 1, verify_state_save: 0 },
      thinktime: pause,
    };
    const direct = isDirect ? 1 : 0;
    const jobs = [
      { name: 'sync', ioengine: 'psync', direct, numjobs: 2 },
      { name: 'buffered', ioengine: 'psync', fsync: 8 },
      { name: 'async', ioengine: 'libaio', direct, iodepth: 8 },
    ];
    const words = (options) => Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    const parts = jobs.map(({ name, ...job }) => [
      `--name=${name}`,
      ...words({ ...common, ...job }),
    ]);
    this.program = start(['fio', '--output-format=json', ...parts.flat()]);
  }

  check() {
    const { status, stdout, stderr } = this.program;
    if (status !== null) throw new Error(`fio ended with ${status}: ${stderr || stdout}`);
  }

  async stop() {
    this.check();
    const status = await this.program.stop('SIGINT', STOP_MS);
    const { stdout, stderr } = this.program;
    const { jobs } = JSON.parse(stdout.slice(stdout.indexOf('{')));
    const errors = jobs.filter(({ error }) => error !== 0).map(({ jobname }) => jobname);
    if (![0, INTERRUPTED].includes(status) || errors.length > 0) {
      throw new Error(`fio: status ${status}, errors of ${errors.join() || 'no job'}: ${stderr}`);
    }
    return jobs.reduce((sum, { read, write }) => sum + read.total_ios + write.total_ios, 0);
  }
}

const sumOf = async (path) => (await run(['sha256sum', path])).stdout.split(' ')[0];

/** A file system under load. */
export class Files {
  /** @param {string} place where it is mounted */
  constructor(place) {
    this.mounted = place;
    mkdirSync(place, { recursive: true });
  }

  async use(isDirect, pause) {
    const file = join(this.mounted, KEPT);
    await run(['dd', 'if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=2', 'status=none']);
    await run(['sync']);
    this.sum = await sumOf(file);
    this.fio = new Fio(this.mounted, isDirect, pause);
  }

  async release() {
    const requests = await this.fio.stop();
    await run(['sh', '-c', 'echo 3 > /proc/sys/vm/drop_caches']);
    if ((await sumOf(join(this.mounted, KEPT))) !== this.sum) throw new Error('a file has changed');
    await run(['umount', this.mounted]);
    return `${requests} requests`;
  }
}

/** A disk of ours with ext4. */
export class Disk {
  /** @param {number} pause @param {string} place of its image; on a disk that is suspended, too */
  constructor(pause, place = join(RUN, 'disk')) {
    this.pause = pause;
    this.place = place;
  }

  async open() {
    await modprobe('virtio_blk');
    await modprobe('ext4');
    mkdirSync(this.place, { recursive: true });
    this.image = makeImage(join(this.place, 'disk.img'), 96 * MIB);
    const stand = folder('disk');
    const socket = join(stand, 'socket');
    this.device = await serveBlk('ours', socket, this.image);
    ({ program: this.adapter, node: this.node } = await attach('blk', socket, LOOPBACK));
    // Else a kernel thread writes tables later, and waits for the image's file system, whose
    // threads may be frozen first.
    await run(['mkfs.ext4', '-q', '-E', 'lazy_itable_init=0,lazy_journal_init=0', this.node]);
    this.files = new Files(join(stand, 'mount'));
    await run(['mount', '-t', 'ext4', this.node, this.files.mounted]);
    await this.files.use(true, this.pause);
    return this.node;
  }

  processes() {
    return [this.device, this.adapter];
  }

  check() {
    this.files.fio.check();
  }

  /** Requests that were completed. */
  count() {
    const path = `/sys/block/${this.node.split('/').at(-1)}/stat`;
    const [reads, , , , writes] = readFileSync(path, 'utf8').trim().split(/\s+/).map(Number);
    return reads + writes;
  }

  async close() {
    const detail = await this.files.release();
    for (const program of [this.adapter, this.device]) await program.stop();
    await run(['e2fsck', '-fn', this.image]);
    await run(['rm', this.image]);
    return `${detail}, ${this.node} sound`;
  }
}

/** A disk whose image lies on the file system of another one, so that one has to go last. */
export class StackedDisk {
  /** @param {number} pause */
  constructor(pause) {
    this.pause = pause;
  }

  async open() {
    this.lower = new Disk(this.pause);
    const lower = await this.lower.open();
    this.upper = new Disk(this.pause, join(this.lower.files.mounted, 'upper'));
    return `${await this.upper.open()} on ${lower}`;
  }

  processes() {
    return [...this.lower.processes(), ...this.upper.processes()];
  }

  check() {
    this.lower.check();
    this.upper.check();
  }

  count() {
    return this.upper.count();
  }

  async close() {
    return `${await this.upper.close()}; ${await this.lower.close()}`;
  }
}
