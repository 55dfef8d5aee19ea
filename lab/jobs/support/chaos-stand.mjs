/** What rounds of chaos happen to: a disk with its two processes, and fio on it. */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { getSystemErrorName } from 'node:util';
import { PATIENCE, start, waitFor } from './programs.mjs';
import { startVlo } from './spares.mjs';
import { devicesLeft, folder, makeImage, serveWithQemu } from './stand.mjs';
import { stuckTasks } from './system.mjs';

const MIB = 2 ** 20;
const IMAGE_SIZE = 32 * MIB;
/** What fio writes and verifies in one go, again and again. */
const PART_SIZE = MIB;
const BLOCK = 4096;
const DEPTH = 16;
/** Requests that have to be through before anything is done to a device. */
const WARM_REQUESTS = 64;
const READY_MS = 90_000;
const FIO_MS = 150_000;
/** Requests that nobody serves any more have failed after this. */
export const FAIL_MS = 60_000;
/** fio's own error: what it read is not what it wrote. */
const EILSEQ = 84;
/** Longest time that the adapter's device may wait for another one. */
const TAKEOVER_S = 30 * PATIENCE;

/**
 * fio was through with its work before anything was done: nothing was tried, and nothing failed.
 */
export class TooShort extends Error {}

export const LIMITS = { FIO_MS, READY_MS };

/** How many requests a disk has completed. */
export function completed(node) {
  const path = `/sys/class/block/${node.replace('/dev/', '')}/stat`;
  const words = readFileSync(path, 'utf8').trim().split(/\s+/).map(Number);
  return words[0] + words[4];
}

/**
 * How fio makes 16 requests at a time. Where they are to fail, by 16 jobs that make one each: a
 * disk that is gone has the size 0, so reads end with no bytes, and with libaio fio takes these for
 * data.
 */
const ENGINES = {
  pass: ['--ioengine=libaio', `--iodepth=${DEPTH}`, `--size=${PART_SIZE}`],
  // Without an end of its own.
  fail: [
    ...['--ioengine=psync', '--thread', `--numjobs=${DEPTH}`, `--size=${PART_SIZE / DEPTH}`],
    ...[`--offset_increment=${PART_SIZE / DEPTH}`, '--time_based', `--runtime=${FIO_MS / 1000}`],
  ],
};

/** Jobs of a load in bursts, and what each of them draws. */
const BURST_JOBS = 6;
const BURST_SIZE = PART_SIZE / 2;
const BURST_DEPTHS = [1, 4, 16, 32, 64];
const BURST_BLOCKS = [8, 32, 64];
const BURST_PAUSES_US = [1000, 5000, 20_000];

/**
 * Many jobs, each with its own part of the disk. Each makes some requests at once, waits until
 * nearly all are done, and pauses: the number of outstanding requests changes all the time.
 * @param {ReturnType<import('./random.mjs').generator>} random
 */
export function bursts(random) {
  return Array.from({ length: BURST_JOBS }, (_, index) => [
    ...[`--name=burst${index}`, `--offset=${index * BURST_SIZE}`, `--size=${BURST_SIZE}`],
    ...[`--iodepth=${random.of(BURST_DEPTHS)}`, '--iodepth_low=1'],
    ...[
      `--thinktime=${random.of(BURST_PAUSES_US)}`,
      `--thinktime_blocks=${random.of(BURST_BLOCKS)}`,
    ],
  ]).flat();
}

/** fio at work on a disk. */
export class Load {
  /**
   * @param {string} node disk or file
   * @param {{ loops?: number, end?: 'pass' | 'fail', extra?: readonly string[],
   *   jobs?: readonly string[] }} options `loops`: how often it goes over its part, writing at
   *   random and verifying; `extra`: more options of fio's; `jobs`: others than the usual ones
   */
  constructor(node, { loops = 1, end = 'pass', extra = [], jobs = ['--name=chaos'] } = {}) {
    this.node = node;
    this.program = start([
      ...['fio', `--filename=${node}`, '--rw=randrw', '--rwmixread=30'],
      ...[`--bs=${BLOCK}`, '--direct=1', `--loops=${loops}`, ...ENGINES[end]],
      '--allow_file_create=0',
      ...['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=8', '--random_generator=lfsr'],
      ...['--verify_state_save=0', '--output-format=json', ...extra, ...jobs],
    ]);
  }

