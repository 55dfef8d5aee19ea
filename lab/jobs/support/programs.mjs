/** Child processes of a job. All of them end with the job, at the latest. */

import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** All time limits of a job are multiplied with it: the debug kernel is slow. */
export const PATIENCE = Number(process.env.VLO_LAB_PATIENCE ?? 1);
const RUN_MS = 60_000;
const STOP_MS = 10_000;
const WAIT_MS = 10_000;
const POLL_MS = 20;
const OUTPUT_TAIL = 2000;

/** @type {Set<Program>} */
const running = new Set();

/** The end of a text: where programs say what went wrong. */
const tail = (text) => text.trim().slice(-OUTPUT_TAIL);

/** A program in the background. */
export class Program {
  stdout = '';
  stderr = '';
  /** @type {number | string | null} exit code, or the name of the signal; null while it runs */
  status = null;

  /**
   * @param {readonly string[]} command
   * @param {import('node:child_process').SpawnOptions & { input?: string }} options
   */
  constructor(command, { input, ...options } = {}) {
    this.command = command;
    // A process group of its own: what it started in turn ends with it.
    const stdio = [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'];
    this.child = spawn(command[0], command.slice(1), { detached: true, stdio, ...options });
    running.add(this);
    for (const name of ['stdout', 'stderr']) {
      this.child[name]?.setEncoding('utf8').on('data', (text) => {
        this[name] += text;
      });
    }
    if (input !== undefined) {
      this.child.stdin.on('error', () => {});
      this.child.stdin.end(input);
    }
    /** Resolves with the status when it has ended and all its output was read. */
    this.ended = new Promise((done) => {
      this.child.on('error', (error) => {
        this.stderr += error.message;
        done('error');
      });
      this.child.on('close', (code, signal) => done(code ?? signal));
    }).then((status) => {
      running.delete(this);
      this.status = status;
      return status;
    });
  }

  get pid() {
    return this.child.pid;
  }

  /** Sends a signal to the program itself. @param {NodeJS.Signals} signal */
  kill(signal) {
    this.child.kill(signal);
  }

  /** Ends the program and all that it started. */
  killAll() {
    if (this.pid === undefined) return;
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  }

  /** Asks it to end, and makes it when it does not in time; returns the status. */
  async stop(signal = 'SIGTERM', ms = STOP_MS) {
    if (this.status === null) this.kill(signal);
    const inTime = await Promise.race([this.ended.then(() => true), sleep(ms * PATIENCE, false)]);
    if (!inTime) {
      this.killAll();
      const limit = `${(ms * PATIENCE) / 1000} s`;
      throw new Error(`${this.command[0]} did not end within ${limit} of ${signal}`);
    }
    return this.status;
  }

  /** Waits for a text on one of its outputs. @param {RegExp} pattern */
  async waitForOutput(pattern, ms = WAIT_MS) {
    const isThere = () => pattern.test(this.stdout) || pattern.test(this.stderr);
    await waitFor(() => isThere() || this.status !== null, `${pattern} of ${this.command[0]}`, ms);
    if (!isThere()) throw new Error(`${this.command[0]} ended: ${tail(this.stderr)}`);
  }
}

/** Starts a program in the background. */
export const start = (command, options) => new Program(command, options);

/**
 * Runs a program to its end; throws when its status is not `status` (any, when null).
 * @param {readonly string[]} command
 * @param {{ timeout?: number, status?: number | null, input?: string, cwd?: string,
 *   env?: Record<string, string> }} options `timeout` in milliseconds (default: a minute)
 */
export async function run(command, { timeout = RUN_MS, status = 0, ...options } = {}) {
  const program = new Program(command, options);
  const ms = timeout * PATIENCE;
  const inTime = await Promise.race([program.ended.then(() => true), sleep(ms, false)]);
  const title = command.join(' ');
  if (!inTime) {
    program.killAll();
    throw new Error(`${title}: not done within ${ms / 1000} s ${tail(program.stderr)}`.trim());
  }
  if (status !== null && program.status !== status) {
    const output = tail(program.stderr) || tail(program.stdout);
    throw new Error(`${title}: status ${program.status}\n${output}`);
  }
  return { status: program.status, stdout: program.stdout, stderr: program.stderr };
}

/**
 * Waits until something is true, and returns what it gave.
 * @param {() => unknown} predicate
 * @param {string} what for the message
 * @param {number} ms
 */
export async function waitFor(predicate, what, ms = WAIT_MS) {
  const limit = ms * PATIENCE;
  const end = performance.now() + limit;
  for (;;) {
    const value = await predicate();
    if (value) return value;
    if (performance.now() > end) throw new Error(`no ${what} within ${limit / 1000} s`);
    await sleep(POLL_MS);
  }
}

/** Ends whatever a job left running; returns how they are called. */
export function killPrograms() {
  return [...running].map((program) => {
    program.killAll();
    return program.command.join(' ');
  });
}
