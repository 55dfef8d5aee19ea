/** What of the plan can be measured on this machine; for the rest, why not and what would help. */
import { accessSync, constants } from 'node:fs';
import { VloError } from '../errors.js';
import { examine } from '../hal/doctor.js';
import { findProgram, type Machine, thisMachine } from '../hal/doctor-machine.js';
import { type FioEngine, findEngine } from './fio.js';
import { whyNoNullBlock } from './null-block.js';
import type { BenchOptions } from './options.js';
import type { TransportPlan } from './plan.js';
import type { TraceMethod } from './trace-pass.js';
import { Tracer } from './tracing.js';

/** Why something is left out, and the command that adds it. */
export interface Missing {
  readonly reason: string;
  readonly enable: string | null;
}

export interface Available {
  /** Null: the transport can be measured. */
  readonly transports: ReadonlyMap<string, Missing | null>;
  readonly engine: FioEngine | null;
  readonly fio: Missing | null;
  readonly traceMethod: TraceMethod | null;
}

/** What `vlo doctor` found about one thing. */
export interface CheckFinding {
  readonly id: string;
  readonly state: 'yes' | 'no' | 'partly';
  readonly detail: string;
  readonly command: string | null;
}

/** Null where a check says yes. */
export function missingOf(checks: readonly CheckFinding[], id: string): Missing | null {
  const check = checks.find((one) => one.id === id);
  if (check === undefined) return { reason: `vlo doctor knows no '${id}'`, enable: null };
  if (check.state === 'yes') return null;
  return { reason: check.detail, enable: check.command };
}

function missingTransport(
  { attach }: TransportPlan,
  checks: readonly CheckFinding[],
  isRoot: boolean,
): Missing | null {
  if (!isRoot) return { reason: 'needs root', enable: 'sudo vlo bench transports' };
  return attach === null ? whyNoNullBlock() : missingOf(checks, attach.transport);
}

/**
 * Nothing to compare is an error, and says what would change that.
 * @throws VloError VLO_BENCH_UNAVAILABLE
 */
export function checkAnyTransport(
  wanted: readonly TransportPlan[],
  missing: ReadonlyMap<string, Missing | null>,
): void {
  const kernel = wanted.filter(({ attach }) => attach !== null);
  const judged = kernel.length > 0 ? kernel : wanted;
  if (judged.some(({ id }) => missing.get(id) === null)) return;
  // Both kinds of loopback lack the same: that is said once.
  const titles = new Map<string, string[]>();
  for (const { id, title } of judged) {
    const { reason = '', enable = null } = missing.get(id) ?? {};
    const text = `${reason}${enable === null ? '' : ` (${enable})`}`;
    titles.set(text, [...(titles.get(text) ?? []), title]);
  }
  const reasons = [...titles].map(([text, names]) => `${names.join(' and ')}: ${text}`);
  const what = kernel.length > 0 ? 'no kernel transport is here' : 'nothing is here';
  throw new VloError('VLO_BENCH_UNAVAILABLE', `${what} to be measured. ${reasons.join('; ')}`);
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function missingFio(hasFio: boolean, checks: readonly CheckFinding[]): Missing {
  if (hasFio) {
    const enable = 'sysctl kernel.io_uring_disabled=0';
    return { reason: 'fio has neither io_uring nor libaio here', enable };
  }
  return missingOf(checks, 'fio') ?? { reason: 'fio is not on this machine', enable: null };
}

/** Whether and how system calls can be counted here. */
function findTraceMethod(machine: Machine): TraceMethod | null {
  const tracer = Tracer.open();
  tracer?.close();
  if (tracer !== null) return 'tracing';
  return findProgram(machine, 'strace') === null ? null : 'strace';
}

/**
 * Looks at the machine.
 * @throws VloError VLO_BENCH_UNAVAILABLE when nothing can be measured
 */
export async function findAvailable(
  options: BenchOptions,
  machine: Machine = thisMachine(),
): Promise<Available> {
  if (!isWritable(options.dir)) {
    throw new VloError('VLO_BENCH_UNAVAILABLE', `no file can be made in '${options.dir}': --dir`);
  }
  const { checks } = await examine(machine);
  const isRoot = machine.userId === 0;
  const transports = new Map(
    options.transports.map((plan) => [plan.id, missingTransport(plan, checks, isRoot)] as const),
  );
  checkAnyTransport(options.transports, transports);
  if (options.device !== 'ours' && findProgram(machine, options.device) === null) {
    throw new VloError('VLO_BENCH_UNAVAILABLE', `${options.device} is not on this machine`);
  }
  // The doctor gives a program a second to tell its version: too short for an emulated processor.
  const hasFio = findProgram(machine, 'fio') !== null;
  const engine = hasFio ? await findEngine(options.dir) : null;
  const fio = engine === null ? missingFio(hasFio, checks) : null;
  return { transports, engine, fio, traceMethod: options.trace ? findTraceMethod(machine) : null };
}
