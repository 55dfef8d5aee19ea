/** A result as a run gives it, made up. */
import { TRANSPORTS, WORKLOADS } from './plan.js';
import type { BenchResult, ResultRow, Sample, Trace } from './result.js';
import { summarize } from './summary.js';

/** One round: `requests` in one second, `switches` of the whole system for each. */
export function sampleOf(requests: number, switches = 2): Sample {
  const process = { cpuUs: requests * 10, voluntary: requests, nonvoluntary: 0 };
  return {
    ...{ round: 0, iops: requests, bytesPerSecond: requests * 4096 },
    latencyUs: { p50: 100, p99: 1000, p999: 20_000 },
    window: {
      ...{ seconds: 1, requests },
      counts: {
        system: {
          ...{ busyUs: requests * 100, contextSwitches: requests * switches },
          interrupts: requests * 3,
        },
        interrupts: {
          ...{ timer: requests * 2, irqWork: requests, reschedule: 0, functionCall: 0, other: 0 },
        },
        device: process,
        adapter: { ...process, voluntary: 0 },
      },
    },
  };
}

export const TRACE: Trace = {
  ...{ method: 'tracing', seconds: 1, requests: 100 },
  systemCalls: {
    device: { read: 150, write: 50, clock_gettime: 500 },
    adapter: {},
    program: { io_uring_enter: 100 },
  },
  wakeUps: { program: 100, device: 100, adapter: 0, kworker: 0, other: 40 },
};

export function rowOf(workload: string, transport: string, requests: number): ResultRow {
  const samples = [requests, requests * 0.9, requests * 1.2].map((count) => sampleOf(count));
  return {
    ...{ workload, transport, state: 'measured', reason: null, command: 'fio --rw=randread' },
    ...{ samples, trace: TRACE, summary: summarize(samples, TRACE) },
  };
}

/** IOPS of each transport in all of its workloads. */
export const SPEEDS = {
  'loopback-bounce': 700,
  'loopback-direct': 800,
  vduse: 500,
  null_blk: 25_000,
} as const;

export function resultOf(change: Partial<BenchResult> = {}): BenchResult {
  return {
    ...{ kind: 'virtio-loopback bench transports', version: 1, seconds: 300 },
    startedAt: '2026-11-22T20:00:00.000Z',
    command: 'vlo bench transports',
    settings: {
      ...{ rounds: 3, seconds: 1, sizeBytes: 2 ** 26, queues: 1, device: 'ours' },
      engine: 'io_uring',
    },
    machine: {
      ...{ architecture: 'x86-64', processor: 'QEMU TCG CPU', processorKind: 'emulated' },
      ...{ processorCount: 2, memoryMiB: 1925, kernel: '7.2.13', distribution: 'Debian' },
      loadAverage: 0.5,
    },
    versions: { 'virtio-loopback': '0.1.0', fio: 'fio-3.41' },
    workloads: WORKLOADS.map(({ id, title, figure }) => ({ id, title, figure })),
    transports: TRANSPORTS.map(({ id, title }) => ({
      ...{ id, title, state: 'measured', reason: null, enable: null },
      commands: [`vlo attach blk --name ${id}`],
    })),
    rows: WORKLOADS.flatMap(({ id, work }) =>
      TRANSPORTS.map(({ id: transport, refuses }): ResultRow => {
        const reason = refuses[work.kind] ?? null;
        const row = rowOf(id, transport, SPEEDS[transport as keyof typeof SPEEDS]);
        if (reason === null) return row;
        return { ...row, reason, state: 'skipped', samples: [], trace: null, summary: {} };
      }),
    ),
    ...change,
  };
}
