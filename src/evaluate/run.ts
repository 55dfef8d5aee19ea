/** A whole run: transports brought up, measured in turn, traced, and taken down again. */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { VloError } from '../errors.js';
import { type Available, findAvailable, type Missing } from './available.js';
import { machineFacts, versionsOf } from './machine.js';
import { type MeasurePlan, measure, workCommand } from './measure.js';
import type { BenchOptions } from './options.js';
import { interleave, type TransportPlan, type Workload } from './plan.js';
import { commandText } from './programs.js';
import {
  type BenchResult,
  RESULT_KIND,
  RESULT_VERSION,
  type ResultRow,
  type Sample,
  type Trace,
} from './result.js';
import { bringUp, type DeviceKind, type Subject, type Surroundings } from './subject.js';
import { summarize } from './summary.js';
import { traceOnce } from './trace-pass.js';

export interface RunContext {
  readonly options: BenchOptions;
  /** Words that start `vlo`. */
  readonly vlo: readonly string[];
  /** Version of this package. */
  readonly version: string;
  /** The command line, for the report. */
  readonly command: string;
  readonly signal: AbortSignal;
  /** Tells what goes on. */
  readonly log: (line: string) => void;
}

/** What is known of one workload on one transport so far. */
interface Cell {
  readonly workload: Workload;
  readonly transport: TransportPlan;
  state: ResultRow['state'];
  reason: string | null;
  command: string | null;
  readonly samples: Sample[];
  trace: Trace | null;
}

/** Time of a measurement that is thrown away, so that all processes have run their code before. */
const WARM_UP_SECONDS = 2;

/** What an adapter writes where a transport is not there, or not for this device or memory. */
const LACKING = /VLO_(?:TRANSPORT_UNAVAILABLE|UNSUPPORTED): (.*)$/;

const isInterrupt = (error: unknown): boolean =>
  error instanceof VloError && error.code === 'VLO_CLOSED';

class Run {
  private readonly context: RunContext;
  private readonly available: Available;
  private readonly folder: string;
  private readonly cells: Cell[];
  /** How transports were brought up, or why they were not. */
  private readonly commands = new Map<string, string[]>();
  private readonly leftOut = new Map<string, { state: 'failed' | 'skipped'; reason: string }>();

  constructor(context: RunContext, available: Available) {
    this.context = context;
    this.available = available;
    const { dir, transports, workloads } = context.options;
    this.folder = mkdtempSync(join(dir, 'vlo-bench-'));
    this.cells = workloads.flatMap((workload) =>
      transports.map((transport) => this.newCell(workload, transport)),
    );
  }

  private newCell(workload: Workload, transport: TransportPlan): Cell {
    const { kind } = workload.work;
    const missing: Missing | null =
      this.available.transports.get(transport.id) ?? (kind === 'blk' ? this.available.fio : null);
    const refusal = transport.refuses[kind];
    const reason = refusal ?? missing?.reason ?? null;
    return {
      ...{ workload, transport, reason, command: null, samples: [], trace: null },
      state: reason === null ? 'measured' : 'skipped',
    };
  }

  /** @throws VloError VLO_BENCH_UNAVAILABLE when all is left out, or all but the ceiling */
  checkAnything(): void {
    const kernel = this.cells.filter(({ transport }) => transport.attach !== null);
    const judged = kernel.length > 0 ? kernel : this.cells;
    if (judged.some(({ state }) => state !== 'skipped')) return;
    const reasons = new Set(
      judged.map(({ transport, reason }) => {
        return `${transport.title}: ${reason}`;
      }),
    );
    const enable = this.available.fio?.enable;
    const help = enable === null || enable === undefined ? '' : ` (${enable})`;
    const message = `nothing can be measured here. ${[...reasons].join('; ')}${help}`;
    throw new VloError('VLO_BENCH_UNAVAILABLE', message);
  }

  private get plan(): MeasurePlan {
    const { options, signal } = this.context;
    const { engine } = this.available;
    return { seconds: options.seconds, engine, folder: this.folder, signal };
  }

  private cellOf(workload: Workload, subject: Subject): Cell {
    return this.cells.find(
      (cell) => cell.workload === workload && cell.transport === subject.plan,
    )!;
  }

  /** Does something for a cell; a failure stays with it, and the others go on. */
  private async attempt(cell: Cell, action: () => Promise<void>): Promise<void> {
    if (cell.state !== 'measured') return;
    try {
      await action();
    } catch (error) {
      if (isInterrupt(error) || !(error instanceof VloError)) throw error;
      cell.state = 'failed';
      cell.reason = error.message;
      this.context.log(`${cell.transport.title}, ${cell.workload.title}: ${error.message}`);
    }
  }

  /** Brings up what can be measured with one kind of device. */
  private async bringAllUp(kind: DeviceKind, subjects: Subject[]): Promise<void> {
    const surroundings: Surroundings = {
      ...{ options: this.context.options, vlo: this.context.vlo },
      ...{ folder: this.folder, tag: `${process.pid}` },
    };
    for (const transport of this.context.options.transports) {
      const cells = this.cells.filter(
        (cell) => cell.transport === transport && cell.workload.work.kind === kind,
      );
      if (!cells.some(({ state }) => state === 'measured')) continue;
      this.context.log(`bringing up ${kind} on ${transport.title}`);
      try {
        const subject = await bringUp(transport, kind, surroundings);
        subjects.push(subject);
        const commands = this.commands.get(transport.id) ?? [];
        this.commands.set(transport.id, [...commands, ...subject.commands]);
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        this.leaveOut(transport, cells, error.message);
      }
    }
  }

