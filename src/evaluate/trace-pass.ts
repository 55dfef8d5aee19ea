/** The pass that counts system calls and wake-ups: once for each cell, after all rounds. */
import { readFileSync } from 'node:fs';
import { VloError } from '../errors.js';
import { threadsOf } from './counters.js';
import { type MeasurePlan, measure, type Observer, type Progress } from './measure.js';
import type { Workload } from './plan.js';
import type { Program } from './programs.js';
import type { Trace } from './result.js';
import { Strace } from './strace.js';
import type { Subject } from './subject.js';
import { type ThreadCounts, type TraceCounts, Tracer, totalOf } from './tracing.js';

type Counters = Record<string, number>;

/** Adds the counts of some threads up, by name. */
function countersOf(counts: ThreadCounts, threads: Iterable<number>): Counters {
  const sum: Counters = {};
  for (const thread of threads) {
    for (const [name, count] of counts.get(thread) ?? []) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}

/** The thread that does the work: of the program's threads the one with the most system calls. */
export function busiestThread(calls: ThreadCounts, threads: readonly number[]): number | null {
  const sorted = threads.toSorted((a, b) => totalOf(calls.get(b)) - totalOf(calls.get(a)));
  return sorted[0] ?? null;
}

/** What a thread that belongs to no process of ours is to the count. */
function kindOf(thread: number): 'kworker' | 'other' {
  try {
    const isWorker = readFileSync(`/proc/${thread}/comm`, 'utf8').startsWith('kworker/');
    return isWorker ? 'kworker' : 'other';
  } catch {
    return 'other';
  }
}

/** Threads of each part, collected while they live. */
interface Parts {
  readonly device: ReadonlySet<number>;
  readonly adapter: ReadonlySet<number>;
  readonly program: readonly number[];
}

/** Sorts what was counted by whose thread it was. */
export function sortTrace(
  { systemCalls, wakeUps }: TraceCounts,
  parts: Parts,
  kind: (thread: number) => string = kindOf,
): Pick<Trace, 'systemCalls' | 'wakeUps'> {
  const worker = busiestThread(systemCalls, parts.program);
  const woken: Counters = { program: 0, device: 0, adapter: 0, kworker: 0, other: 0 };
  for (const [thread, names] of wakeUps) {
    let whose = 'other';
    if (thread === worker) whose = 'program';
    else if (parts.device.has(thread)) whose = 'device';
    else if (parts.adapter.has(thread)) whose = 'adapter';
    else if (!parts.program.includes(thread)) whose = kind(thread);
    woken[whose] += totalOf(names);
  }
  const calls = (threads: Iterable<number>): Counters => countersOf(systemCalls, threads);
  return {
    systemCalls: {
      device: parts.device.size === 0 ? null : calls(parts.device),
      adapter: parts.adapter.size === 0 ? null : calls(parts.adapter),
      program: worker === null ? null : calls([worker]),
    },
    wakeUps: woken,
  };
}

type Counted = Omit<Trace, 'method'>;

/** Requests and time between two moments. */
class Stretch {
  private readonly progress: Progress;
  private readonly requests: number;
  private readonly from = performance.now();

  constructor(progress: Progress) {
    this.progress = progress;
    this.requests = progress();
  }

  end(): Pick<Trace, 'seconds' | 'requests'> {
    const requests = this.progress() - this.requests;
    return { requests, seconds: (performance.now() - this.from) / 1000 };
  }
}

/** Counts with the kernel's histograms. */
class TracingObserver implements Observer {
  private readonly subject: Subject;
  private tracer: Tracer | null = null;
  private parts: Parts = { device: new Set(), adapter: new Set(), program: [] };
  private stretch: Stretch | null = null;
  counted: Counted | null = null;

  constructor(subject: Subject) {
    this.subject = subject;
  }

  async begin(program: Program, progress: Progress): Promise<void> {
    this.tracer = Tracer.open();
    if (this.tracer === null) throw new VloError('VLO_BENCH_FAILED', 'tracing is in use');
    const { device, adapter } = this.subject.processes;
    const threads = (pid: number | null): Set<number> =>
      new Set(pid === null ? [] : threadsOf(pid));
    this.parts = {
      device: threads(device),
      adapter: threads(adapter),
      program: threadsOf(program.pid),
    };
    this.stretch = new Stretch(progress);
    this.tracer.start();
  }

  async end(): Promise<void> {
    if (this.tracer === null || this.stretch === null) return;
    this.tracer.stop();
    const stretch = this.stretch.end();
    this.counted = { ...stretch, ...sortTrace(this.tracer.read(), this.parts) };
  }

  close(): void {
    this.tracer?.close();
  }
}

/** Counts with strace: system calls alone. */
class StraceObserver implements Observer {
  private readonly subject: Subject;
  private readonly folder: string;
  private running: { device: Strace | null; adapter: Strace | null } | null = null;
  private stretch: Stretch | null = null;
  counted: Counted | null = null;

  constructor(subject: Subject, folder: string) {
    this.subject = subject;
    this.folder = folder;
  }

  async begin(_program: Program, progress: Progress): Promise<void> {
    const { device, adapter } = this.subject.processes;
    const start = (pid: number | null): Strace | null =>
      pid === null ? null : new Strace(this.folder, pid);
    this.running = { device: start(device), adapter: start(adapter) };
    await Promise.all([this.running.device?.ready(), this.running.adapter?.ready()]);
    this.stretch = new Stretch(progress);
  }

  async end(): Promise<void> {
    const { device, adapter } = this.running ?? { device: null, adapter: null };
    this.running = null;
    const counters = async (one: Strace | null): Promise<Counters | null> =>
      one === null ? null : Object.fromEntries(await one.stop());
    const calls = await counters(device);
    const stretch = this.stretch?.end();
    const systemCalls = { device: calls, adapter: await counters(adapter), program: null };
    if (stretch !== undefined) this.counted = { ...stretch, systemCalls, wakeUps: null };
  }

  async close(): Promise<void> {
    if (this.running !== null) await this.end().catch(() => {});
  }
}

export type TraceMethod = Trace['method'];

/** Time to set up and to take away: strace stops every thread, one by one. */
const EXTRA_MS: Readonly<Record<TraceMethod, number>> = { tracing: 3000, strace: 15_000 };

/** One pass. Null where the subject has no process that strace could look at. */
export async function traceOnce(
  subject: Subject,
  workload: Workload,
  plan: MeasurePlan,
  method: TraceMethod,
): Promise<Trace | null> {
  if (method === 'strace' && subject.processes.device === null) return null;
  const observer =
    method === 'tracing' ? new TracingObserver(subject) : new StraceObserver(subject, plan.folder);
  try {
    await measure(subject, workload, { ...plan, extraMs: EXTRA_MS[method] }, observer);
    const { counted } = observer;
    return counted === null || counted.requests <= 0 ? null : { method, ...counted };
  } finally {
    await observer.close();
  }
}
