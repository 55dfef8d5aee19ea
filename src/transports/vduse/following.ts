/** The trackers of a device in use: of the file that they lie in, and of the rings they follow. */
import type { Mapping } from '../../native/index.js';
import { F } from '../../virtio/index.js';
import type { PortState } from '../kernel-port.js';
import { DeviceMemory, SplitRing } from './ring.js';
import { QueueTracker, trackerSize } from './tracker.js';

/** Bytes of the file for queues of some sizes. */
export const followingSize = (queueSizes: readonly number[]): number =>
  queueSizes.reduce((sum, size) => sum + trackerSize(size), 0);

export class Following {
  readonly trackers: ReadonlyMap<number, QueueTracker>;
  private readonly mapping: Mapping;
  private memory: DeviceMemory | null = null;
  private readonly rings = new Map<number, SplitRing>();

  /** Takes the mapping over: of a file that is all zero, or that a dead process left. */
  constructor(mapping: Mapping, queueSizes: readonly number[]) {
    this.mapping = mapping;
    const trackers = new Map<number, QueueTracker>();
    let at = 0;
    for (const [index, size] of queueSizes.entries()) {
      trackers.set(index, new QueueTracker(mapping.bytes(at, trackerSize(size)), size));
      at += trackerSize(size);
    }
    this.trackers = trackers;
  }

  /** Follows the rings of a state from now on; packed ones cannot be. */
  start({ features, regions, queues }: PortState): void {
    this.stop();
    if ((features & F.RING_PACKED) !== 0n) return;
    this.memory = new DeviceMemory(regions);
    for (const queue of queues) this.rings.set(queue.index, new SplitRing(queue, this.memory));
  }

  /** The rings are new: nothing was ever offered. */
  beginAnew(): void {
    for (const index of this.rings.keys()) this.trackers.get(index)!.begin(0);
  }

  /** All requests that were out have been given back. */
  beginHere(): void {
    for (const [index, ring] of this.rings) this.trackers.get(index)!.begin(ring.availableIndex);
  }

  /** Somebody else keeps track from now on. */
  forget(): void {
    this.stop();
    for (const tracker of this.trackers.values()) tracker.forget();
  }

  /** Something was given back. */
  follow(index: number): void {
    const ring = this.rings.get(index);
    if (ring !== undefined) this.trackers.get(index)!.follow(ring);
  }

  stop(): void {
    this.rings.clear();
    this.memory?.close();
    this.memory = null;
  }

  close(): void {
    this.stop();
    this.mapping.retire();
  }
}