  get isOver() {
    return this.program.status !== null;
  }

  /** Waits until it has requests under way. */
  async warm(device = this.node) {
    const before = completed(device);
    const isWarm = () => this.isOver || completed(device) >= before + WARM_REQUESTS;
    await waitFor(isWarm, 'requests of fio', READY_MS);
    this.mustRun('before anything was done to it');
  }

  /** Ends it, done or not. */
  async end() {
    this.program.killAll();
    await this.program.ended;
  }

  mustRun(when) {
    if (!this.isOver) return;
    const { status, stderr } = this.program;
    if (status === 0) throw new TooShort(`fio was done ${when}`);
    throw new Error(`fio ended ${when}: ${status} ${stderr.trim()}`);
  }

  /** Waits for its end: what it did, `error` 0 when all was well. */
  async result(ms = FIO_MS) {
    const since = performance.now();
    const inTime = await Promise.race([this.program.ended.then(() => true), sleep(ms, false)]);
    if (!inTime) throw new Error(`fio did not end within ${ms / 1000} s`);
    const { stdout, stderr, status } = this.program;
    const at = stdout.indexOf('{\n');
    if (at < 0) throw new Error(`fio said nothing: ${status} ${stderr.trim()}`);
    const { jobs } = JSON.parse(stdout.slice(at));
    let requests = 0;
    for (const { read, write } of jobs) requests += read.total_ios + write.total_ios;
    const seconds = (performance.now() - since) / 1000;
    return { errors: jobs.map(({ error }) => error), status, seconds, requests, text: stderr };
  }

  /** It has to end well, all data verified: how many requests it made. */
  async mustPass() {
    const { errors, status, requests, text } = await this.result();
    if (status !== 0) throw new Error(`fio: errors ${errors}: ${text.trim()}`);
    return `${requests} requests, all verified`;
  }

  /** It has to end with I/O errors, and not with data that is wrong. */
  async mustFail(ms = FAIL_MS) {
    const { errors, requests, seconds, text } = await this.result(ms);
    if (errors.includes(0)) throw new Error(`fio ended without an error: ${text.trim()}`);
    if (errors.includes(EILSEQ)) throw new Error(`fio read what it never wrote: ${text.trim()}`);
    return `${requests} requests, then ${named(errors)} after ${seconds.toFixed(1)} s`;
  }
}

/** Errors by their names, each with how often. */
export function named(errors) {
  const counts = new Map();
  for (const error of errors) {
    const name = error === 0 ? 'no error' : getSystemErrorName(-error);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, times]) => `${times} ${name}`).join(', ');
}

/** Number of the next stand, so that no two devices have the same name. */
let count = 0;

/** A disk. */
export class Stand {
  /**
   * @param {{ memory?: 'bounce' | 'direct', ring?: 'split' | 'packed', takeover?: number,
   *   backEnd?: 'vlo' | 'qemu', pool?: string }} what qemu: qemu-storage-daemon, which does not
   *   track requests that are in flight; `pool`: its size
   */
  constructor({ memory = 'bounce', ring = 'split', takeover, backEnd = 'vlo', pool } = {}) {
    this.title = `${memory} ${ring} ${backEnd}`;
    this.backEnd = backEnd;
    this.name = `chaos${count++}`;
    this.place = folder(this.name);
    this.socket = join(this.place, 'socket');
    this.image = makeImage(join(this.place, 'disk.img'), IMAGE_SIZE);
    this.serveWords = ring === 'packed' ? [] : ['--no-packed'];
    this.attachWords = ['--transport', 'loopback', '--name', this.name, '--memory', memory];
    this.attachWords.push('--takeover', `${takeover ?? TAKEOVER_S}`);
    if (ring === 'packed') this.attachWords.push('--packed');
    if (pool !== undefined) this.attachWords.push('--pool-size', pool);
    this.node = null;
  }

