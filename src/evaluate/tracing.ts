/**
 * Counts inside of the kernel, by its tracing histograms: system calls and wake-ups of each thread.
 * Nothing is stopped and nothing copied out, so the program runs nearly as it does untraced.
 */
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { VloError } from '../errors.js';

const TRACING = '/sys/kernel/tracing';
const ENTRIES = 8192;

/** Event, and what it is counted by. */
const EVENTS = {
  systemCalls: { event: 'raw_syscalls/sys_enter', keys: 'common_pid,id.syscall' },
  wakeUps: { event: 'sched/sched_wakeup', keys: 'pid' },
} as const;
type EventName = keyof typeof EVENTS;
const NAMES = Object.keys(EVENTS) as EventName[];

/** Counts of a thread by name: of system calls, or of `wakeup` alone. */
export type ThreadCounts = Map<number, Map<string, number>>;
export type TraceCounts = Readonly<Record<EventName, ThreadCounts>>;

/** Name under which wake-ups are counted. */
const WAKE_UP = 'wakeup';

/**
 * Of the text of a histogram: lines such as
 * `{ common_pid: 161, id: sys_close [ 3] } hitcount: 16`, and the number of dropped events.
 * @throws VloError VLO_BENCH_FAILED when events were dropped
 */
export function parseHistogram(text: string): ThreadCounts {
  const counts: ThreadCounts = new Map();
  const pattern =
    /^\{ (?:common_)?pid:\s*(\d+)(?:, id: (\w+)\s*(?:\[[^\]]*\])?)? \} hitcount:\s*(\d+)/;
  for (const line of text.split('\n')) {
    const match = pattern.exec(line);
    if (match === null) continue;
    const thread = Number(match[1]);
    const names = counts.get(thread) ?? new Map<string, number>();
    const name = match[2]?.replace(/^sys_/, '') ?? WAKE_UP;
    names.set(name, (names.get(name) ?? 0) + Number(match[3]));
    counts.set(thread, names);
  }
  const dropped = Number(/^\s*Dropped: (\d+)/m.exec(text)?.[1] ?? 0);
  if (dropped > 0) {
    throw new VloError('VLO_BENCH_FAILED', `the kernel's histogram dropped ${dropped} events`);
  }
  return counts;
}

/** All of a thread's counts together. */
export function totalOf(names: ReadonlyMap<string, number> | undefined): number {
  return [...(names?.values() ?? [])].reduce((sum, count) => sum + count, 0);
}

/** Histograms in an instance of their own: what others trace on this machine is left alone. */
export class Tracer {
  private readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /**
   * Counts nothing before its start. Null where the kernel has no such histograms, or does not let
   * this user have them.
   */
  static open(root = TRACING): Tracer | null {
    const tracer = new Tracer(join(root, 'instances', `vlo-bench-${process.pid}`));
    try {
      mkdirSync(tracer.folder);
      for (const name of NAMES) tracer.set(name, '', ':pause');
      return tracer;
    } catch {
      tracer.close();
      return null;
    }
  }

  private path(name: EventName, file: string): string {
    return join(this.folder, 'events', EVENTS[name].event, file);
  }

  private set(name: EventName, prefix: '' | '!', suffix: '' | ':pause' | ':continue'): void {
    const trigger = `${prefix}hist:keys=${EVENTS[name].keys}:size=${ENTRIES}${suffix}\n`;
    // Opened to be overwritten, the file forgets all triggers that it has.
    writeFileSync(this.path(name, 'trigger'), trigger, { flag: 'a' });
  }

  /** Begins to count. Quick: what is to be compared with the counts is read right before. */
  start(): void {
    for (const name of NAMES) this.set(name, '', ':continue');
  }

  /** Counts no more. As quick. */
  stop(): void {
    for (const name of NAMES) this.set(name, '', ':pause');
  }

  /** What was counted. Slow: every thread of the machine is in it. */
  read(): TraceCounts {
    return {
      wakeUps: parseHistogram(readFileSync(this.path('wakeUps', 'hist'), 'utf8')),
      systemCalls: parseHistogram(readFileSync(this.path('systemCalls', 'hist'), 'utf8')),
    };
  }

  /** Takes the histograms away. */
  close(): void {
    const attempts = [
      ...NAMES.map((name) => () => this.set(name, '!', '')),
      () => rmdirSync(this.folder),
    ];
    for (const attempt of attempts) {
      try {
        attempt();
      } catch {
        // It was not there.
      }
    }
  }
}
