/**
 * What a job reports with. A job is a module `lab/jobs/<name>.mjs` with a default export: an async
 * function that gets the job's arguments. It calls `check()` for each thing that has to be true.
 */

import { writeFileSync } from 'node:fs';
import { PATIENCE } from './programs.mjs';
import { moduleCounters, RUN, stuckTasks } from './system.mjs';

const CHECK_MS = 120_000;
const KMSG = '/dev/kmsg';
const RESULTS = `${RUN}/results.json`;

/** @typedef {'ok' | 'failed' | 'skipped'} Outcome */
/** @type {{ name: string, outcome: Outcome, detail: string, seconds: number }[]} */
const checks = [];
/** Anything else that a job measured; goes into the results. */
const facts = {};

class Skipped extends Error {}

/** Inside of a check: it does not apply here, and why. @param {string} why @returns {never} */
export function skip(why) {
  throw new Skipped(why);
}

/** @param {string} line */
export const print = (line) => process.stdout.write(`${line}\n`);

/** Writes a line into the kernel's log, so that one sees there what was going on. */
export function note(text) {
  writeFileSync(KMSG, `lab: ${text}`);
}

/** Keeps a value in the results file. @param {string} name @param {unknown} value */
export function fact(name, value) {
  facts[name] = value;
}

/** @type {{ what: string, unit: string, ours: number, theirs: number, peer: string }[]} */
const figures = [];
const short = (value) => (value < 100 ? value.toPrecision(3) : `${Math.round(value)}`);

/**
 * Keeps a figure beside that of the kernel's own nearest thing, measured in the same guest; a table
 * of all of them ends the job's output.
 * @param {string} what
 * @param {string} unit
 * @param {number} ours
 * @param {number} theirs
 * @param {string} peer what `theirs` was measured of
 * @returns {string} one line, for the check
 */
export function figure(what, unit, ours, theirs, peer) {
  figures.push({ what, unit, ours, theirs, peer });
  fact('figures', figures);
  const ratio = (ours / theirs).toFixed(2);
  return `${what}: ${short(ours)} ${unit}, ${peer} ${short(theirs)}, ratio ${ratio}`;
}

function printFigures() {
  if (figures.length === 0) return;
  print('\n| Figure | Unit | Over loopback | Native | | Ratio |\n|---|---|---|---|---|---|');
  for (const { what, unit, ours, theirs, peer } of figures) {
    const ratio = (ours / theirs).toFixed(2);
    print(`| ${what} | ${unit} | ${short(ours)} | ${short(theirs)} | ${peer} | ${ratio} |`);
  }
  print('');
}

/** Rejects after a time; the promise itself goes on, there is no way to stop it. */
function within(promise, ms) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** An error with all that it was caused by. */
function reasonOf(error) {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? '' : `: ${reasonOf(error.cause)}`;
  return `${error.message}${cause}`;
}

/** Before the names of checks; see {@link group}. */
let prefix = '';

/**
 * A job as a part of another: its name stands before those of its checks. An error outside of them
 * is one check that failed, and does not end the others.
 * @param {string} name
 * @param {() => Promise<void>} action
 */
export async function group(name, action) {
  prefix = `${name}: `;
  try {
    await action();
  } catch (error) {
    await check('job', () => Promise.reject(error));
  } finally {
    prefix = '';
  }
}

/**
 * Runs one check and prints one line for it. A failure does not end the job: the next check runs.
 * @param {string} title
 * @param {() => unknown} action throws when the check fails; a string from it is a detail to print
 * @param {{ timeout?: number }} options `timeout` in milliseconds (default: 2 minutes)
 * @returns {Promise<boolean>} true unless it failed
 */
export async function check(title, action, { timeout = CHECK_MS } = {}) {
  const name = prefix + title;
  note(`check ${name}`);
  const started = performance.now();
  /** @type {Outcome} */
  let outcome = 'ok';
  let detail = '';
  try {
    const result = await within(Promise.resolve().then(action), timeout * PATIENCE);
    if (typeof result === 'string') detail = result;
  } catch (error) {
    outcome = error instanceof Skipped ? 'skipped' : 'failed';
    detail = reasonOf(error);
  }
  const seconds = (performance.now() - started) / 1000;
  checks.push({ name, outcome, detail, seconds });
  if (outcome === 'ok') {
    print(`ok   ${name} (${detail === '' ? '' : `${detail}, `}${seconds.toFixed(1)} s)`);
  } else if (outcome === 'skipped') print(`skip ${name}: ${detail}`);
  else {
    print(`FAIL ${name}: ${detail}`);
    for (const line of [...stuckTasks(), ...moduleCounters()]) print(`     ${line}`);
    note(`check failed: ${name}`);
  }
  writeResults();
  return outcome !== 'failed';
}

/** What there is so far: a guest that crashes leaves that. */
const writeResults = () =>
  writeFileSync(RESULTS, `${JSON.stringify({ checks, facts }, null, 2)}\n`);

/** Writes the results, and returns the job's exit status. A job without a check has failed. */
export function finish() {
  printFigures();
  if (checks.length === 0) print('FAIL job: it checked nothing');
  writeResults();
  const passed = checks.filter(({ outcome }) => outcome === 'ok').length;
  const failed = checks.some(({ outcome }) => outcome === 'failed');
  return failed || passed === 0 ? 1 : 0;
}
