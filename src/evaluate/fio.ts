/** fio: its command line, and what its JSON tells. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { VloError } from '../errors.js';
import type { BlockWork } from './plan.js';

/** Engines that keep several requests in flight, the best first. */
const ENGINES = ['io_uring', 'libaio'] as const;
export type FioEngine = (typeof ENGINES)[number];

const PROBE_LIMIT_MS = 60_000;

export interface FioJob {
  /** Block device. */
  readonly node: string;
  readonly engine: FioEngine;
  readonly work: BlockWork;
  /** Time before fio begins to count. */
  readonly rampMs: number;
  readonly runMs: number;
  /** File for the JSON. */
  readonly output: string;
}

/** The words of the command, the program first. */
export function fioCommand(job: FioJob): string[] {
  const { work } = job;
  return [
    ...['fio', '--name=transports', `--filename=${job.node}`, `--ioengine=${job.engine}`],
    ...['--direct=1', `--rw=${work.rw}`, `--bs=${work.blockSize}`, `--iodepth=${work.depth}`],
    ...['--time_based', `--ramp_time=${job.rampMs}ms`, `--runtime=${job.runMs}ms`],
    // A thread is seen below fio's own process: its wake-ups are told from all others.
    ...['--thread', '--norandommap', '--randrepeat=0', '--group_reporting'],
    ...['--lat_percentiles=1', '--clat_percentiles=0', '--percentile_list=50:99:99.9'],
    ...['--eta=never', '--output-format=json', `--output=${job.output}`],
  ];
}

/** Half of the requests, 99 of 100, and 999 of 1,000 took at most so long, in µs. */
export interface LatencyUs {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

export interface FioResult {
  readonly version: string;
  readonly requests: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latencyUs: LatencyUs;
}

const Percentiles = v.record(v.string(), v.number());
const Direction = v.object({
  total_ios: v.number(),
  iops: v.number(),
  bw_bytes: v.number(),
  lat_ns: v.optional(v.object({ percentile: v.optional(Percentiles) })),
  clat_ns: v.optional(v.object({ percentile: v.optional(Percentiles) })),
});
const FioOutput = v.object({
  'fio version': v.string(),
  jobs: v.tupleWithRest(
    [v.object({ error: v.number(), read: Direction, write: Direction })],
    v.unknown(),
  ),
});

function latencyOf(direction: v.InferOutput<typeof Direction>): LatencyUs {
  const percentiles = direction.lat_ns?.percentile ?? direction.clat_ns?.percentile;
  const microseconds = (name: string): number => {
    const ns = percentiles?.[name];
    if (ns === undefined) {
      throw new VloError('VLO_BENCH_FAILED', `fio gave no percentile ${name} of the latency`);
    }
    return ns / 1000;
  };
  return {
    p50: microseconds('50.000000'),
    p99: microseconds('99.000000'),
    p999: microseconds('99.900000'),
  };
}

/**
 * Of fio's JSON, in front of which it may have put warnings.
 * @throws VloError VLO_BENCH_FAILED
 */
export function parseFio(text: string, rw: BlockWork['rw']): FioResult {
  const start = text.indexOf('{');
  let output: v.InferOutput<typeof FioOutput>;
  try {
    output = v.parse(FioOutput, JSON.parse(text.slice(start)));
  } catch {
    const head = text.trim().split('\n').slice(0, 3).join(' ');
    throw new VloError('VLO_BENCH_FAILED', `fio wrote no result: ${head}`);
  }
  const [job] = output.jobs;
  if (job.error !== 0) {
    throw new VloError('VLO_BENCH_FAILED', `fio met an I/O error (errno ${job.error})`);
  }
  const direction = /read/.test(rw) ? job.read : job.write;
  if (direction.total_ios === 0) {
    throw new VloError('VLO_BENCH_FAILED', 'no request was finished in the time given');
  }
  return {
    version: output['fio version'],
    requests: direction.total_ios,
    iops: direction.iops,
    bytesPerSecond: direction.bw_bytes,
    latencyUs: latencyOf(direction),
  };
}

function works(engine: FioEngine, folder: string): Promise<boolean> {
  const file = join(folder, 'probe');
  writeFileSync(file, new Uint8Array(4096));
  const args = ['--name=probe', `--filename=${file}`, `--ioengine=${engine}`, '--rw=read'];
  return new Promise((resolve) => {
    execFile('fio', [...args, '--bs=4k', '--size=4k'], { timeout: PROBE_LIMIT_MS }, (error) =>
      resolve(error === null),
    );
  });
}

/** The first engine that works here; null: none does. Tries each on a file of its own. */
export async function findEngine(parent: string): Promise<FioEngine | null> {
  const folder = mkdtempSync(join(parent, 'vlo-fio-'));
  try {
    for (const engine of ENGINES) if (await works(engine, folder)) return engine;
    return null;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
