/** What the kernel counts, read from the texts of /proc and /sys. Each function takes the text. */
import { VloError } from '../errors.js';

/** The kernel's clock ticks in a second, as /proc shows times: the same on every architecture. */
const TICKS_PER_SECOND = 100;
export const US_PER_TICK = 1_000_000 / TICKS_PER_SECOND;

function unreadable(path: string): VloError {
  return new VloError('VLO_UNSUPPORTED', `${path} has not the form that this program knows`);
}

/** Counts of the whole system: /proc/stat. */
export interface SystemCounts {
  /** CPU time of all processors that was not idle, in µs. */
  readonly busyUs: number;
  readonly contextSwitches: number;
  /** All interrupts, the timer's included. */
  readonly interrupts: number;
}

/** @throws VloError VLO_UNSUPPORTED */
export function parseSystemStat(text: string): SystemCounts {
  const ticks = /^cpu\s+(.*)$/m.exec(text)?.[1].trim().split(/\s+/).map(Number) ?? [];
  const contextSwitches = Number(/^ctxt (\d+)$/m.exec(text)?.[1]);
  const interrupts = Number(/^intr (\d+)/m.exec(text)?.[1]);
  if (ticks.length < 8 || Number.isNaN(contextSwitches + interrupts)) {
    throw unreadable('/proc/stat');
  }
  // user, nice, system, idle, iowait, irq, softirq, steal; a guest's time is in user already.
  const [user, nice, system, , , irq, softirq] = ticks;
  const busyUs = (user + nice + system + irq + softirq) * US_PER_TICK;
  return { busyUs, contextSwitches, interrupts };
}

/** Interrupts by what they are for. */
export interface InterruptCounts {
  readonly timer: number;
  /** Work that the kernel sent itself to do in interrupt context: virtio_loopback's calls. */
  readonly irqWork: number;
  /** "Look at your queue of threads", from one processor to another. */
  readonly reschedule: number;
  /** "Run this function", from one processor to another. */
  readonly functionCall: number;
  /** Devices and all the rest. */
  readonly other: number;
}

/** Names of the rows by kind; the words are the same on all architectures. */
const INTERRUPT_KINDS: readonly [keyof InterruptCounts, RegExp][] = [
  ['irqWork', /IRQ work interrupts/],
  ['reschedule', /Rescheduling interrupts/],
  ['functionCall', /Function call interrupts/],
  ['timer', /timer/i],
];

/** Of /proc/interrupts: the processors added up. */
export function parseInterrupts(text: string): InterruptCounts {
  const counts = { timer: 0, irqWork: 0, reschedule: 0, functionCall: 0, other: 0 };
  const processors = (text.split('\n', 1)[0].match(/CPU\d+/g) ?? []).length;
  for (const line of text.split('\n').slice(1)) {
    const [, name, rest] = /^\s*([\w-]+):\s*(.*)$/.exec(line) ?? [];
    if (name === undefined) continue;
    const words = rest.split(/\s+/);
    const numbers = words.slice(0, processors).filter((word) => /^\d+$/.test(word));
    // ERR and MIS have one number for all processors, and are no interrupts of their own.
    if (numbers.length < processors) continue;
    const title = words.slice(processors).join(' ');
    const kind = INTERRUPT_KINDS.find(([, pattern]) => pattern.test(title))?.[0] ?? 'other';
    counts[kind] += numbers.reduce((sum, word) => sum + Number(word), 0);
  }
  return counts;
}

/** How often the threads of a process stopped running. */
export interface SwitchCounts {
  /** They waited for something: each is followed by a wake-up. */
  readonly voluntary: number;
  /** Something else had to run. */
  readonly nonvoluntary: number;
}

/** Of the text of /proc/PID/task/TID/status. */
export function parseTaskStatus(text: string): SwitchCounts {
  const number = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  return {
    voluntary: number('voluntary_ctxt_switches'),
    nonvoluntary: number('nonvoluntary_ctxt_switches'),
  };
}

/** utime and stime of /proc/PID/stat, in µs. */
export function parseProcessTime(text: string): number {
  // The name of the program, in brackets, may hold anything.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[11]) + Number(fields[12]);
  if (Number.isNaN(ticks)) throw unreadable('/proc/PID/stat');
  return ticks * US_PER_TICK;
}

/** Requests that a block device has finished, reads and writes: /sys/block/NAME/stat. */
export function parseBlockStat(text: string): number {
  const fields = text.trim().split(/\s+/).map(Number);
  const requests = fields[0] + fields[4];
  if (Number.isNaN(requests)) throw unreadable('/sys/block/NAME/stat');
  return requests;
}

/** Bytes that a process got from reads: /proc/PID/io. */
export function parseReadBytes(text: string): number {
  const bytes = /^rchar: (\d+)$/m.exec(text)?.[1];
  if (bytes === undefined) throw unreadable('/proc/PID/io');
  return Number(bytes);
}
