/** The figures of a row, made of what was counted; and what they are held against. */
import { BARS, BASE_TRANSPORT, type Bar, EVERY_WORKLOAD } from './plan.js';
import type { BenchResult, ResultRow, Sample, Trace } from './result.js';
import { ratio, type Spread, spreadOf } from './statistics.js';

/** How a figure is written. */
export type Unit = 'iops' | 'bytesPerSecond' | 'us' | 'count';

export interface Metric {
  readonly id: string;
  readonly title: string;
  readonly unit: Unit;
}

/** All figures, in the order of tables. Times and counts, but for latency, are for one request. */
export const METRICS: readonly Metric[] = [
  { id: 'iops', title: 'IOPS', unit: 'iops' },
  { id: 'bytesPerSecond', title: 'bandwidth', unit: 'bytesPerSecond' },
  { id: 'latencyP50', title: 'latency p50', unit: 'us' },
  { id: 'latencyP99', title: 'latency p99', unit: 'us' },
  { id: 'latencyP999', title: 'latency p99.9', unit: 'us' },
  { id: 'cpuSystem', title: 'CPU, whole system', unit: 'us' },
  { id: 'cpuDevice', title: 'CPU, device process', unit: 'us' },
  { id: 'cpuAdapter', title: 'CPU, adapter', unit: 'us' },
  { id: 'contextSwitches', title: 'context switches, whole system', unit: 'count' },
  { id: 'deviceSwitches', title: 'context switches, device process', unit: 'count' },
  { id: 'adapterWakeUps', title: 'adapter wake-ups', unit: 'count' },
  { id: 'wakeUps', title: 'thread wake-ups on the path', unit: 'count' },
  { id: 'interrupts', title: 'interrupts without the timer', unit: 'count' },
  { id: 'irqWork', title: 'IRQ work interrupts', unit: 'count' },
  { id: 'reschedule', title: 'rescheduling interrupts', unit: 'count' },
  { id: 'timer', title: 'timer interrupts', unit: 'count' },
  { id: 'deviceCalls', title: 'system calls, device process', unit: 'count' },
  { id: 'deviceClockCalls', title: 'clock reads by system call, device process', unit: 'count' },
  { id: 'adapterCalls', title: 'system calls, adapter', unit: 'count' },
  { id: 'programCalls', title: 'system calls, program', unit: 'count' },
];

export function metricOf(id: string): Metric {
  return METRICS.find((metric) => metric.id === id) ?? { id, title: id, unit: 'count' };
}

/** Whose wake-ups belong to a request: all else is the machine's own business. */
const ON_PATH = ['program', 'device', 'adapter', 'kworker'];

/** The figures of one round. */
function figuresOf({ iops, bytesPerSecond, latencyUs, window }: Sample) {
  const { requests, counts } = window;
  const { system, interrupts, device, adapter } = counts;
  const each = (count: number | null | undefined): number | null => ratio(count, requests);
  const switches = (one: typeof device): number | null =>
    one === null ? null : each(one.voluntary + one.nonvoluntary);
  const { irqWork, reschedule, functionCall, other } = interrupts;
  return {
    ...{ iops, bytesPerSecond, latencyP50: latencyUs?.p50 ?? null },
    ...{ latencyP99: latencyUs?.p99 ?? null, latencyP999: latencyUs?.p999 ?? null },
    cpuSystem: each(system.busyUs),
    cpuDevice: each(device?.cpuUs),
    cpuAdapter: each(adapter?.cpuUs),
    contextSwitches: each(system.contextSwitches),
    deviceSwitches: switches(device),
    // Each wake-up ends a wait; to be preempted is none.
    adapterWakeUps: each(adapter?.voluntary),
    interrupts: each(irqWork + reschedule + functionCall + other),
    irqWork: each(irqWork),
    reschedule: each(reschedule),
    timer: each(interrupts.timer),
  };
}

type Counters = Readonly<Record<string, number>>;

