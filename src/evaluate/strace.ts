/** System calls by strace, where the kernel's histograms cannot be had. It slows what it counts. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Program } from './programs.js';

const ATTACH_MS = 60_000;

/** Of strace's summary (`-c`): calls by name. */
export function parseStrace(text: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of text.split('\n')) {
    // % time, seconds, usecs/call, calls, errors where there were any, name
    const match = /^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?([a-z]\w*)\s*$/.exec(line);
    if (match !== null && match[2] !== 'total') counts.set(match[2], Number(match[1]));
  }
  return counts;
}

/** Counts of one process, from its start on. */
export class Strace {
  readonly command: readonly string[];
  private readonly file: string;
  private readonly program: Program;

  constructor(folder: string, pid: number) {
    this.file = join(folder, `strace-${pid}`);
    this.command = ['strace', '-f', '-c', '-o', this.file, '-p', `${pid}`];
    this.program = new Program(this.command);
  }

  /** Resolves when it counts. */
  async ready(): Promise<void> {
    await this.program.waitFor(/attached/, ATTACH_MS);
  }

  /** Ends it, which leaves the process as it was, and gives the counts. */
  async stop(): Promise<Map<string, number>> {
    await this.program.stop('SIGINT');
    const counts = parseStrace(readFileSync(this.file, 'utf8'));
    rmSync(this.file, { force: true });
    return counts;
  }
}
