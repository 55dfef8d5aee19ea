/** What a disk's requests cost beside many loopback disks, and the memory that those take. */

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { check, fact } from './checks.mjs';
import { start } from './programs.mjs';
import { folder } from './stand.mjs';

/** One process has so many disks: adapters and back ends. */
const STEP = 16;
const READY_MS = 300_000;
const SETTLE_MS = 2000;
/** A request may take so much more beside the others. */
const MOST = 1.05;
/**
 * The memory for each device may be so much more for the second half of them than for the first.
 * Single steps differ by more: what the kernel frees by itself is in the figure too.
 */
const MOST_UNEVEN = 1.2;

/** A figure in KiB of a file of /proc. */
function kib(path, name) {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(path, 'utf8'));
  if (match === null) throw new Error(`${path} has no ${name}`);
  return Number(match[1]);
}

/** Brings up disks in a process of their own; returns the KiB that each takes outside of it. */
async function addDisks(place, count) {
  const before = kib('/proc/meminfo', 'MemAvailable');
  mkdirSync(place);
  const words = ['--folder', place, '--count', `${count}`, '--cycles', '1', '--memory', 'bounce'];
  const program = start(['node', 'lab/jobs/support/swarm.mjs', ...words, '--hold']);
  await program.waitForOutput(/holding/, READY_MS);
  await sleep(SETTLE_MS);
  const own = kib(`/proc/${program.pid}/status`, 'RssAnon');
  return (before - kib('/proc/meminfo', 'MemAvailable') - own) / count;
}

const mean = (list) => list.reduce((sum, each) => sum + each, 0) / list.length;

/** Brings up all of them; their memory has to grow with their number. */
async function addAll(count) {
  const place = folder('beside');
  const steps = [];
  for (let up = 0; up < count; up += STEP) {
    const each = await addDisks(join(place, `${up}`), Math.min(STEP, count - up));
    steps.push(Math.round(each));
  }
  fact('KiB for each disk', steps);
  const middle = Math.ceil(steps.length / 2);
  const [first, second] = [steps.slice(0, middle), steps.slice(middle)].map(mean);
  const text = `KiB for each of ${STEP}, and again: ${steps.join(', ')}`;
  if (!(second <= MOST_UNEVEN * first)) throw new Error(`${text}: the later ones take more`);
  return text;
}

/**
 * Measures workloads again, beside other disks that nothing uses.
 * @param {number} count of the other disks
 * @param {Record<string, number>} alone instructions of a request without them, by workload
 * @param {(workload: string) => Promise<number>} measure instructions of a request
 */
export async function checkBeside(count, alone, measure) {
  const isUp = await check(`${count} other disks`, () => addAll(count), { timeout: READY_MS });
  if (!isUp) return;
  for (const workload of Object.keys(alone)) {
    await check(`${workload} beside ${count} other disks`, async () => {
      const beside = await measure(workload);
      const ratio = beside / alone[workload];
      fact(`${workload} beside ${count} other disks`, { alone: alone[workload], beside });
      const text = `${Math.round(beside)} instructions, ${ratio.toFixed(3)} times those without`;
      if (!(ratio <= MOST)) throw new Error(`${text}, expected at most ${MOST} times`);
      return text;
    });
  }
}