/**
 * A machine whose clock can be read in user space answers these without a system call; one that is
 * emulated mostly cannot. They are counted apart, so that machines compare.
 */
const CLOCK_CALLS: readonly string[] = ['clock_gettime', 'gettimeofday', 'time'];

/** Calls that are, or are not, reads of the clock. */
function callsOf(counters: Counters | null, ofClock: boolean): number | null {
  if (counters === null) return null;
  return Object.entries(counters)
    .filter(([name]) => CLOCK_CALLS.includes(name) === ofClock)
    .reduce((total, [, count]) => total + count, 0);
}

/** The figures of the pass with tracing. */
function tracedFigures({ requests, systemCalls, wakeUps }: Trace) {
  const onPath =
    wakeUps === null ? null : ON_PATH.reduce((total, name) => total + (wakeUps[name] ?? 0), 0);
  return {
    wakeUps: ratio(onPath, requests),
    deviceCalls: ratio(callsOf(systemCalls.device, false), requests),
    deviceClockCalls: ratio(callsOf(systemCalls.device, true), requests),
    adapterCalls: ratio(callsOf(systemCalls.adapter, false), requests),
    programCalls: ratio(callsOf(systemCalls.program, false), requests),
  };
}

/** Median and spread of each figure that could be had. */
export function summarize(samples: readonly Sample[], trace: Trace | null): Record<string, Spread> {
  const rounds: Record<string, number | null>[] = samples.map(figuresOf);
  const traced: Record<string, number | null> = trace === null ? {} : tracedFigures(trace);
  const spreads = METRICS.map(({ id }) => {
    const values = id in traced ? [traced[id]] : rounds.map((round) => round[id] ?? null);
    return [id, spreadOf(values)] as const;
  });
  return Object.fromEntries(
    spreads.filter((entry): entry is [string, Spread] => entry[1] !== null),
  );
}

export function findRow(
  result: BenchResult,
  workload: string,
  transport: string,
): ResultRow | undefined {
  return result.rows.find((row) => row.workload === workload && row.transport === transport);
}

/** Median of a figure; null where there is none. */
export function figure(row: ResultRow | undefined, metric: string): number | null {
  return row?.summary[metric]?.median ?? null;
}

/** How many times the figure of VDUSE a transport has; null where either is missing. */
export function againstBase(result: BenchResult, row: ResultRow, metric: string): number | null {
  const base = figure(findRow(result, row.workload, BASE_TRANSPORT), metric);
  return row.transport === BASE_TRANSPORT ? null : ratio(figure(row, metric), base);
}

/** A bar with what was measured. */
export interface Verdict extends Bar {
  readonly value: number;
  readonly isMet: boolean;
  readonly isAimMet: boolean | null;
}

/**
 * Counts of a few in 1,000 requests are the adapter's own timers and the machine's housekeeping: a
 * figure of 0 is met below this.
 */
const NOTHING = 0.005;

function reaches(value: number, sense: Bar['sense'], limit: number): boolean {
  if (sense === 'at least') return value >= limit;
  return sense === 'less than' ? value < limit : value <= Math.max(limit, NOTHING);
}

/** What a bar is held against: the greatest where it is for several workloads. */
function judgedValue(result: BenchResult, { workload, transport, metric, against }: Bar) {
  const values = result.rows
    .filter((row) => row.transport === transport)
    .filter((row) => workload === EVERY_WORKLOAD || row.workload === workload)
    .map((row) => (against === null ? figure(row, metric) : againstBase(result, row, metric)));
  return spreadOf(values)?.max ?? null;
}

/** Every bar for which there are figures. */
export function judge(result: BenchResult): Verdict[] {
  return BARS.flatMap((bar) => {
    const value = judgedValue(result, bar);
    if (value === null) return [];
    return [
      {
        ...bar,
        value,
        isMet: reaches(value, bar.sense, bar.bar),
        isAimMet: bar.aim === null ? null : reaches(value, bar.sense, bar.aim),
      },
    ];
  });
}
