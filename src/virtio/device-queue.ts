/**
 * The device's side of a queue: what split and packed rings have in common.
 *
 *   pop ──► Chain ──► (device works) ──► complete ──► publish ──► driver sees it, is notified
 *
 * `complete` makes nothing visible; `publish` makes all completed chains visible with one store and
 * notifies at most once. `pop` returns null when the ring is empty and throws {@link DriverFault}
 * when the driver broke it: two different things.
 */
import { assert } from '../errors.js';
import { signalEvent } from '../native/index.js';
import { CHAIN_DONE, CHAIN_FREE, CHAIN_TAKEN, Chain } from './chain.js';
import type { RingFeatures } from './features.js';
import type { MemoryMap } from './memory-map.js';

/** Records what the device writes into the driver's memory, for live migration. */
export interface DirtyLog {
  /** Marks the pages of a range of guest addresses. */
  mark(guestAddress: number, size: number): void;
}

/** Keeps, in memory that outlives this process, which requests are in flight (split ring). */
export interface SplitInflight {
  /** The chain with this head was taken from the available ring. */
  take(head: number): void;
  /** The chain was put back unserved, as if it had never been taken. */
  untake(head: number): void;
  /** A used element for this head is about to be published. */
  complete(head: number): void;
  /** The used ring's index was published and covers all that was completed. */
  published(usedIndex: number): void;
}

/** The same for a packed ring, whose descriptors are kept as they were read. */
export interface PackedInflight {
  /** Adds one descriptor of a chain; `isHead` starts it. */
  descriptor(low: number, high: number, size: number, id: number, flags: number): void;
  /** Ends the chain. Returns the entry that stands for it until {@link complete}. */
  take(): number;
  untake(entry: number): void;
  complete(entry: number): void;
  published(usedIndex: number, usedWrap: boolean): void;
}

/** A descriptor kept in the in-flight region of a packed ring. */
export interface KeptDescriptor {
  readonly low: number;
  readonly high: number;
  readonly size: number;
  readonly flags: number;
}

/** A request that a killed predecessor left in flight and that has to be served again. */
export interface UnfinishedRequest {
  /** Split ring: head index. Packed ring: buffer id. */
  readonly id: number;
  /** Entry in the in-flight region (packed ring). */
  readonly entry: number;
  /** Descriptors of the chain in the ring (packed ring); the split ring still holds its own. */
  readonly descriptors: readonly KeptDescriptor[];
}

/** Where a queue's three areas lie, as views of the driver's memory. */
export interface RingAreas {
  /** Descriptor table, or the packed descriptor ring. */
  readonly descriptor: Uint8Array;
  /** Available ring, or the driver's event suppression structure. */
  readonly driver: Uint8Array;
  /** Used ring, or the device's event suppression structure. */
  readonly device: Uint8Array;
}

/** Sizes in bytes of the three areas of a queue of `size` entries (sections 2.7 and 2.8). */
export function ringAreaSizes(
  size: number,
  packed: boolean,
): { descriptor: number; driver: number; device: number } {
  if (packed) return { descriptor: 16 * size, driver: 4, device: 4 };
  return { descriptor: 16 * size, driver: 6 + 2 * size, device: 6 + 8 * size };
}

/** Alignments in bytes of the three areas (sections 2.7 and 2.8.10). */
export function ringAreaAlignments(packed: boolean): {
  descriptor: number;
  driver: number;
  device: number;
} {
  return packed
    ? { descriptor: 16, driver: 4, device: 4 }
    : { descriptor: 16, driver: 2, device: 4 };
}

export interface DeviceQueueOptions {
  /** Index of the queue in its device. */
  readonly index: number;
  /** Number of entries. */
  readonly size: number;
  readonly features: RingFeatures;
  readonly memory: MemoryMap;
  readonly areas: RingAreas;
  /**
   * Where to go on: for a split ring the next available index; for a packed ring the available
   * index (bits 0-14) and wrap counter (bit 15), and the used ones in bits 16-31.
   */
  readonly base: number;
  /** Eventfd that notifies the driver, or -1. */
  readonly callFd: number;
}

/** Counters of one queue; they only grow. */
export interface QueueCounters {
  /** Chains taken. */
  popped: number;
  /** Chains made visible to the driver. */
  completed: number;
  /** Notifications sent to the driver. */
  notifications: number;
  /** Kicks received from the driver. */
  kicks: number;
}

export abstract class DeviceQueue {
  readonly index: number;
  readonly size: number;
  readonly memory: MemoryMap;
  readonly features: RingFeatures;
  readonly counters: QueueCounters = { popped: 0, completed: 0, notifications: 0, kicks: 0 };
  /** Eventfd that notifies the driver; -1 when the driver polls. */
  callFd: number;
  /** Called instead of a write to {@link callFd}, for in-band notifications. */
  onNotify: (() => void) | null = null;
  /** Guest address of the used ring where the log wants it, and the log. */
  log: DirtyLog | null = null;
  logUsedAddress = -1;
  /** Chains taken and not yet published. */
  inflightCount = 0;

