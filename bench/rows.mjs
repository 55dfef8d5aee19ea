/**
 * What is measured: the rows of the table. A row compares two sides, each a server and a client; or
 * it is a check of our side alone (solo.mjs).
 */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { FUSE_ROWS } from './fuse.mjs';
import { HAL_ROWS } from './hal.mjs';
import { PROJECT, startOurs, startTheirs } from './programs.mjs';
import { cpuAfterRequests, idleServer, startToListening } from './solo.mjs';

/** @typedef {import('./programs.mjs').Workbench} Workbench */
/** @typedef {import('./programs.mjs').Server} Server */

/**
 * @typedef {object} Load
 * @property {number} [count] requests in one run
 * @property {string} [rw] kind of load, as fio names it
 * @property {number} [seconds] length of one run, where fio makes the load
 * @property {number} depth
 * @property {number} size bytes
 * @property {number} [stride] distance of the offsets of two requests
 * @property {boolean} [write]
 * @property {number} [queues]
 * @property {boolean} [random]
 */

/**
 * @typedef {object} Side
 * @property {string} name as the table has it
 * @property {(bench: Workbench, name: string) => Promise<Server>} [server] or the first's
 * @property {(bench: Workbench, server: Server, load: Load) => Client} client
 */

/** @typedef {{ command: string, rate: () => Promise<number> }} Client rate: requests a second */

/**
 * @typedef {object} Row
 * @property {string} id the number of the bar, with a letter where there are several
 * @property {string} title
 * @property {string} unit
 * @property {number} [bar]
 * @property {number} [aim]
 * @property {Load} [load]
 * @property {[Side, Side]} [sides] ours, and what it is compared with
 * @property {boolean} [awake] keep the processors from halting meanwhile
 * @property {(bench: Workbench, smoke: boolean) => Promise<import('./solo.mjs').Solo[]>} [solo]
 */

/**
 * libblkio, through qemu-img: one queue, offsets that rise by the stride. It times the requests
 * alone.
 * @type {Side['client']}
 */
function qemuImg(bench, server, load) {
  const name = server.socket.slice(bench.dir.length + 1);
  const command = ['qemu-img', 'bench', '-c', `${load.count}`, '-d', `${load.depth}`];
  command.push('-s', `${load.size}`);
  if (load.write) command.push('-w');
  if (load.stride) command.push('-S', `${load.stride}`);
  const image = `driver=virtio-blk-vhost-user,path=/sock/${name},cache.direct=on`;
  command.push('--image-opts', image);
  return {
    command: bench.show(command),
    async rate() {
      const program = bench.startPeer(command);
      const output = await program.output();
      const seconds = Number(/Run completed in ([\d.]+) seconds/.exec(output)?.[1]);
      if (!(seconds > 0)) throw program.failure('says nothing about the time it took');
      return load.count / seconds;
    },
  };
}

/** Our front end and our driver-side ring. @type {Side['client']} */
function ourDriver(bench, server, load, ...more) {
  const script = join(PROJECT, 'bench/driver-iops.mjs');
  const command = [process.execPath, script, '--socket-path', server.socket];
  command.push('--count', `${load.count}`, '--depth', `${load.depth}`, '--size', `${load.size}`);
  if (load.queues) command.push('--queues', `${load.queues}`);
  if (!load.random) command.push('--sequential');
  command.push(...more);
  return {
    command: bench.show(command),
    async rate() {
      if (!existsSync(script)) throw new Error('bench/driver-iops.mjs is missing');
      const program = bench.start(command);
      const line = (await program.output()).trim().split('\n').at(-1) ?? '';
      const { iops, failed = 0 } = JSON.parse(line);
      if (!(iops > 0) || failed > 0) throw program.failure('no rate, or failed requests');
      return iops;
    },
  };
}

const ours = (...more) => ({
  name: 'ours',
  server: (bench, name) => startOurs(bench, name, more),
  client: qemuImg,
});
const theirs = {
  name: 'qemu-storage-daemon',
  server: (bench, name) => startTheirs(bench, name),
  client: qemuImg,
};

const KIB = 1024;
/** Counts are whole passes over the image of 256 MiB: each page of it is used equally often. */
const PASS = 65_536;

