/**
 * The JSON file of `vlo bench transports`: one schema, from which the types are taken, and which
 * `vlo bench report` checks files against. docs/reference/bench-transports.md tells it to people.
 */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { VloError } from '../errors.js';

export const RESULT_KIND = 'virtio-loopback bench transports';
/** Counts up when a field changes its meaning or goes; new fields alone leave it as it is. */
export const RESULT_VERSION = 1;

const SpreadSchema = v.object({ median: v.number(), min: v.number(), max: v.number() });
const Texts = v.array(v.string());
const Counters = v.record(v.string(), v.number());
const StateSchema = v.picklist(['measured', 'skipped', 'failed']);

const ProcessSchema = v.nullable(
  v.object({ cpuUs: v.number(), voluntary: v.number(), nonvoluntary: v.number() }),
);
const CountsSchema = v.object({
  system: v.object({
    busyUs: v.number(),
    contextSwitches: v.number(),
    interrupts: v.number(),
  }),
  interrupts: v.object({
    timer: v.number(),
    irqWork: v.number(),
    reschedule: v.number(),
    functionCall: v.number(),
    other: v.number(),
  }),
  device: ProcessSchema,
  adapter: ProcessSchema,
});
const WindowSchema = v.object({ seconds: v.number(), requests: v.number(), counts: CountsSchema });

const SampleSchema = v.object({
  round: v.number(),
  iops: v.nullable(v.number()),
  bytesPerSecond: v.number(),
  latencyUs: v.nullable(v.object({ p50: v.number(), p99: v.number(), p999: v.number() })),
  window: WindowSchema,
});

const TraceSchema = v.object({
  method: v.picklist(['tracing', 'strace']),
  seconds: v.number(),
  requests: v.number(),
  /** Calls by name. */
  systemCalls: v.object({
    device: v.nullable(Counters),
    adapter: v.nullable(Counters),
    program: v.nullable(Counters),
  }),
  /** Wake-ups by whose thread was woken; null where only calls could be counted. */
  wakeUps: v.nullable(Counters),
});

const RowSchema = v.object({
  workload: v.string(),
  transport: v.string(),
  state: StateSchema,
  reason: v.nullable(v.string()),
  command: v.nullable(v.string()),
  samples: v.array(SampleSchema),
  trace: v.nullable(TraceSchema),
  summary: v.record(v.string(), SpreadSchema),
});

const ResultSchema = v.object({
  kind: v.literal(RESULT_KIND),
  version: v.literal(RESULT_VERSION),
  startedAt: v.string(),
  seconds: v.number(),
  command: v.string(),
  settings: v.object({
    rounds: v.number(),
    seconds: v.number(),
    sizeBytes: v.number(),
    queues: v.number(),
    device: v.string(),
    engine: v.nullable(v.string()),
  }),
  machine: v.object({
    architecture: v.string(),
    processor: v.string(),
    processorKind: v.picklist(['real', 'virtual', 'emulated']),
    processorCount: v.number(),
    memoryMiB: v.number(),
    kernel: v.string(),
    distribution: v.string(),
    loadAverage: v.number(),
  }),
  versions: v.record(v.string(), v.string()),
  workloads: v.array(
    v.object({
      id: v.string(),
      title: v.string(),
      figure: v.picklist(['iops', 'bytesPerSecond']),
    }),
  ),
  transports: v.array(
    v.object({
      id: v.string(),
      title: v.string(),
      state: StateSchema,
      reason: v.nullable(v.string()),
      enable: v.nullable(v.string()),
      commands: Texts,
    }),
  ),
  rows: v.array(RowSchema),
});

export type BenchResult = v.InferOutput<typeof ResultSchema>;
export type ResultRow = v.InferOutput<typeof RowSchema>;
export type Sample = v.InferOutput<typeof SampleSchema>;
export type Trace = v.InferOutput<typeof TraceSchema>;
export type MeasureWindow = v.InferOutput<typeof WindowSchema>;

/** @throws VloError VLO_BENCH_RESULT */
export function parseResult(text: string, name: string): BenchResult {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new VloError('VLO_BENCH_RESULT', `'${name}' is not JSON`);
  }
  const parsed = v.safeParse(ResultSchema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  const where = v.getDotPath(issue) ?? 'its top';
  throw new VloError('VLO_BENCH_RESULT', `'${name}' is no such result: ${where}: ${issue.message}`);
}

/** @throws VloError VLO_BENCH_RESULT */
export function readResult(path: string): BenchResult {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new VloError('VLO_BENCH_RESULT', `'${path}' cannot be read (${code})`);
  }
  return parseResult(text, path);
}
