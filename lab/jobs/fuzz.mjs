/**
 * Throws ioctls at /dev/virtio-loopback from several processes at once: valid, nearly valid and
 * random arguments, wrong descriptors, numbers and states; mappings, sizes and contents of the
 * sessions' memory; devices that come and go meanwhile. One more process is a back end that writes
 * nonsense into its rings while a driver works. Then nothing is left of it, a disk works, and the
 * module can be removed. Any complaint of the kernel fails the run.
 *
 *   npm run lab -- fuzz [-- --count 1000000 --seed 1 --processes 3]
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { check, fact } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, devicesLeft, folder, makeImage, serve } from './support/stand.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';

/** Longest time for each thousand of ioctls, and for the start of the processes, in ms. */
const THOUSAND_MS = 2000;
const START_MS = 120_000;
const END_MS = 60_000;
/** Memory that the kernel may have kept for something else, in KiB. */
const SLACK_KIB = 8192;
const DISK_BYTES = 2 ** 24;
const PARAMETERS = ['count', 'seed', 'processes'];
const DRIVERS = ['virtio_blk', 'virtio_rng', 'virtio_console', 'virtio_input'];

function readOptions(words) {
  const { values } = parseArgs({
    args: words,
    options: {
      count: { type: 'string', default: '60000' },
      seed: { type: 'string', default: '1' },
      processes: { type: 'string', default: '3' },
    },
  });
  return Object.fromEntries(PARAMETERS.map((name) => [name, Number(values[name])]));
}

/** Memory of files without a name, as sessions have, in KiB. */
const sharedMemory = () =>
  Number(/^Shmem:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))[1]);

/** Address ranges of the kernel that the module holds: pools, and its code. */
const ranges = () =>
  readFileSync('/proc/vmallocinfo', 'utf8')
    .split('\n')
    .filter((line) => /\bvlo_|\[virtio_loopback\]/.test(line));

const references = () => Number(readFileSync('/sys/module/virtio_loopback/refcnt', 'utf8'));

/** The last line of a program's output, as JSON. */
const lastLine = ({ stdout }) => JSON.parse(stdout.trim().split('\n').at(-1));

class Fuzz {
  constructor({ count, seed, processes }) {
    Object.assign(this, { count, seed, processes });
  }

  async prepare() {
    for (const name of DRIVERS) await modprobe(name);
    await insertModule();
    this.before = { shared: sharedMemory(), ranges: ranges().length };
  }

  async startWild() {
    const script = 'lab/jobs/support/fuzz-wild.mjs';
    this.wild = start(['node', script, '--seed', `${this.seed}`, '--name', 'wild']);
    await this.wild.waitForOutput(/^wild$/m, START_MS);
  }

  async callAll() {
    const share = Math.ceil(this.count / this.processes);
    const since = performance.now();
    const workers = Array.from({ length: this.processes }, (_, index) => {
      const words = ['--seed', `${this.seed * 1000 + index}`, '--count', `${share}`];
      return start(['node', 'lab/jobs/support/fuzz-worker.mjs', ...words]);
    });
    let ioctls = 0;
    const outcomes = {};
    for (const worker of workers) {
      const status = await worker.ended;
      if (status !== 0) throw new Error(`a process ended with ${status}: ${worker.stderr.trim()}`);
      const result = lastLine(worker);
      ioctls += result.ioctls;
      for (const [name, times] of Object.entries(result.outcomes)) {
        outcomes[name] = (outcomes[name] ?? 0) + times;
      }
    }
    const seconds = (performance.now() - since) / 1000;
    fact('outcomes', outcomes);
    fact('ioctls', { count: ioctls, seconds });
    // Without these the rest of the module was not reached.
    for (const name of ['CREATE', 'ATTACH', 'START', 'GET_MEMORY', 'SET_CALL', 'REMOVE']) {
      if (!(`${name} ok` in outcomes)) throw new Error(`VLO_${name} never worked`);
    }
    const devices = `${outcomes['CREATE ok']} devices, ${outcomes['START ok']} sessions`;
    const kinds = `${Object.keys(outcomes).length} kinds of outcomes`;
    return `${devices}, ${kinds}, ${Math.round(ioctls / seconds)} ioctls/s`;
  }

  async stopWild() {
    await this.wild.stop('SIGTERM', START_MS);
    const { sessions, broken, steps, requests, error } = lastLine(this.wild);
    if (error !== null) throw new Error(error);
    if (broken === 0) throw new Error('the module never found a broken ring');
    return `${sessions} sessions, ${broken} broken, ${steps} writes, ${requests} requests served`;
  }

  /** The processes are gone, and with them all that they had. */
  async nothingLeft() {
    await waitFor(() => devicesLeft().length === 0, 'end of all devices', END_MS);
    await waitFor(() => references() === 0, 'end of all references to the module', END_MS);
    const { before } = this;
    await waitFor(() => ranges().length <= before.ranges, 'end of all pools', END_MS).catch(
      (error) => {
        throw new Error(`${error.message}: ${ranges().join('; ')}`);
      },
    );
    const isFreed = () => sharedMemory() <= before.shared + SLACK_KIB;
    await waitFor(isFreed, 'end of the shared memory', END_MS);
    return `${sharedMemory() - before.shared} KiB more shared memory than before`;
  }
}

/** A disk is written and read as if nothing had been. */
async function useDisk() {
  const place = folder('fuzz');
  const socket = join(place, 'socket');
  const image = makeImage(join(place, 'disk.img'), DISK_BYTES);
  const server = await serve('blk', socket, ['--blk-file', image]);
  const { program, node } = await attach('blk', socket, ['--transport', 'loopback']);
  await run([
    ...['fio', '--name=after', `--filename=${node}`, '--rw=randwrite', '--bs=4k', '--direct=1'],
    ...['--ioengine=libaio', '--iodepth=16', '--size=2M', '--verify=crc32c', '--verify_fatal=1'],
  ]);
  const status = await program.stop('SIGTERM', END_MS);
  if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${program.stderr.trim()}`);
  await server.stop();
  return '2 MiB written and verified';
}

export default async function fuzz(words) {
  const options = readOptions(words);
  const game = new Fuzz(options);
  const timeout = START_MS + (options.count / 1000) * THOUSAND_MS;
  fact('seed', options.seed);
  await check('the module loads', () => game.prepare());
  await check('a driver works with a back end that writes nonsense', () => game.startWild(), {
    timeout: START_MS,
  });
  const title = `${options.count} ioctls of ${options.processes} processes, seed ${options.seed}`;
  await check(title, () => game.callAll(), { timeout });
  await check('the driver outlived the nonsense', () => game.stopWild(), { timeout: START_MS });
  await check('nothing is left', () => game.nothingLeft(), { timeout: 4 * END_MS });
  await check('a disk works', useDisk, { timeout: 2 * START_MS });
  await check('the module goes, and comes again', async () => {
    await waitFor(() => devicesLeft().length === 0, 'end of all devices', END_MS);
    await removeModule();
    await insertModule();
    await removeModule();
  });
}
