/**
 * Foreign programs of the demonstration. They, and Node's pool of threads, are what may touch what
 * this process serves: a blocking call of its own would wait for its own answer, for ever.
 */
import { spawn } from 'node:child_process';
import { basename } from 'node:path';
import { VloError } from '../errors.js';

/** Longest time in milliseconds that a program may take. */
const RUN_MS_MAX = 15_000;

export interface ProgramEnd {
  /** Exit status; null when it was killed, could not be started, or did not end in time. */
  readonly status: number | null;
  readonly output: string;
  /** What it complained about, in one line. */
  readonly complaint: string;
}

/** A step of the demonstration did not verify. */
export function demoFailed(message: string, cause?: unknown): VloError {
  return new VloError('VLO_DEMO_FAILED', message, cause === undefined ? {} : { cause });
}

/** Runs a program to its end; one that hangs in the kernel is not waited for. Never throws. */
export function runProgram(program: string, args: readonly string[]): Promise<ProgramEnd> {
  return new Promise((resolve) => {
    let output = '';
    let errors = '';
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
      // A session of its own: Ctrl-C is for the demonstration, which takes things down in order.
      detached: true,
    });
    const ended = (status: number | null, why: string): void => {
      clearTimeout(late);
      const complaint =
        /^\w*Error: .*$/m.exec(errors)?.[0] ?? (errors.trim().split('\n').at(-1)! || why);
      resolve({ status, output, complaint: `${basename(program)}: ${complaint}` });
    };
    const late = setTimeout(() => {
      child.kill('SIGKILL');
      for (const stream of [child.stdout, child.stderr]) stream.destroy();
      child.unref();
      ended(null, `not ready after ${RUN_MS_MAX / 1000} s`);
    }, RUN_MS_MAX);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.on('error', (error) => ended(null, error.message));
    child.on('close', (status, signal) => ended(status, signal ?? `status ${status}`));
  });
}

/** Runs a program that has to succeed. @throws VloError VLO_DEMO_FAILED */
export async function mustRun(program: string, args: readonly string[]): Promise<string> {
  const { status, output, complaint } = await runProgram(program, args);
  if (status !== 0) throw demoFailed(complaint);
  return output;
}
