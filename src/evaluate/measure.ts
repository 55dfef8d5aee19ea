/** One measurement: a program works on a device, and in the middle of it the counters are read. */
import { readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VloError } from '../errors.js';
import { countsBetween, readCounts } from './counters.js';
import { type FioEngine, fioCommand, parseFio } from './fio.js';
import { chooseGenerator, RNG_COMMAND } from './hwrng.js';
import { type BlockWork, RNG_REQUEST_SIZE, type Workload } from './plan.js';
import { parseBlockStat, parseReadBytes } from './proc.js';
import { Program } from './programs.js';
import type { MeasureWindow, Sample } from './result.js';
import type { Subject } from './subject.js';

/** Time between the first request and the window. */
const RAMP_MS = 1000;
/** fio works on for so long behind the window: to read the counters takes its time. */
const MARGIN_MS = 1500;
/** Time that fio may take to start, and to end, beyond the time that it works. */
const SLACK_MS = 90_000;

/** What a measurement needs to know beside its subject and workload. */
export interface MeasurePlan {
  readonly seconds: number;
  /** fio works on for so long beyond the window: an observer needs time at both of its ends. */
  readonly extraMs?: number;
  readonly engine: FioEngine | null;
  /** Folder for files that come and go. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

/** What watches while the window is open; the pass with tracing has one. */
export interface Observer {
  /** The program works: counting may begin. */
  begin(program: Program, progress: Progress): Promise<void>;
  /** The window is over; the program still works. */
  end(): Promise<void>;
}

/** Reads how many requests were finished since the program or the machine started. */
export type Progress = () => number;

const runMs = ({ seconds, extraMs = 0 }: MeasurePlan): number =>
  seconds * 1000 + MARGIN_MS + extraMs;

function checkRunning(signal: AbortSignal): void {
  if (signal.aborted) throw new VloError('VLO_CLOSED', 'interrupted');
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => checkRunning(signal));
}

/** Waits for the first request, lets the program get going, and counts for a while. */
async function openWindow(
  program: Program,
  progress: Progress,
  subject: Subject,
  plan: MeasurePlan,
  observer: Observer | null,
): Promise<MeasureWindow> {
  const start = progress();
  await program.until(() => (progress() > start ? true : null), SLACK_MS);
  await pause(RAMP_MS, plan.signal);
  await observer?.begin(program, progress);
  const requestsBefore = progress();
  const before = readCounts(subject.processes);
  const from = performance.now();
  await pause(plan.seconds * 1000, plan.signal);
  const requests = progress() - requestsBefore;
  const counts = countsBetween(before, readCounts(subject.processes));
  const seconds = (performance.now() - from) / 1000;
  if (!program.isRunning) throw program.failure('ended before the counters were read');
  await observer?.end();
  if (requests <= 0) throw program.failure('finished no request');
  return { seconds, requests, counts };
}

/** The command that works on a subject. */
export function workCommand(workload: Workload, node: string, plan: MeasurePlan): string[] {
  const { work } = workload;
  if (work.kind === 'rng') return [...RNG_COMMAND];
  if (plan.engine === null) throw new VloError('VLO_BENCH_UNAVAILABLE', 'fio has no engine');
  return fioCommand({
    ...{ node, work, engine: plan.engine, rampMs: RAMP_MS, runMs: runMs(plan) },
    output: join(plan.folder, 'fio.json'),
  });
}

async function measureDisk(
  subject: Subject,
  work: BlockWork,
  program: Program,
  plan: MeasurePlan,
  observer: Observer | null,
): Promise<Omit<Sample, 'round'>> {
  const stat = `/sys/block/${basename(subject.node)}/stat`;
  const progress = (): number => parseBlockStat(readFileSync(stat, 'utf8'));
  const window = await openWindow(program, progress, subject, plan, observer);
  const status = await program.finish(runMs(plan) + SLACK_MS);
  if (status !== 0) throw program.failure(`ended with status ${status}`);
  const output = join(plan.folder, 'fio.json');
  const { iops, bytesPerSecond, latencyUs } = parseFio(readFileSync(output, 'utf8'), work.rw);
  rmSync(output, { force: true });
  return { iops, bytesPerSecond, latencyUs, window };
}

async function measureGenerator(
  subject: Subject,
  program: Program,
  plan: MeasurePlan,
  observer: Observer | null,
): Promise<Omit<Sample, 'round'>> {
  const progress = (): number =>
    parseReadBytes(readFileSync(`/proc/${program.pid}/io`, 'utf8')) / RNG_REQUEST_SIZE;
  const window = await openWindow(program, progress, subject, plan, observer);
  const bytesPerSecond = (window.requests * RNG_REQUEST_SIZE) / window.seconds;
  return { iops: null, bytesPerSecond, latencyUs: null, window };
}

/**
 * Measures once.
 * @throws VloError VLO_BENCH_FAILED; VLO_CLOSED when the signal says so
 */
export async function measure(
  subject: Subject,
  workload: Workload,
  plan: MeasurePlan,
  observer: Observer | null = null,
): Promise<Omit<Sample, 'round'>> {
  checkRunning(plan.signal);
  if (subject.generator !== null) chooseGenerator(subject.generator);
  const program = new Program(workCommand(workload, subject.node, plan));
  try {
    const { work } = workload;
    if (work.kind === 'rng') return await measureGenerator(subject, program, plan, observer);
    return await measureDisk(subject, work, program, plan, observer);
  } finally {
    await program.stop('SIGINT');
  }
}
