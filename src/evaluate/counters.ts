/** The kernel's counters, read before and after a stretch of time. */
import { readdirSync, readFileSync } from 'node:fs';
import {
  type InterruptCounts,
  parseInterrupts,
  parseProcessTime,
  parseSystemStat,
  parseTaskStatus,
  type SwitchCounts,
  type SystemCounts,
} from './proc.js';

/** The processes behind a transport; null: there is none. */
export interface Processes {
  readonly device: number | null;
  readonly adapter: number | null;
}

/** CPU time and switches of a process with all its threads. */
export interface ProcessCounts extends SwitchCounts {
  readonly cpuUs: number;
}

/** All counters, since the machine or the process started; or what was added in a window. */
export interface Counts {
  readonly system: SystemCounts;
  readonly interrupts: InterruptCounts;
  readonly device: ProcessCounts | null;
  readonly adapter: ProcessCounts | null;
}

/** The threads of a process; none when it has gone. */
export function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return [];
  }
}

function readProcess(pid: number | null): ProcessCounts | null {
  if (pid === null) return null;
  const sum = { voluntary: 0, nonvoluntary: 0 };
  for (const thread of threadsOf(pid)) {
    try {
      const one = parseTaskStatus(readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'));
      sum.voluntary += one.voluntary;
      sum.nonvoluntary += one.nonvoluntary;
    } catch {
      // The thread has just ended.
    }
  }
  return { cpuUs: parseProcessTime(readFileSync(`/proc/${pid}/stat`, 'utf8')), ...sum };
}

/** Reads all counters now. */
export function readCounts({ device, adapter }: Processes): Counts {
  return {
    device: readProcess(device),
    adapter: readProcess(adapter),
    system: parseSystemStat(readFileSync('/proc/stat', 'utf8')),
    interrupts: parseInterrupts(readFileSync('/proc/interrupts', 'utf8')),
  };
}

/** Field by field; a thread that ended in between cannot make a count negative. */
function subtract<T extends object>(after: T, before: T): T {
  const names = Object.keys(after) as (keyof T)[];
  const entries = names.map((name) => [
    name,
    Math.max(0, (after[name] as number) - (before[name] as number)),
  ]);
  return Object.fromEntries(entries) as T;
}

/** What was counted between two readings. */
export function countsBetween(before: Counts, after: Counts): Counts {
  const part = (name: 'device' | 'adapter'): ProcessCounts | null => {
    const [first, last] = [before[name], after[name]];
    return first === null || last === null ? null : subtract(last, first);
  };
  return {
    system: subtract(after.system, before.system),
    interrupts: subtract(after.interrupts, before.interrupts),
    device: part('device'),
    adapter: part('adapter'),
  };
}
