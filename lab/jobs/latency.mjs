/**
 * What the module does to the latency of a real-time task: cyclictest (rt-tests) beside a disk
 * under full load, over loopback and over null_blk. The guest's clock counts instructions, and it
 * has one processor, so a latency is the longest piece of code that could not be interrupted.
 *
 *   npm run lab -- latency --cpus 1 --kernel newest-rt,6.12-rt [-- --seconds 2]
 */

import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { check, fact, print, skip } from './support/checks.mjs';
import { bringUp, loadModules, SUBJECTS } from './support/instruction-subjects.mjs';
import { run } from './support/programs.mjs';
import { IS_ICOUNT, KERNEL } from './support/system.mjs';

const IDS = ['null_blk', 'bounce-qsd'];
/** Above the kernel's threads for interrupts, which have 50. */
const PRIORITY = 80;
const INTERVAL_US = 200;
const OUTPUT = '/tmp/cyclictest.json';
const CHECK_MS = 1200_000;
/**
 * Microseconds that a latency may be longer than beside null_blk. It is one spin lock's length:
 * where the timer meets the work differs from run to run by as much.
 */
const MARGIN_US = 5;

const WORK = [
  { title: '4 KiB random write, depth 32', words: ['--rw=randwrite', '--bs=4k', '--iodepth=32'] },
  { title: '4 KiB random read, depth 32', words: ['--rw=randread', '--bs=4k', '--iodepth=32'] },
  { title: '128 KiB read, depth 8', words: ['--rw=read', '--bs=128k', '--iodepth=8'] },
  { title: '1 MiB write, depth 8', words: ['--rw=write', '--bs=1m', '--iodepth=8'] },
];

/** fio on a disk, in the background of a shell that measures beside it. */
const load = (node, words) =>
  [
    ...['fio', '--name=load', `--filename=${node}`, '--ioengine=io_uring', '--direct=1'],
    ...['--time_based', '--runtime=3600', '--norandommap', '--output=/dev/null', ...words],
  ].join(' ');

/**
 * The latencies of a task that wants to run every {@link INTERVAL_US}, in microseconds.
 * @param {number} seconds
 * @param {string | null} work a command that goes on meanwhile
 */
async function cyclictest(seconds, work = null) {
  const loops = Math.ceil((seconds * 1e6) / INTERVAL_US);
  const measure = [
    ...['cyclictest', '--quiet', '--mlockall', '--threads=1', `--priority=${PRIORITY}`],
    ...[`--interval=${INTERVAL_US}`, `--loops=${loops}`, `--json=${OUTPUT}`],
  ].join(' ');
  const script =
    work === null
      ? measure
      : `${work} & fio=$!; sleep 1; ${measure}; kill -0 $fio || exit 9; kill $fio; wait $fio; true`;
  await run(['sh', '-c', script], { timeout: CHECK_MS });
  const { min, avg, max, cycles } = JSON.parse(readFileSync(OUTPUT, 'utf8')).thread[0];
  if (cycles < loops) throw new Error(`it ran ${cycles} of ${loops} times`);
  return { min, avg, max };
}

const line = (name, { min, avg, max }) => `     ${name}: min ${min}, avg ${avg}, max ${max} µs`;

export default async function latency(words) {
  const { values } = parseArgs({
    args: words,
    options: { seconds: { type: 'string', default: '2' } },
  });
  if (!IS_ICOUNT) throw new Error('the clock counts time here: start without --no-icount');
  if (cpus().length > 1) throw new Error('processors take turns by this clock: give --cpus 1');
  const seconds = Number(values.seconds);
  const subjects = SUBJECTS.filter(({ id }) => IDS.includes(id));
  const disks = new Map();
  await check('a disk over loopback, and null_blk', async () => {
    await loadModules(subjects);
    for (const subject of subjects) disks.set(subject.id, await bringUp(subject, 'io_uring'));
  });
  await check('no load', async () => print(line('idle', await cyclictest(seconds))));
  for (const { title, words: work } of WORK) {
    await check(
      title,
      async () => {
        const found = {};
        for (const [id, disk] of disks) {
          found[id] = await cyclictest(seconds, load(disk.node, work));
          print(line(id, found[id]));
        }
        fact(title, found);
        const more = found['bounce-qsd'].max - found.null_blk.max;
        if (!/-rt/.test(KERNEL)) skip(`${more} µs more than null_blk; not a real-time kernel`);
        if (more > MARGIN_US) throw new Error(`${more} µs more than beside null_blk`);
        return `longest: ${found['bounce-qsd'].max} µs beside loopback, ${found.null_blk.max} beside null_blk`;
      },
      { timeout: CHECK_MS },
    );
  }
}
