/**
 * A queue of a front end: the driver's ring in shared memory, and the descriptors by which the two
 * ends wake each other.
 */
import { assert } from '../errors.js';
import { createEventFd, type Fd } from '../native/index.js';
import {
  type DriverQueue,
  layoutAreas,
  layoutIndirect,
  layoutQueue,
  PackedDriverQueue,
  type QueueLayout,
  type RingFeatures,
  SplitDriverQueue,
} from '../virtio/index.js';
import { closeAll } from './connection.js';
import type { SharedBlock, SharedMemory } from './front-end-memory.js';
import type { Payload } from './messages.js';
import { VRING_ADDR_FLAG } from './messages-constants.js';

/** What a front end asks of whoever places the requests of a queue. */
export interface QueueOwner {
  /**
   * Takes all used entries that are there, now. An error of the device is the owner's to handle;
   * nothing is thrown.
   */
  drain(): void;
  /** The ring was reset after the back end was lost: place these requests again, in this order. */
  resubmit(tokens: readonly number[]): void;
  /** The back end notified by message (in-band). */
  called(): void;
}

export interface QueueOptions {
  /** Number of entries; a power of two for a split ring. */
  readonly size: number;
  /** Descriptors in each indirect table; 0 (the default) for no tables. */
  readonly tableLength?: number;
  readonly owner: QueueOwner;
}

export class FrontEndQueue {
  readonly index: number;
  readonly ring: DriverQueue;
  readonly owner: QueueOwner;
  /** Signalled by the driver. */
  readonly kick: Fd;
  /** Signalled by the device when there are used entries. */
  readonly call: Fd;
  /** Signalled by the device when it found the ring broken. */
  readonly err: Fd;
  /** The back end was told to serve the ring. */
  isStarted = false;
  /** @internal Where the back end goes on after an orderly stop; null: the ring says. */
  base: number | null = null;
  private readonly layout: QueueLayout;
  private readonly block: SharedBlock;

  /** @internal */
  constructor(
    index: number,
    memory: SharedMemory,
    features: RingFeatures,
    inBand: boolean,
    options: QueueOptions,
  ) {
    const { size, tableLength = 0 } = options;
    this.index = index;
    this.owner = options.owner;
    this.layout = layoutQueue(size, features.packed, features.indirect ? tableLength : 0);
    const block = memory.allocate(this.layout.byteLength);
    assert(block !== null, 'there is no shared memory left for a ring: add memory first');
    this.block = block;
    block.bytes.fill(0);
    this.kick = createEventFd();
    this.call = createEventFd();
    this.err = createEventFd();
    const driverOptions = {
      index,
      size,
      features,
      areas: layoutAreas(this.layout, block.bytes),
      indirect: layoutIndirect(this.layout, block.bytes, block.address),
      kickFd: inBand ? -1 : this.kick.number,
    };
    this.ring = features.packed
      ? new PackedDriverQueue(driverOptions)
      : new SplitDriverQueue(driverOptions);
  }

  /** Bytes of shared memory that a queue takes at most, alignment included. */
  static bytesNeeded(size: number, tableLength = 0): number {
    const [split, packed] = [false, true].map((is) => layoutQueue(size, is, tableLength));
    return Math.max(split!.byteLength, packed!.byteLength) + 64;
  }

  /** What SET_VRING_BASE has to say now. The used entries that are there have been taken. */
  get startBase(): number {
    if (this.base !== null) return this.base;
    // A ring without a past: the driver of a packed one says so by its wrap counters.
    return this.ring.base;
  }

  /** Payload of SET_VRING_ADDR. */
  address(isLogged: boolean): Payload<'SET_VRING_ADDR'> {
    const { block, layout, index } = this;
    const start = block.region.userAddress + block.address - block.region.guestAddress;
    return {
      index,
      flags: isLogged ? VRING_ADDR_FLAG.LOG : 0,
      descriptor: start + layout.descriptor,
      available: start + layout.driver,
      used: start + layout.device,
      log: isLogged ? BigInt(block.address + layout.device) : 0n,
    };
  }

  /**
   * Forgets the past of the ring and has the owner place again what did not come back. Nobody uses
   * the ring on the other side.
   */
  restart(): void {
    this.owner.drain();
    this.base = null;
    const tokens = this.ring.reset();
    if (tokens.length > 0) this.owner.resubmit(tokens);
  }

  /** @internal Closes the descriptors and gives the ring's memory back. */
  release(): void {
    // Whoever still holds the ring must not write to a descriptor that is somebody else's by then.
    this.ring.kickFd = -1;
    this.ring.onKick = null;
    closeAll([this.kick, this.call, this.err]);
    this.block.region.release(this.block);
  }
}