  private readonly spare: Chain[] = [];
  // Under IN_ORDER, the chains taken, oldest first: a ring of `size` places.
  private readonly order: (Chain | undefined)[] = [];
  private orderHead = 0;
  private orderCount = 0;
  protected unfinished: UnfinishedRequest[] = [];

  protected constructor(options: DeviceQueueOptions) {
    this.index = options.index;
    this.size = options.size;
    this.memory = options.memory;
    this.features = options.features;
    this.callFd = options.callFd;
  }

  /**
   * Takes the next request, or returns null when there is none.
   * @throws DriverFault when the ring or the request is malformed; the queue is then unusable.
   */
  abstract pop(): Chain | null;

  /** True when {@link pop} has something to return; cheaper than asking it. */
  abstract hasAvailable(): boolean;

  /** Puts back the chain that was popped last, unserved. It will be popped again. */
  abstract unpop(chain: Chain): void;

  /** True for a chain that {@link unpop} can put back: none was popped after it. */
  abstract isLast(chain: Chain): boolean;

  /** Makes all completed chains visible, and notifies the driver once if it wants to know. */
  abstract publish(): void;

  /** Asks the driver not to kick: the device is looking anyway. */
  abstract suppressKicks(): void;

  /**
   * Asks the driver to kick again. Returns true when a request is there already, one that came
   * between the last look and the asking and so brings no kick: the caller must look again.
   */
  abstract armKicks(): boolean;

  /** Where a successor goes on, in the format of {@link DeviceQueueOptions.base}. */
  abstract get base(): number;

  protected abstract writeUsed(chain: Chain): void;

  /** Chains completed and not yet visible to the driver. */
  abstract get unpublishedCount(): number;

  /** Serves these requests again before any new one, in this order. Call before the first pop. */
  resume(requests: readonly UnfinishedRequest[]): void {
    this.unfinished = [...requests].reverse(); // Taken from the end.
  }

  /**
   * Completes a chain: its used length is what its writer holds. Under IN_ORDER it becomes visible
   * when all earlier ones are complete too.
   */
  complete(chain: Chain): void {
    assert(chain.state === CHAIN_TAKEN, 'a chain was completed twice');
    chain.state = CHAIN_DONE;
    if (this.log !== null) this.logChain(chain, this.log);
    if (this.features.inOrder) this.finishInOrder();
    else this.finish(chain);
  }

  private finishInOrder(): void {
    const { order } = this;
    while (this.orderCount > 0) {
      const first = order[this.orderHead]!;
      if (first.state !== CHAIN_DONE) return;
      this.orderHead = this.orderHead + 1 === this.size ? 0 : this.orderHead + 1;
      this.orderCount -= 1;
      this.finish(first);
    }
  }

  private finish(chain: Chain): void {
    this.writeUsed(chain);
    this.inflightCount -= 1;
    this.counters.completed += 1;
    chain.state = CHAIN_FREE;
    chain.context = null;
    this.spare.push(chain);
  }

  protected takeSpare(): Chain {
    const chain = this.spare.pop() ?? new Chain();
    chain.begin();
    return chain;
  }

  /** Gives a chain back whose construction failed. */
  protected discard(chain: Chain): void {
    chain.state = CHAIN_FREE;
    this.spare.push(chain);
  }

  protected taken(chain: Chain): Chain {
    chain.finish();
    this.inflightCount += 1;
    this.counters.popped += 1;
    if (this.features.inOrder) {
      // There are never more than `size`: both layouts check that before they take a chain.
      const at = this.orderHead + this.orderCount;
      this.order[at < this.size ? at : at - this.size] = chain;
      this.orderCount += 1;
    }
    return chain;
  }

  /** Puts back a request of a predecessor: it stays in flight in the shared records. */
  protected untakeUnfinished(chain: Chain): void {
    this.unfinished.push(chain.unfinished!);
    this.untaken(chain);
  }

  protected untaken(chain: Chain): void {
    assert(chain.state === CHAIN_TAKEN, 'only a chain that is in flight can be put back');
    this.inflightCount -= 1;
    this.counters.popped -= 1;
    if (this.features.inOrder) {
      this.orderCount -= 1;
      const at = (this.orderHead + this.orderCount) % this.size;
      assert(this.order[at] === chain, 'only the chain popped last can be put back');
    }
    chain.state = CHAIN_FREE;
    this.spare.push(chain);
  }

  protected notify(): void {
    this.counters.notifications += 1;
    if (this.callFd >= 0) signalEvent(this.callFd);
    else if (this.onNotify !== null) this.onNotify();
  }

  private logChain(chain: Chain, log: DirtyLog): void {
    // The whole writable part: a little too much where the device wrote less, never too little.
    const { guestAddresses, sizes, count } = chain.segments;
    for (let i = chain.writableStart; i < count; i += 1) log.mark(guestAddresses[i]!, sizes[i]!);
  }
}

/** The event-index rule of section 2.7.10: was `event` passed on the way from `before` to `now`? */
export function passesEvent(event: number, now: number, before: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
}
