/** What a relay is told of rings that somebody else drives. */
import type { Fd } from '../native/index.js';

/**
 * Memory that rings and buffers lie in: a file, and where its bytes have their guest addresses. The
 * messages name it by guest address only; there is no process whose addresses they could mean.
 */
export interface RelayRegion {
  readonly fd: Fd;
  /** Guest address of its first byte. */
  readonly guestAddress: number;
  /** Size in bytes. */
  readonly size: number;
  /** Offset of the first byte in the file. */
  readonly mmapOffset: number;
}

/** A ring that the driver has set up. */
export interface RelayQueue {
  readonly index: number;
  /** Number of entries. */
  readonly size: number;
  /** Guest addresses of the three areas. */
  readonly descriptor: number;
  readonly driver: number;
  readonly device: number;
  /**
   * Where the back end starts, as SET_VRING_BASE has it, if the driver's side makes the ring anew
   * for each back end; left out, the relay finds out what the last back end left.
   */
  readonly base?: number;
  /** Signalled by the driver. */
  readonly kick: Fd;
  /** Signalled by the back end. */
  readonly call: Fd;
}

/** What a back end is to serve. Without DRIVER_OK there is none: null takes its place. */
export interface RelayTarget {
  /** Virtio features that the driver accepted. */
  readonly features: bigint;
  readonly regions: readonly RelayRegion[];
  readonly queues: readonly RelayQueue[];
}

/** In-flight memory outside of a relay. */
export interface StashedInflight {
  /** The memory file. */
  readonly fd: Fd;
  /** Payload of SET_INFLIGHT_FD. */
  readonly note: Uint8Array;
}

/** That rings are served, and what a successor of this process needs to go on with them. */
export interface RelayPast {
  /** Null: nobody keeps track of the requests that a back end has taken. */
  readonly memory: StashedInflight | null;
}