  async up() {
    await this.serve();
    await this.attach();
    return this;
  }

  async serve() {
    if (this.backEnd === 'qemu') {
      // One that was killed leaves its socket.
      rmSync(this.socket, { force: true });
      this.server = await serveWithQemu(this.socket, this.image);
      return;
    }
    const words = ['--socket-path', this.socket, '--blk-file', this.image, ...this.serveWords];
    this.server = startVlo(['serve', 'blk', ...words]);
    await this.server.waitForOutput(/ready/, READY_MS);
  }

  startAdapter() {
    this.adapter = startVlo(['attach', 'blk', '--backend', this.socket, ...this.attachWords]);
  }

  async adapterReady() {
    await this.adapter.waitForOutput(/: ready/, READY_MS);
    this.node = /ready at (\S+)/.exec(this.adapter.stderr)?.[1] ?? null;
    if (this.node === null) throw new Error(`no node: ${this.adapter.stderr.trim()}`);
  }

  async attach() {
    this.startAdapter();
    await this.adapterReady();
  }

  /** Starts again what was killed, where a round ended before it did so. */
  async mend() {
    if (this.server.status !== null) await this.serve();
    if (this.adapter.status !== null) await this.attach();
  }

  /** kill -9, and it is gone. */
  async killServer() {
    await this.server.stop('SIGKILL');
  }

  async killAdapter() {
    await this.adapter.stop('SIGKILL');
  }

  /** SIGTERM to the adapter; returns its status when that comes in time. */
  stopAdapter(ms = FAIL_MS) {
    return this.adapter.stop('SIGTERM', ms);
  }

  /** An end as users have it, and a look at what the processes said. */
  async down() {
    const status = await this.stopAdapter();
    if (status !== 0) throw new Error(`vlo attach: ${status} ${this.adapter.stderr.trim()}`);
    await this.server.stop();
    this.remove();
  }

  remove() {
    rmSync(this.place, { recursive: true, force: true });
  }

  /** Whatever is there ends, whatever it takes. */
  async discard() {
    if (this.adapter?.status === null) await this.stopAdapter().catch(() => {});
    if (this.server?.status === null) await this.killServer().catch(() => {});
    this.remove();
  }

  /** A counter of the module's, over all queues. */
  counted(what) {
    const text = readFileSync(`/sys/kernel/debug/virtio-loopback/${this.name}`, 'utf8');
    const counts = text.matchAll(new RegExp(` ${what} (\\d+)`, 'g'));
    return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  /** The back ends were good, and the adapter lives. */
  mustBeWell() {
    const { adapter } = this;
    const breaks = this.counted('broken');
    if (adapter.status !== null) throw new Error(`vlo attach: ${adapter.stderr.trim()}`);
    if (breaks > 0) throw new Error(`the module found the rings broken ${breaks} times`);
  }

  mustBeGone() {
    if (this.node !== null && existsSync(this.node)) throw new Error(`${this.node} is still there`);
  }
}

/** A file system on a disk. */
export function mountPoint(stand) {
  const path = join(stand.place, 'mount');
  mkdirSync(path, { recursive: true });
  return path;
}

/** Waits until only so many devices are left as are in use, and no task waits in the kernel. */
export async function settle(expected, ms = FAIL_MS) {
  const what = `end of all but ${expected} devices`;
  await waitFor(() => devicesLeft().length <= expected, what, ms);
  const left = devicesLeft().length;
  if (left < expected) throw new Error(`${expected - left} devices are gone that were in use`);
  const disks = readdirSync('/sys/block').filter((name) => name.startsWith('vd'));
  if (disks.length !== expected) throw new Error(`disks: ${disks.join(' ')}, not ${expected}`);
  await waitFor(() => stuckTasks().length === 0, 'end of waiting tasks', ms).catch((error) => {
    throw new Error(`${error.message}: ${stuckTasks().join('; ')}`);
  });
}
