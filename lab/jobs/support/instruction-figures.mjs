/**
 * The figures of lab/instructions.json, by architecture and workload. A change of the module or of
 * an adapter that costs instructions shows up against them.
 *
 * A count is worth comparing only with one of the same kernel and the same programs. Debian updates
 * both, and a run on a new machine has to say something then as well: it compares the ratio of
 * native VDUSE to loopback, with a wider tolerance.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, skip } from './checks.mjs';
import { ARCH, PROJECT, RUN } from './system.mjs';

const STORED = 'lab/instructions.json';
const STORE = 'npm run lab -- instructions -- --store';

/** The subject that has our code in it, and the one that does not. */
export const OURS = 'bounce-qsd';
export const BASE = 'vduse-native';

/** A count may differ by so much in the environment of the stored one. */
export const TOLERANCE = 0.02;
/** A ratio may be less by so much in another environment. */
export const TOLERANCE_ELSEWHERE = 0.06;

/** @typedef {Record<string, string>} Environment versions of what takes part, by name */
/** @typedef {Record<string, number>} Counts instructions of a request, by subject */

const readStored = () => JSON.parse(readFileSync(join(PROJECT, STORED), 'utf8'));

const percent = (share) => `${share > 0 ? '+' : ''}${(share * 100).toFixed(2)} %`;

/** How many times the instructions of loopback native VDUSE takes. @param {Counts} counts */
const ratioOf = (counts) => counts[BASE] / counts[OURS];

/**
 * What differs between two environments: a phrase for each.
 * @param {Environment} now
 * @param {Environment} stored
 */
export function differences(now, stored) {
  const names = [...new Set([...Object.keys(stored), ...Object.keys(now)])];
  return names
    .filter((name) => now[name] !== stored[name])
    .map((name) => `${name} is ${now[name] ?? 'not there'}, was ${stored[name] ?? 'not there'}`);
}

/** Throws unless the ratio holds. @param {Counts} counts @param {Counts} stored */
function judgeRatio(counts, stored) {
  const change = ratioOf(counts) / ratioOf(stored) - 1;
  const text =
    `${ratioOf(counts).toFixed(3)}x native VDUSE, stored ${ratioOf(stored).toFixed(3)}x: ` +
    percent(change);
  if (!(change >= -TOLERANCE_ELSEWHERE)) {
    throw new Error(
      `${text}, expected at least ${percent(-TOLERANCE_ELSEWHERE)}. If the change is meant: ${STORE}`,
    );
  }
  return text;
}

/**
 * Judges a workload; throws when it is not what the stored figures say.
 * @param {Counts} counts
 * @param {Counts} stored
 * @param {boolean} isSame the stored ones are of the same environment
 */
export function judgeCounts(counts, stored, isSame) {
  if (!isSame) return judgeRatio(counts, stored);
  const [ours, base] = [OURS, BASE].map((id) => counts[id] / stored[id] - 1);
  const text = `${Math.round(counts[OURS])} instructions, stored ${stored[OURS]}: ${percent(ours)}`;
  if (Number.isNaN(base)) throw new Error(`native VDUSE was not measured: NaN`);
  if (Math.abs(ours) <= TOLERANCE) return text;
  // VDUSE has none of our code: if it moved too, the environment changed in a way not listed.
  if (Math.abs(base) > TOLERANCE) {
    return `native VDUSE moved by ${percent(base)}, so ratios: ${judgeRatio(counts, stored)}`;
  }
  throw new Error(
    `${text}, expected at most ${TOLERANCE * 100} % either way, as native VDUSE moved by only ` +
      `${percent(base)}. If the change is meant: ${STORE}`,
  );
}

/**
 * Checks each workload.
 * @param {Record<string, Counts>} figures by workload
 * @param {Environment} environment
 */
export async function checkFigures(figures, environment) {
  const stored = readStored()[ARCH];
  const changes = stored === undefined ? [] : differences(environment, stored.environment);
  await check('the environment of the stored figures', () => {
    if (stored === undefined) skip(`${STORED} has no figures for ${ARCH}. Fix: ${STORE}`);
    if (changes.length === 0) return `the same: counts are compared, within ${TOLERANCE * 100} %`;
    return (
      `another one: ${changes.join('; ')}. Ratios to native VDUSE are compared, with ` +
      `${TOLERANCE_ELSEWHERE * 100} % of tolerance. To compare counts again: ${STORE}`
    );
  });
  for (const [workload, counts] of Object.entries(figures)) {
    await check(`stored figures: ${workload}`, () => {
      const known = stored?.instructions[workload];
      if (known === undefined) skip(`${STORED} has none of it for ${ARCH}`);
      return judgeCounts(counts, known, changes.length === 0);
    });
  }
}

/**
 * Leaves the file, with these figures in it, for the host.
 * @param {Record<string, Counts>} figures by workload
 * @param {Environment} environment
 */
export function storeFigures(figures, environment) {
  const unknown = Object.keys(figures).find((workload) => !(ratioOf(figures[workload]) > 0));
  if (unknown !== undefined) throw new Error(`${unknown} was not measured: nothing is stored`);
  const whole = (counts) =>
    Object.fromEntries(Object.entries(counts).map(([id, count]) => [id, Math.round(count)]));
  const instructions = Object.fromEntries(
    Object.entries(figures).map(([workload, counts]) => [workload, whole(counts)]),
  );
  const text = JSON.stringify({ ...readStored(), [ARCH]: { environment, instructions } }, null, 2);
  writeFileSync(join(RUN, 'instructions.json'), `${text}\n`);
  return Object.entries(figures)
    .map(([workload, counts]) => `${workload} ${ratioOf(counts).toFixed(3)}x native VDUSE`)
    .join(', ');
}
