/** fio: a run to its end, or one in the background. */

import { setTimeout as sleep } from 'node:timers/promises';
import { getSystemErrorName } from 'node:util';
import { PATIENCE, start } from './programs.mjs';

const FIO_MS = 90_000;

/** What all runs have in common; a job may say otherwise. */
const DEFAULTS = {
  ...{ ioengine: 'io_uring', direct: 1, verify_state_save: 0, verify_fatal: 1 },
  ...{ group_reporting: 0, 'output-format': 'json' },
};

const nameOf = (errno) => (errno === 0 ? 'ok' : getSystemErrorName(-errno));

class Fio {
  constructor(options) {
    const words = Object.entries({ ...DEFAULTS, ...options });
    this.program = start(['fio', ...words.map(([name, value]) => `--${name}=${value}`)]);
  }

  get isOver() {
    return this.program.status !== null;
  }

  /** Asks it to finish what it has under way. */
  interrupt() {
    if (!this.isOver) this.program.kill('SIGINT');
  }

  /** Its end: errors by name, one for each job; requests; bytes a second. */
  async result(timeout = FIO_MS) {
    const { program } = this;
    const ms = timeout * PATIENCE;
    const inTime = await Promise.race([program.ended.then(() => true), sleep(ms, false)]);
    if (!inTime) {
      program.killAll();
      throw new Error(`fio did not end within ${ms / 1000} s`);
    }
    const at = program.stdout.indexOf('{\n');
    if (at < 0) throw new Error(`fio said nothing: ${program.status} ${program.stderr.trim()}`);
    const { jobs } = JSON.parse(program.stdout.slice(at));
    const sum = (pick) =>
      jobs.reduce((total, { read, write }) => total + pick(read) + pick(write), 0);
    return {
      status: program.status,
      errors: [...new Set(jobs.map(({ error }) => nameOf(error)))],
      failed: jobs.reduce((total, { total_err: count }) => total + count, 0),
      requests: sum(({ total_ios: count }) => count),
      text: program.stderr,
    };
  }
}

/** fio in the background. @param {Record<string, string | number>} options its own */
export const startFio = (options) => new Fio(options);

/** fio to its end, without an error. @param {Record<string, string | number>} options its own */
export async function runFio(options) {
  const result = await startFio(options).result();
  const { status, errors, text } = result;
  if (status === 0) return result;
  const line = text.trim().split('\n').at(-1);
  throw new Error(`fio: status ${status}, ${errors.join(', ')}; ${line}`);
}