/** @type {readonly Row[]} */
export const ROWS = [
  {
    id: '1',
    title: '4 KiB reads, depth 32',
    unit: 'IOPS',
    bar: 2.5,
    aim: 4,
    load: { count: 4 * PASS, depth: 32, size: 4 * KIB },
    sides: [ours(), theirs],
  },
  {
    id: '2',
    title: '4 KiB writes, depth 32',
    unit: 'IOPS',
    bar: 2.5,
    aim: 4,
    load: { count: 2 * PASS, depth: 32, size: 4 * KIB, write: true },
    sides: [ours(), theirs],
  },
  {
    id: '3',
    title: '4 KiB reads, depth 1',
    unit: 'IOPS',
    bar: 2,
    aim: 4,
    load: { count: 20_000, depth: 1, size: 4 * KIB },
    sides: [ours(), theirs],
  },
  {
    id: '3a',
    title: 'the same, processors kept awake',
    unit: 'IOPS',
    load: { count: 20_000, depth: 1, size: 4 * KIB },
    sides: [ours(), theirs],
    awake: true,
  },
  {
    id: '3b',
    title: 'CPU from 100 ms after the last request',
    unit: 'ticks/s',
    bar: 0,
    aim: 0,
    solo: cpuAfterRequests,
  },
  {
    id: '4',
    title: '128 KiB reads, depth 8',
    unit: 'IOPS',
    bar: 1,
    aim: 1.5,
    load: { count: (6 * PASS) / 32, depth: 8, size: 128 * KIB },
    sides: [ours(), theirs],
  },
  {
    id: '5a',
    title: '4 KiB reads, depth 32, 16 KiB apart',
    unit: 'IOPS',
    load: { count: 2 * PASS, depth: 32, size: 4 * KIB, stride: 16 * KIB },
    sides: [ours(), theirs],
  },
  {
    id: '5b',
    // libblkio never takes the packed ring over vhost-user, so both sides use our front end.
    title: '4 KiB reads, depth 32, packed ring',
    unit: 'IOPS',
    load: { count: 6 * PASS, depth: 32, size: 4 * KIB },
    sides: [
      { ...ours(), name: 'ours, packed', client: (...args) => ourDriver(...args, '--packed') },
      { ...ours(), name: 'ours, split', client: ourDriver },
    ],
  },
  {
    id: '5c',
    title: '4 KiB random reads, our front end',
    unit: 'IOPS',
    load: { count: 2 * PASS, depth: 32, size: 4 * KIB, random: true },
    sides: [
      { ...ours(), client: ourDriver },
      { ...theirs, client: ourDriver },
    ],
  },
  {
    id: '5d',
    title: 'the same, 4 queues',
    unit: 'IOPS',
    load: { count: 2 * PASS, depth: 32, size: 4 * KIB, random: true, queues: 4 },
    sides: [
      { ...ours('--num-queues', '4'), client: ourDriver },
      { ...theirs, server: (bench, name) => startTheirs(bench, name, 4), client: ourDriver },
    ],
  },
  {
    id: '6',
    title: 'our front end, 4 KiB reads, depth 32',
    unit: 'IOPS',
    bar: 0.7,
    aim: 1,
    load: { count: 6 * PASS, depth: 32, size: 4 * KIB },
    // The same server process for both: what differs is the client alone.
    sides: [
      { ...ours(), name: 'our front end', client: ourDriver },
      { name: 'libblkio', client: qemuImg },
    ],
  },
  {
    id: '6a',
    title: 'the same, promises of BlkDriver',
    unit: 'IOPS',
    bar: 0.7,
    aim: 1,
    load: { count: 3 * PASS, depth: 32, size: 4 * KIB },
    sides: [
      { ...ours(), name: 'BlkDriver', client: (...args) => ourDriver(...args, '--promises') },
      { name: 'libblkio', client: qemuImg },
    ],
  },
  {
    id: '7',
    title: 'vlo serve blk: start to listening',
    unit: 'ms',
    bar: 250,
    aim: 120,
    solo: startToListening,
  },
  { id: '7a', title: 'vlo serve blk, idle', unit: '', solo: idleServer },
  ...FUSE_ROWS,
  ...HAL_ROWS,
];

/**
 * The rows that a list like "1,3,5b" names; a number names all of its letters.
 * @param {string | undefined} list
 */
export function selectRows(list) {
  if (list === undefined) return ROWS;
  const names = list.split(',').map((name) => name.trim());
  const number = (row) => row.id.replace(/[a-z]$/, '');
  for (const name of names) {
    if (ROWS.some((row) => row.id === name || number(row) === name)) continue;
    throw new Error(`no row ${name}; there are ${ROWS.map((row) => row.id).join(', ')}`);
  }
  return ROWS.filter((row) => names.includes(row.id) || names.includes(number(row)));
}
