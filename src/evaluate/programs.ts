/** The processes that a measurement starts: device processes, adapters, fio, dd. */
import { type ChildProcess, spawn } from 'node:child_process';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VloError } from '../errors.js';

const STOP_MS = 20_000;
const POLL_MS = 20;
const OUTPUT_MAX = 64 * 1024;
const TAIL_LINES = 4;

/** A command as one would type it. */
export function commandText(command: readonly string[]): string {
  return command
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

/** One child process. Kill it, or wait for its end: nothing else ends it. */
export class Program {
  readonly command: readonly string[];
  /** Resolves with the exit status, or null when a signal ended it or it could not start. */
  readonly ended: Promise<number | null>;
  /** What it wrote to both of its outputs, up to a limit. */
  output = '';
  isRunning = true;
  private readonly child: ChildProcess;

  constructor(command: readonly string[]) {
    this.command = command;
    this.child = spawn(command[0], command.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
      // A group of its own: a terminal's Ctrl-C is for the bench, which ends the others in order.
      detached: true,
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        if (this.output.length < OUTPUT_MAX) this.output += text;
      });
    }
    this.ended = new Promise((resolve) => {
      const end = (status: number | null): void => {
        this.isRunning = false;
        resolve(status);
      };
      this.child.on('error', (error) => {
        this.output += error.message;
        end(null);
      });
      this.child.on('close', (status) => end(status));
    });
  }

  /** -1 when it could not be started. */
  get pid(): number {
    return this.child.pid ?? -1;
  }

  /** The words in front of the options, without their folders. */
  private get title(): string {
    const end = this.command.findIndex((word, i) => i > 0 && /^-|=/.test(word));
    const words = this.command.slice(0, end === -1 ? undefined : end);
    return words.map((word) => basename(word)).join(' ');
  }

  /** An error with the last lines that it wrote. */
  failure(what: string): VloError {
    const lines = this.output.trim().split('\n').slice(-TAIL_LINES);
    const said = lines.join(' | ');
    const why = said === '' ? '' : `: ${said}`;
    return new VloError('VLO_BENCH_FAILED', `${this.title} ${what}${why}`);
  }

  /** Waits for a text in its output; gives what the pattern's first group holds. */
  async waitFor(pattern: RegExp, limitMs: number): Promise<string> {
    return this.until(() => {
      const match = pattern.exec(this.output);
      return match === null ? null : (match[1] ?? match[0]);
    }, limitMs);
  }

  /** Waits until something is there, while it runs. */
  async until<T>(probe: () => T | null, limitMs: number): Promise<T> {
    const end = performance.now() + limitMs;
    for (;;) {
      const found = probe();
      if (found !== null) return found;
      if (!this.isRunning) throw this.failure('ended early');
      if (performance.now() > end) throw this.failure(`not ready within ${limitMs / 1000} s`);
      await sleep(POLL_MS);
    }
  }

  /** Waits for its end; one that takes too long is killed. */
  async finish(limitMs: number): Promise<number | null> {
    const timer = setTimeout(() => this.signal('SIGKILL'), limitMs);
    const status = await this.ended;
    clearTimeout(timer);
    return status;
  }

  /** Asks it to end, and kills it when it does not. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.signal(signal);
    await this.finish(STOP_MS);
  }

  /** To the program and all that it started. */
  private signal(signal: NodeJS.Signals): void {
    if (!this.isRunning || this.pid === -1) return;
    try {
      process.kill(-this.pid, signal);
    } catch {
      // It has just ended.
    }
  }
}