  /** A transport that says itself that this machine lacks it is skipped, and has not failed. */
  private leaveOut(transport: TransportPlan, cells: readonly Cell[], message: string): void {
    this.context.log(`${transport.title}: ${message}`);
    const lacking = LACKING.exec(message)?.[1];
    const reason = lacking ?? message;
    const state = lacking === undefined ? 'failed' : 'skipped';
    this.leftOut.set(transport.id, { state, reason });
    for (const cell of cells) {
      cell.state = state;
      cell.reason = reason;
    }
  }

  private async measureAll(workloads: Workload[], subjects: Subject[]): Promise<void> {
    const { rounds } = this.context.options;
    for (const subject of subjects) {
      const [workload] = workloads;
      this.context.log(`warming up ${subject.plan.title}`);
      const plan = { ...this.plan, seconds: WARM_UP_SECONDS };
      await this.attempt(this.cellOf(workload, subject), async () => {
        await measure(subject, workload, plan);
      });
    }
    for (const { workload, round, subject } of interleave(workloads, rounds, subjects)) {
      const cell = this.cellOf(workload, subject);
      const plan = this.plan;
      cell.command = commandText(workCommand(workload, subject.node, plan));
      await this.attempt(cell, async () => {
        const sample = await measure(subject, workload, plan);
        cell.samples.push({ round, ...sample });
        const speed =
          sample.iops === null
            ? `${Math.round(sample.bytesPerSecond / 1024)} KiB/s`
            : `${Math.round(sample.iops)} IOPS`;
        const title = `${workload.title}, round ${round + 1} of ${rounds}`;
        this.context.log(`${title}, ${subject.plan.title}: ${speed}`);
      });
    }
  }

  private async traceAll(workloads: Workload[], subjects: Subject[]): Promise<void> {
    const method = this.available.traceMethod;
    if (method === null) return;
    for (const { workload, subject } of interleave(workloads, 1, subjects)) {
      this.context.log(`counting calls: ${workload.title}, ${subject.plan.title}`);
      const cell = this.cellOf(workload, subject);
      await this.attempt(cell, async () => {
        cell.trace = await traceOnce(subject, workload, this.plan, method);
      });
    }
  }

  /** All workloads of one kind of device. */
  async phase(kind: DeviceKind): Promise<void> {
    const workloads = this.context.options.workloads.filter(({ work }) => work.kind === kind);
    if (workloads.length === 0) return;
    const subjects: Subject[] = [];
    try {
      await this.bringAllUp(kind, subjects);
      await this.measureAll(workloads, subjects);
      await this.traceAll(workloads, subjects);
    } finally {
      for (const subject of subjects.toReversed()) await subject.close();
    }
  }

  private rows(): ResultRow[] {
    return this.cells.map(({ workload, transport, ...cell }) => ({
      ...{ ...cell, workload: workload.id, transport: transport.id },
      summary: summarize(cell.samples, cell.trace),
    }));
  }

  private transportStates(): BenchResult['transports'] {
    return this.context.options.transports.map(({ id, title }) => {
      const missing = this.available.transports.get(id) ?? null;
      const leftOut = this.leftOut.get(id) ?? null;
      return {
        ...{ id, title, commands: this.commands.get(id) ?? [] },
        state: missing === null ? (leftOut?.state ?? 'measured') : 'skipped',
        reason: missing?.reason ?? leftOut?.reason ?? null,
        enable: missing?.enable ?? null,
      };
    });
  }

  async result(startedAt: Date): Promise<BenchResult> {
    const { options, version, command } = this.context;
    return {
      ...{ kind: RESULT_KIND, version: RESULT_VERSION, startedAt: startedAt.toISOString() },
      seconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
      command,
      settings: {
        ...{ rounds: options.rounds, seconds: options.seconds, sizeBytes: options.size },
        ...{ queues: options.queues, device: options.device, engine: this.available.engine },
      },
      machine: machineFacts(),
      versions: await versionsOf(version, options.device),
      workloads: options.workloads.map(({ id, title, figure }) => ({ id, title, figure })),
      transports: this.transportStates(),
      rows: this.rows(),
    };
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/**
 * Measures all that was asked for. A part that fails is in the result, with its reason.
 * @throws VloError VLO_BENCH_UNAVAILABLE when nothing can be measured here; VLO_CLOSED when the
 * signal ends it
 */
export async function runTransports(context: RunContext): Promise<BenchResult> {
  const startedAt = new Date();
  const available = await findAvailable(context.options);
  if (available.fio !== null) context.log(`no disk is measured: ${available.fio.reason}`);
  const run = new Run(context, available);
  try {
    run.checkAnything();
    await run.phase('blk');
    await run.phase('rng');
    run.checkAnything();
    return await run.result(startedAt);
  } finally {
    run.close();
  }
}

/** What could not be measured though it should have been there. */
export function failuresOf(result: BenchResult): string[] {
  return result.rows
    .filter(({ state }) => state === 'failed')
    .map(({ workload, transport, reason }) => `${workload} on ${transport}: ${reason}`);
}
