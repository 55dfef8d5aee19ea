/** One measurement of the job `instructions`: fio works, and the clock and counters are read. */

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { countsBetween, readCounts } from '../../../dist/evaluate/counters.js';
import { fioCommand, parseFio } from '../../../dist/evaluate/fio.js';
import { parseBlockStat } from '../../../dist/evaluate/proc.js';
import { start, waitFor } from './programs.mjs';

const OUTPUT = '/tmp/fio.json';
/** Between the first request and the window. */
const RAMP_MS = 300;
/** fio works on for so long behind the window, in which the counters are read. */
const MARGIN_MS = 200;
/** What a profile needs beside that: code is translated anew, and the counts are written. */
const PROFILE_MS = 1000;
const START_MS = 60_000;
/** The processor of fio; the device process has the other. */
const FIO_PROCESSOR = 0;
/** Enough for the buffers of all requests that are out. */
const HUGE_PAGES = 4;

/**
 * Lets fio have huge pages for its buffers. A large request in ordinary pages costs by how many of
 * them happen to be neighbours, which differs from run to run by a fifth.
 */
export const reserveHugePages = () => writeFileSync('/proc/sys/vm/nr_hugepages', `${HUGE_PAGES}`);

/**
 * @typedef {object} Way
 * @property {number} seconds the length of the window in the guest's time
 * @property {boolean} scattered buffers in ordinary pages
 */

/** @param {Way} way */
export function workCommand({ work }, node, { seconds, scattered }, extraMs = 0) {
  const runMs = RAMP_MS + seconds * 1000 + MARGIN_MS + extraMs;
  return [
    ...fioCommand({ node, work, engine: 'io_uring', rampMs: 0, runMs, output: OUTPUT }),
    ...['--randseed=1', '--allrandrepeat=1', `--cpus_allowed=${FIO_PROCESSOR}`],
    ...(scattered ? [] : ['--iomem=shmhuge']),
  ];
}

/**
 * Measures once.
 * @param {{ id: string, node: string,
 *   processes: import('../../../dist/evaluate/counters.js').Processes }} disk
 * @param {import('../../../dist/evaluate/plan.js').Workload} workload
 * @param {Way} way
 * @param {import('./instruction-profile.mjs').Profile | null} profile
 * @returns {Promise<Omit<import('../../../dist/evaluate/result.js').Sample, 'round'>>}
 */
export async function measureOnce({ id, node, processes }, workload, way, profile = null) {
  const stat = `/sys/block/${basename(node)}/stat`;
  const progress = () => parseBlockStat(readFileSync(stat, 'utf8'));
  const idle = progress();
  const fio = start(workCommand(workload, node, way, profile === null ? 0 : PROFILE_MS));
  try {
    await waitFor(() => progress() > idle || fio.status !== null, 'first request', START_MS);
    await sleep(RAMP_MS);
    await profile?.prepare({ ...processes, fio: fio.pid });
    const before = readCounts(processes);
    profile?.begin();
    const first = progress();
    const from = process.hrtime.bigint();
    await sleep(way.seconds * 1000);
    const requests = progress() - first;
    const ns = Number(process.hrtime.bigint() - from);
    profile?.end();
    const counts = countsBetween(before, readCounts(processes));
    await profile?.keep({ subject: id, workload: workload.title, requests, nsEach: ns / requests });
    if (fio.status !== null) throw new Error(`fio ended too early: ${fio.stderr}`);
    if ((await fio.ended) !== 0) throw new Error(`fio: ${fio.stderr}`);
    if (requests === 0) throw new Error('no request was finished');
    const { latencyUs } = parseFio(readFileSync(OUTPUT, 'utf8'), workload.work.rw);
    const iops = (requests * 1e9) / ns;
    const bytesPerSecond = iops * workload.work.blockSize;
    return { iops, bytesPerSecond, latencyUs, window: { seconds: ns / 1e9, requests, counts } };
  } finally {
    fio.killAll();
    rmSync(OUTPUT, { force: true });
  }
}

/** Instructions of the whole system for each request. */
export const instructionsOf = ({ window: { seconds, requests } }) => (seconds * 1e9) / requests;
