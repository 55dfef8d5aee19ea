/** Processes that may have ended meanwhile, and whose number another may have got. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** A process, told apart from later ones with the same number. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Start in clock ticks after the machine's: no two processes with one number share it. */
  readonly startTicks: number;
}

/** Time in milliseconds that a process gets to end by itself. */
const GRACE_MS = 2000;
const LOOK_MS = 10;

function startTicks(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name of the program, in brackets, may hold anything; what follows is split by blanks.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? null : Number(fields[19]);
  } catch {
    return null;
  }
}

/** The identity of a running process; null when there is none with this number. */
export function identify(pid: number): ProcessIdentity | null {
  const ticks = startTicks(pid);
  return ticks === null ? null : { pid, startTicks: ticks };
}

export function isSameProcess({ pid, startTicks: ticks }: ProcessIdentity): boolean {
  return Number.isInteger(pid) && pid > 1 && startTicks(pid) === ticks;
}

function signal(identity: ProcessIdentity, name: 'SIGTERM' | 'SIGKILL'): void {
  if (!isSameProcess(identity)) return;
  try {
    process.kill(identity.pid, name);
  } catch {
    // It ended just now, or belongs to somebody else by now.
  }
}

/** Ends a process that is not our child: asks first. */
export async function endProcess(identity: ProcessIdentity): Promise<void> {
  for (const name of ['SIGTERM', 'SIGKILL'] as const) {
    signal(identity, name);
    const end = Date.now() + GRACE_MS;
    while (isSameProcess(identity) && Date.now() < end) await sleep(LOOK_MS);
  }
}
