/** Child processes that end by themselves, and the folder they work in. */

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFailed, onTestFinished } from 'vitest';

export interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Polls until `check` gives something other than undefined, null or false. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  check: () => T | undefined | null | false | Promise<T | undefined | null | false>,
): Promise<T> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== null && value !== false) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(20);
  }
}

/**
 * One child process with its output collected. Ends with this process, whatever way that one ends.
 */
export class Child {
  stdout = '';
  stderr = '';
  readonly name: string;
  readonly child: ChildProcess;
  /** Resolves when the process and all that share its output have ended. */
  readonly ended: Promise<number | null>;
  #running = true;

  constructor(name: string, command: string, args: readonly string[], options: SpawnOptions = {}) {
    this.name = name;
    // setpriv then becomes the command: same pid, and the kernel kills it when we die.
    this.child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...options,
    });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    // A peer that ends early closes its stdin: what we still write is of no interest then.
    this.child.stdin?.on('error', () => undefined);
    this.ended = new Promise((done) => {
      this.child.on('error', (error) => {
        this.stderr += `${error}\n`;
      });
      this.child.on('close', (code) => {
        this.#running = false;
        done(code);
      });
    });
  }

  get running(): boolean {
    return this.#running;
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** SIGKILL, and waits until nothing is left of it. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  /**
   * Waits for the end; past the time it is killed, and that is an error that shows its last output.
   */
  async result(timeoutMs: number): Promise<Result> {
    const timer = setTimeout(() => {
      this.stderr += `\n[${this.name}: killed after ${timeoutMs} ms]\n`;
      this.child.kill('SIGKILL');
    }, timeoutMs);
    const status = await this.ended;
    clearTimeout(timer);
    return { status, stdout: this.stdout, stderr: this.stderr };
  }

  /** Waits for text in the output. */
  waitFor(pattern: RegExp, timeoutMs: number, from: 'stdout' | 'stderr' = 'stdout') {
    return until(`${this.name}: ${pattern} on ${from}`, timeoutMs, () => {
      const match = pattern.exec(this[from]);
      if (match) return match;
      if (!this.#running) throw new Error(`${this.name} ended early\n${this.tail()}`);
      return undefined;
    });
  }

  tail(): string {
    const last = (text: string): string => text.trimEnd().split('\n').slice(-25).join('\n');
    return `--- ${this.name} stdout\n${last(this.stdout)}\n--- ${this.name} stderr\n${last(this.stderr)}`;
  }
}

/**
 * A temporary folder of one test, seen as /sock by peers. When the test is over its processes are
 * ended, the last started first, and the folder is removed; when the test failed, their last output
 * is printed.
 */
export class Workspace {
  readonly dir = mkdtempSync(join(tmpdir(), 'vlo-peers-'));
  readonly children: Child[] = [];

  constructor() {
    onTestFailed(() => {
      for (const child of this.children) console.error(child.tail());
    });
    onTestFinished(() => this.close());
  }

  async close(): Promise<void> {
    for (const child of this.children.toReversed()) if (child.running) await child.kill();
    rmSync(this.dir, { recursive: true, force: true });
  }

  add(child: Child): Child {
    this.children.push(child);
    return child;
  }

  /** The path on the host. */
  path(name: string): string {
    return join(this.dir, name);
  }

  /** A sparse file of `bytes`; gives its name. */
  sparse(name: string, bytes: number): string {
    const fd = openSync(this.path(name), 'w');
    ftruncateSync(fd, bytes);
    closeSync(fd);
    return name;
  }
}

/** Runs a program of the host. */
export function run(command: string, args: readonly string[], timeoutMs = 60_000): Promise<Result> {
  return new Child(command, command, args, { stdio: ['ignore', 'pipe', 'pipe'] }).result(timeoutMs);
}
