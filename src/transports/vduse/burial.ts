/**
 * What becomes of the requests of a VDUSE device when its back end is gone: which are out, and how
 * they fail; those that are out now, or all from now on until the driver lets the device go.
 */
import { consumeEvent, Watch } from '../../native/index.js';
import type { StashedInflight } from '../../vhost-user/index.js';
import { F, VIRTIO_ID } from '../../virtio/index.js';
import type { PortState } from '../kernel-port.js';
import { DeadRing, outstandingByInflight } from './requests.js';
import { DeviceMemory, SplitRing } from './ring.js';
import type { QueueTracker } from './tracker.js';

/** Status of a failed request of a disk (virtio 1.3, section 5.2.6). */
const BLK_IOERR = 1;

/** A device of which all is known that there is to know. */
export interface Patient {
  readonly deviceId: number;
  readonly state: PortState;
  /** In-flight memory of the back end that served it last; null: it kept none. */
  readonly inflight: StashedInflight | null;
  readonly trackers: ReadonlyMap<number, QueueTracker>;
  interrupt(index: number): void;
}

/** What is known of one queue. */
interface Grave {
  readonly index: number;
  readonly dead: DeadRing;
  /** Null: not known. */
  readonly heads: readonly number[] | null;
}

function dig({ deviceId, state, inflight, trackers }: Patient, memory: DeviceMemory): Grave[] {
  // What a driver is to find in the last byte of a failed request; of a network device, nothing.
  const failure = deviceId === VIRTIO_ID.blk ? BLK_IOERR : null;
  return state.queues.map((queue) => {
    const { index } = queue;
    const ring = new SplitRing(queue, memory);
    const dead = new DeadRing(ring, memory, failure);
    if (ring.outstandingCount === 0) return { index, dead, heads: [] };
    const known = inflight === null ? null : outstandingByInflight(index, inflight, ring);
    return { index, dead, heads: known ?? trackers.get(index)?.outstanding(ring) ?? null };
  });
}

const isPacked = ({ state }: Patient): boolean => (state.features & F.RING_PACKED) !== 0n;

/**
 * Has the requests of all rings fail that are out, and returns how many those were; null, and none
 * failed, when it is not known which they are.
 */
export function failRequests(patient: Patient): number | null {
  if (isPacked(patient)) return null;
  const memory = new DeviceMemory(patient.state.regions);
  try {
    const graves = dig(patient, memory);
    let sum = 0;
    if (graves.some(({ heads }) => heads === null)) return null;
    for (const { index, dead, heads } of graves) {
      dead.fail(heads!);
      if (heads!.length > 0) patient.interrupt(index);
      sum += heads!.length;
    }
    return sum;
  } finally {
    memory.close();
  }
}

/** Serves the rings with failures, until it is closed. */
export class Burial {
  private readonly memory: DeviceMemory;
  private readonly watches: Watch[] = [];

  constructor(patient: Patient, log: (line: string) => void) {
    const { state, interrupt } = patient;
    this.memory = new DeviceMemory(state.regions);
    if (isPacked(patient)) {
      log('requests that are out wait for ever: in a packed ring nobody knows them');
      return;
    }
    for (const { index, dead, heads } of dig(patient, this.memory)) {
      if (heads === null) log(`queue ${index}: requests that are out wait: nobody knows them`);
      else dead.fail(heads);
      const { kick } = state.queues.find((queue) => queue.index === index)!;
      const failNew = (): void => {
        consumeEvent(kick.number);
        if (dead.failNew() > 0) interrupt(index);
      };
      this.watches.push(new Watch(kick.number, failNew));
      interrupt(index);
      failNew();
    }
  }

  close(): void {
    for (const watch of this.watches) watch.close();
    this.memory.close();
  }
}
