/** What is measured: transports, workloads, and the bars that the figures are held against. */

/** How fio works on the disk. */
export interface BlockWork {
  readonly kind: 'blk';
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockSize: number;
  readonly depth: number;
}

/** The entropy device is read as fast as it gives. */
export interface RandomWork {
  readonly kind: 'rng';
}

export interface Workload {
  readonly id: string;
  readonly title: string;
  /** What the figure of throughput is: requests or bytes in a second. */
  readonly figure: 'iops' | 'bytesPerSecond';
  readonly work: BlockWork | RandomWork;
}

const KIB = 1024;

function small(rw: 'randread' | 'randwrite', depth: number): Workload {
  const verb = rw === 'randread' ? 'read' : 'write';
  return {
    id: `${rw}-4k-${depth}`,
    title: `4 KiB random ${verb}, depth ${depth}`,
    figure: 'iops',
    work: { kind: 'blk', rw, blockSize: 4 * KIB, depth },
  };
}

function large(rw: 'read' | 'write', depth: number): Workload {
  return {
    id: `${rw}-128k-${depth}`,
    title: `128 KiB sequential ${rw}, depth ${depth}`,
    figure: 'bytesPerSecond',
    work: { kind: 'blk', rw, blockSize: 128 * KIB, depth },
  };
}

/** All workloads, in the order of the report. */
export const WORKLOADS: readonly Workload[] = [
  small('randread', 1),
  small('randwrite', 1),
  small('randread', 32),
  small('randwrite', 32),
  large('read', 8),
  large('write', 8),
  { id: 'rng', title: '/dev/hwrng', figure: 'bytesPerSecond', work: { kind: 'rng' } },
];

/** Bytes that Linux's virtio_rng asks for with one request. */
export const RNG_REQUEST_SIZE = 64;

/** How `vlo attach` is told to bring a device to the kernel. */
export interface AttachChoice {
  readonly transport: 'loopback' | 'vduse';
  readonly memory: 'bounce' | 'direct' | null;
}

export interface TransportPlan {
  readonly id: string;
  readonly title: string;
  /** Null: a disk that is in the kernel altogether, the ceiling of what fio can do here. */
  readonly attach: AttachChoice | null;
  /** Types of devices that it never serves, with the reason. */
  readonly refuses: Readonly<Partial<Record<Workload['work']['kind'], string>>>;
}

/** All transports, in the order in which rounds go through them. */
export const TRANSPORTS: readonly TransportPlan[] = [
  {
    id: 'loopback-bounce',
    title: 'loopback, bounce',
    attach: { transport: 'loopback', memory: 'bounce' },
    refuses: {},
  },
  {
    id: 'loopback-direct',
    title: 'loopback, direct',
    attach: { transport: 'loopback', memory: 'direct' },
    refuses: {},
  },
  {
    id: 'vduse',
    title: 'VDUSE',
    attach: { transport: 'vduse', memory: null },
    refuses: { rng: 'not allowed by VDUSE' },
  },
  {
    id: 'null_blk',
    title: 'null_blk (ceiling)',
    attach: null,
    refuses: { rng: 'a disk only' },
  },
];

/** The transport that others are compared with. */
export const BASE_TRANSPORT = 'vduse';

/** A bar: the ratio of two medians, or a figure by itself. */
export interface Bar {
  /** Id, or {@link EVERY_WORKLOAD}. */
  readonly workload: string;
  readonly transport: string;
  /** Id of the metric; see summary.ts. */
  readonly metric: string;
  /** Null: the figure itself is judged. */
  readonly against: string | null;
  readonly sense: 'at least' | 'less than' | 'at most';
  readonly bar: number;
  readonly aim: number | null;
}

/** The greatest figure of all workloads is judged. */
export const EVERY_WORKLOAD = '*';

const LOOPBACKS = ['loopback-bounce', 'loopback-direct'];

/** Bars of the project, set for the x86-64 guest of its lab. */
export const BARS: readonly Bar[] = [
  ratioBar('randread-4k-1', 'loopback-bounce', 'iops', 1.2, 1.4),
  ratioBar('randread-4k-32', 'loopback-bounce', 'iops', 1.0, 1.3),
  ratioBar('read-128k-8', 'loopback-direct', 'bytesPerSecond', 1.5, 2),
  ...LOOPBACKS.map(
    (transport): Bar => ({
      ...{ workload: 'randread-4k-1', transport, metric: 'contextSwitches' },
      ...{ against: BASE_TRANSPORT, sense: 'less than', bar: 1, aim: null },
    }),
  ),
  ...LOOPBACKS.map((transport) => figureBar('randread-4k-1', transport, 'wakeUps', 2)),
  ...LOOPBACKS.map((transport) => figureBar(EVERY_WORKLOAD, transport, 'adapterWakeUps', 0)),
];

function ratioBar(
  workload: string,
  transport: string,
  metric: string,
  bar: number,
  aim: number,
): Bar {
  return { workload, transport, metric, against: BASE_TRANSPORT, sense: 'at least', bar, aim };
}

function figureBar(workload: string, transport: string, metric: string, bar: number): Bar {
  return { workload, transport, metric, against: null, sense: 'at most', bar, aim: null };
}

/** One measurement to make. */
export interface Step<S> {
  readonly workload: Workload;
  readonly round: number;
  readonly subject: S;
}

/**
 * Interleaved: A B C, A B C..., one workload after the other, so that a machine that gets slower
 * gets slower for all.
 */
export function interleave<S>(
  workloads: readonly Workload[],
  rounds: number,
  subjects: readonly S[],
): Step<S>[] {
  return workloads.flatMap((workload) =>
    Array.from({ length: rounds }, (_, round) =>
      subjects.map((subject) => ({ workload, round, subject })),
    ).flat(),
  );
}
