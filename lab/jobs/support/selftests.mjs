/** kernel/selftests: a program in C that tests the module's interface and prints TAP. */

import { run } from './programs.mjs';
import { RUN } from './system.mjs';

const SELFTESTS = `${RUN}/virtio_loopback`;
const ALL_MS = 180_000;

/**
 * The tests in an output, each with what it said of itself.
 * @param {string} tap
 * @returns {{ name: string, outcome: 'ok' | 'failed' | 'skipped', words: string }[]}
 */
export function readTap(tap) {
  const tests = [];
  let words = [];
  for (const line of tap.split('\n')) {
    const result = /^(not )?ok \d+ (\S+)( # SKIP)?/.exec(line);
    if (line.startsWith('# ') && !line.startsWith('# RUN ')) words.push(line.slice(2));
    if (result === null) continue;
    const [, failed, name, skipped] = result;
    const outcome = failed !== undefined ? 'failed' : skipped !== undefined ? 'skipped' : 'ok';
    tests.push({ name, outcome, words: words.join('; ') });
    words = [];
  }
  const plan = /^1\.\.(\d+)$/m.exec(tap)?.[1];
  if (tests.length === 0 || Number(plan) !== tests.length) {
    throw new Error(`${tests.length} results, and the plan is ${plan}: ${tap.trim().slice(-500)}`);
  }
  return tests;
}

/** Runs all of them; returns their results. */
export async function selftestResults() {
  const { stdout } = await run([SELFTESTS], { status: null, timeout: ALL_MS });
  return readTap(stdout);
}
