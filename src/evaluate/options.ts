/** What `vlo bench transports` is told, checked. */
import { VloError } from '../errors.js';
import { parseSize } from '../hal/config-values.js';
import { TRANSPORTS, type TransportPlan, WORKLOADS, type Workload } from './plan.js';

/** Device processes that may stand behind the disks. */
export const DEVICE_CHOICES = ['ours', 'qemu-storage-daemon'] as const;
export type DeviceChoice = (typeof DEVICE_CHOICES)[number];

/** Options as they come from a command line; all have a default there. */
export interface BenchArguments {
  readonly rounds: string;
  readonly seconds: string;
  readonly size: string;
  readonly queues: string;
  readonly device: string;
  readonly dir: string;
  readonly transports?: string;
  readonly workloads?: string;
  /** Count system calls and wake-ups in a pass of its own. */
  readonly trace: boolean;
}

export interface BenchOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly size: number;
  readonly queues: number;
  readonly device: DeviceChoice;
  readonly dir: string;
  readonly transports: readonly TransportPlan[];
  readonly workloads: readonly Workload[];
  readonly trace: boolean;
}

const SIZE_MIN = 1024 ** 2;
const SIZE_STEP = 128 * 1024;

function usage(message: string): VloError {
  return new VloError('VLO_USAGE', message);
}

function numberOf(name: string, text: string, least: number, most: number, whole: boolean): number {
  const number = /^\d{1,9}(\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= least && number <= most) || (whole && !Number.isInteger(number))) {
    const kind = whole ? 'a whole number' : 'a number';
    throw usage(`--${name} takes ${kind} from ${least} to ${most}, not '${text}'`);
  }
  return number;
}

/** The entries that a list of ids names, in the order of `all`. */
function pick<T extends { readonly id: string }>(
  name: string,
  list: string | undefined,
  all: readonly T[],
): T[] {
  if (list === undefined) return [...all];
  const wanted = list.split(',').map((word) => word.trim());
  const unknown = wanted.find((word) => !all.some(({ id }) => id === word));
  if (unknown !== undefined) {
    const ids = all.map(({ id }) => id).join(', ');
    throw usage(`--${name}: there is no '${unknown}'; choose among ${ids}`);
  }
  return all.filter(({ id }) => wanted.includes(id));
}

/** @throws VloError VLO_USAGE */
export function checkBenchOptions(given: BenchArguments): BenchOptions {
  const device = DEVICE_CHOICES.find((choice) => choice === given.device);
  if (device === undefined) {
    throw usage(`--device takes one of ${DEVICE_CHOICES.join(', ')}, not '${given.device}'`);
  }
  const size = parseSize(given.size);
  if (size === null || size < SIZE_MIN || size % SIZE_STEP !== 0) {
    throw usage(`--size takes at least 1MiB, in steps of 128KiB, not '${given.size}'`);
  }
  return {
    rounds: numberOf('rounds', given.rounds, 1, 100, true),
    seconds: numberOf('seconds', given.seconds, 0.5, 600, false),
    queues: numberOf('queues', given.queues, 1, 64, true),
    size,
    device,
    dir: given.dir,
    transports: pick('transports', given.transports, TRANSPORTS),
    workloads: pick('workloads', given.workloads, WORKLOADS),
    trace: given.trace,
  };
}
