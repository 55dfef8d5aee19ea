/**
 * The ratios of lab/instructions.json, by architecture, series of kernels and workload. A change of
 * the module or of an adapter that costs instructions shows up against them.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, skip } from './checks.mjs';
import { ARCH, KERNEL, PROJECT, RUN } from './system.mjs';

const STORED = 'lab/instructions.json';
/** A ratio may differ by so much from the one that is stored for the kernel's series. */
const TOLERANCE = 0.02;
/**
 * And by so much from the one of another series: Debian's newest kernel moves on, and a run has to
 * say something then as well. Between 6.12 and 7.3 the ratio of small reads moved by 2.6 %.
 */
const TOLERANCE_ELSEWHERE = 0.06;

/** The first two numbers of a release. @param {string} release */
export const seriesOf = (release) => /^\d+\.\d+/.exec(release)?.[0] ?? release;

const readStored = () => JSON.parse(readFileSync(join(PROJECT, STORED), 'utf8'));

const byNumber = (a, b) => a.localeCompare(b, 'en', { numeric: true });

/**
 * The series whose ratios these are compared with: the kernel's own, or else the newest.
 * @param {Record<string, object>} stored by series
 * @param {string} series
 */
export const nearestSeries = (stored, series) =>
  series in stored ? series : Object.keys(stored).sort(byNumber).at(-1);

/**
 * Judges a ratio; throws when it is not the stored one.
 * @param {number} ratio
 * @param {number} stored
 * @param {boolean} isOwn the stored ratio is of the same series of kernels
 */
export function judgeRatio(ratio, stored, isOwn) {
  const change = ratio / stored - 1;
  const tolerance = isOwn ? TOLERANCE : TOLERANCE_ELSEWHERE;
  const text = `${ratio}, stored ${stored}: ${(change * 100).toFixed(2)} %`;
  if (!(Math.abs(change) <= tolerance)) {
    throw new Error(
      `${text}, more than ${tolerance * 100} %. If the change is meant: ` +
        'npm run lab -- instructions -- --store',
    );
  }
  return text;
}

/** Checks each ratio. @param {Record<string, number>} ratios by workload */
export async function checkRatios(ratios) {
  const stored = readStored()[ARCH] ?? {};
  const series = nearestSeries(stored, seriesOf(KERNEL));
  const isOwn = series === seriesOf(KERNEL);
  for (const [workload, ratio] of Object.entries(ratios)) {
    await check(`loopback against native VDUSE: ${workload}`, () => {
      const known = series === undefined ? undefined : stored[series][workload];
      if (known === undefined) skip(`${STORED} has no ratio for ${ARCH}; store one with --store`);
      const text = judgeRatio(ratio, known, isOwn);
      return isOwn ? text : `${text} (of Linux ${series}; store one for ${seriesOf(KERNEL)})`;
    });
  }
}

/** Leaves the file, with these ratios in it, for the host. */
export function storeRatios(ratios) {
  const unknown = Object.keys(ratios).find((workload) => !(ratios[workload] > 0));
  if (unknown !== undefined) throw new Error(`${unknown} was not measured: nothing is stored`);
  const stored = readStored();
  const series = { ...stored[ARCH], [seriesOf(KERNEL)]: ratios };
  const sorted = Object.fromEntries(Object.entries(series).sort(([a], [b]) => byNumber(a, b)));
  const text = JSON.stringify({ ...stored, [ARCH]: sorted }, null, 2);
  writeFileSync(join(RUN, 'instructions.json'), `${text}\n`);
  return Object.entries(ratios)
    .map(([workload, ratio]) => `${workload} ${ratio}`)
    .join(', ');
}
