/** A job on several kernels and architectures, one after the other, and a table of outcomes. */

import { setImmediate as turn } from 'node:timers/promises';
import { LabError, NotThereError, progress, secondsSince } from './places.mjs';

/**
 * One kernel on one architecture. `why` is the reason of a `FAIL` without a run, and of `not there`.
 * @typedef {{ arch: string, kernel: string, outcome: 'ok' | 'FAIL' | 'not there', time: string,
 *   why: string }} Cell
 */

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'];

/**
 * Runs an action for one kernel and architecture. Debian may not have the kernel; another error
 * does not keep the next ones from running.
 * @param {string} kernel
 * @param {string} arch
 * @param {(kernel: string, arch: string) => Promise<boolean>} action
 * @returns {Promise<Cell>}
 */
async function runCell(kernel, arch, action) {
  const started = performance.now();
  let outcome;
  let why = '';
  try {
    outcome = (await action(kernel, arch)) ? 'ok' : 'FAIL';
  } catch (error) {
    if (!(error instanceof LabError)) throw error;
    outcome = error instanceof NotThereError ? 'not there' : 'FAIL';
    why = error.message;
    progress(`${kernel} on ${arch}: ${outcome}: ${why}`);
  }
  return { arch, kernel, outcome, time: secondsSince(started), why };
}

/**
 * Runs an action for each kernel on each architecture, until it is stopped.
 * @param {readonly string[]} kernels
 * @param {readonly string[]} architectures
 * @param {(kernel: string, arch: string) => Promise<boolean>} action
 * @returns {Promise<Cell[]>}
 */
export async function runMatrix(kernels, architectures, action) {
  const cells = [];
  let isStopped = false;
  const stop = () => {
    isStopped = true;
  };
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    for (const kernel of kernels) {
      for (const arch of architectures) {
        if (!isStopped) cells.push(await runCell(kernel, arch, action));
        // A signal that came while a part or the module was built arrives now.
        await turn();
      }
    }
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop);
  }
  return cells;
}

const row = (words) => `| ${words.join(' | ')} |\n`;

/**
 * The outcomes as a table of kernels and architectures; the reasons stand below it.
 * @param {string} title
 * @param {readonly string[]} kernels
 * @param {readonly string[]} architectures
 * @param {readonly Cell[]} cells
 */
export function matrixTable(title, kernels, architectures, cells) {
  const at = (kernel, arch) => cells.find((cell) => cell.kernel === kernel && cell.arch === arch);
  const textOf = (cell) => {
    if (cell === undefined) return 'not run';
    return cell.outcome === 'not there' ? cell.outcome : `${cell.outcome}, ${cell.time}`;
  };
  const lines = kernels.map((kernel) =>
    row([kernel, ...architectures.map((arch) => textOf(at(kernel, arch)))]),
  );
  const reasons = cells
    .filter(({ why }) => why !== '')
    .map(({ kernel, arch, outcome, why }) => `${kernel} on ${arch}: ${outcome}: ${why}\n`);
  const head = [row([title, ...architectures]), `|${'---|'.repeat(architectures.length + 1)}\n`];
  return [...head, ...lines, ...(reasons.length === 0 ? [] : ['\n', ...reasons])].join('');
}

/**
 * True when nothing failed, nothing was left out, and something ran.
 * @param {readonly string[]} kernels
 * @param {readonly string[]} architectures
 * @param {readonly Cell[]} cells
 */
export const isMatrixGood = (kernels, architectures, cells) =>
  cells.length === kernels.length * architectures.length &&
  cells.every(({ outcome }) => outcome !== 'FAIL') &&
  cells.some(({ outcome }) => outcome === 'ok');
