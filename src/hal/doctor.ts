/**
 * What this machine offers to the project: every check in one list, run together.
 *
 * A check tries what it asks for (opens the device, creates the ring) instead of guessing from
 * versions, and leaves the machine as it was. What it sees of the machine is a {@link Machine}.
 */
import { KERNEL_CHECKS } from './doctor-kernel.js';
import type { Machine } from './doctor-machine.js';
import { MACHINE_CHECKS } from './doctor-system.js';
import { TOOL_CHECKS } from './doctor-tools.js';
import { USER_CHECKS } from './doctor-user.js';

/** Whether something is there; `partly`: it works within limits that the detail names. */
export type CheckState = 'yes' | 'no' | 'partly';

/** Parts of the report, in their order. */
export const CHECK_GROUPS = ['machine', 'user transport', 'kernel transports', 'tools'] as const;

/** A part of the report. */
export type CheckGroup = (typeof CHECK_GROUPS)[number];

/** What a probe found. */
export interface Finding {
  readonly state: CheckState;
  /** What was found: a version, a path, or the reason why it is missing. */
  readonly detail: string;
  /**
   * One shell command that adds what is missing; where none can, a shell comment that says what to
   * do. Null when nothing is missing, or nothing can be done on this machine.
   */
  readonly command: string | null;
}

/** One thing that a machine may offer. */
export interface Check {
  /** Stable name, for programs. */
  readonly id: string;
  readonly title: string;
  /** What it would give to the user of this project. */
  readonly gives: string;
  readonly probe: (machine: Machine) => Finding | Promise<Finding>;
}

/** A check with what it found: an entry of `vlo doctor --json`. */
export interface CheckResult extends Finding {
  readonly id: string;
  readonly group: CheckGroup;
  readonly title: string;
  readonly gives: string;
}

/** Whether a transport works, and which ways in it offers. */
export interface TransportSummary {
  readonly state: CheckState;
  readonly ways: readonly string[];
}

/** The output of `vlo doctor --json`. */
export interface DoctorReport {
  /** Whether the core works in user space: Node, foreign calls, shared memory. */
  readonly works: boolean;
  readonly transports: Readonly<Record<'user' | 'loopback' | 'vduse', TransportSummary>>;
  readonly checks: readonly CheckResult[];
}

/** All checks, in the order of the report. */
export const CHECKS: Readonly<Record<CheckGroup, readonly Check[]>> = {
  machine: MACHINE_CHECKS,
  'user transport': USER_CHECKS,
  'kernel transports': KERNEL_CHECKS,
  tools: TOOL_CHECKS,
};

/** Without these nothing works, not even a back end for a virtual machine. */
const CORE_IDS = ['node', 'koffi', 'memfd'];
/** What a file presented through FUSE needs. */
const FUSE_IDS = ['fuse', 'dev-fuse', 'fusermount3'];

/** Looks at the machine; takes as long as the slowest program that is asked for its version. */
export async function examine(machine: Machine): Promise<DoctorReport> {
  const running = CHECK_GROUPS.flatMap((group) =>
    CHECKS[group].map(async ({ id, title, gives, probe }) => {
      const { state, detail, command } = await probe(machine);
      return { id, group, title, state, detail, gives, command };
    }),
  );
  const checks = await Promise.all(running);
  const stateOf = (id: string): CheckState =>
    checks.find((result) => result.id === id)?.state ?? 'no';
  const works = CORE_IDS.every((id) => stateOf(id) === 'yes');
  const hasFuse = FUSE_IDS.every((id) => stateOf(id) === 'yes');
  const kernel = (id: string): TransportSummary => ({
    state: works ? stateOf(id) : 'no',
    ways: [],
  });
  return {
    works,
    transports: {
      user: userTransport(works, hasFuse, stateOf('run-directory') === 'yes'),
      loopback: kernel('loopback'),
      vduse: kernel('vduse'),
    },
    checks,
  };
}

function userTransport(works: boolean, hasFuse: boolean, hasRunDir: boolean): TransportSummary {
  if (!works) return { state: 'no', ways: [] };
  const ways = [...(hasFuse ? ['FUSE file'] : []), 'API', ...(hasRunDir ? ['socket'] : [])];
  return { state: hasFuse && hasRunDir ? 'yes' : 'partly', ways };
}
