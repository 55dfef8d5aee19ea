/** A device that is attached: what every transport gives its adapter. */
import type { VloError } from '../errors.js';
import type { PresentationCounters } from '../present/index.js';

/** Transports that there are. */
export type TransportName = 'loopback' | 'vduse' | 'user';

/** How an attached device does. */
export type AttachmentState =
  /** Requests are served. */
  | 'ready'
  /** The back end is away; requests wait for it. */
  | 'waiting'
  /** Nothing will be served any more; requests fail. */
  | 'failed';

/**
 * How a device behind a kernel transport reaches buffers: copied to and from a pool that is all it
 * sees of the host (`bounce`), or in place, with all of the host's memory in its reach (`direct`).
 */
export type PortMemory = 'bounce' | 'direct';
export const PORT_MEMORIES: readonly PortMemory[] = ['bounce', 'direct'];

/** What a kernel transport may be told; the user transport knows none of it. */
export interface KernelOptions {
  /** Default: `bounce`. */
  readonly memory?: PortMemory;
  /** Bytes of the pool for rings and bounced buffers; default: by the type. */
  readonly poolSize?: number;
  /** Offer the packed ring layout also with `bounce`. */
  readonly packed?: boolean;
  /** Entries of each queue, a power of two; default: by the type. */
  readonly queueSize?: number;
  /** Time in ms that requests wait for another adapter when this one dies; default 30,000. */
  readonly takeoverMs?: number;
  /** Time in ms that a driver's reset waits for the back end to stop; default 10,000. */
  readonly stopMs?: number;
}

export interface AttachOptions {
  /** Name of the device: for messages, and in the kernel for an adapter that takes over. */
  readonly name: string;
  /** Type of the device: `blk`. */
  readonly type: string;
  /** Socket of the vhost-user back end. */
  readonly socket: string;
  /** Folder, there already and empty, for what the user transport shows. */
  readonly folder: string;
  readonly kernel?: KernelOptions;
  /** Longest time of looking at the rings before sleeping, in µs. */
  readonly pollUs?: number;
  /** Time in ms after which a back end that was lost is given up; default: never. */
  readonly reconnectMs?: number;
  readonly log: (line: string) => void;
  /** The state has changed; `error` says why it failed. */
  readonly onState?: (state: AttachmentState, error: VloError | null) => void;
}

export interface Attachment {
  readonly transport: TransportName;
  readonly state: AttachmentState;
  /** What applications open; null where nothing can be shown. */
  readonly presentation: string | null;
  /** Why nothing, or less, is shown; null when all is. */
  readonly note: string | null;
  readonly queueCount: number;
  readonly counters: Readonly<PresentationCounters>;
  /** No back end will return: requests fail with I/O errors from now on, and none waits. */
  abandon(error: VloError): void;
  /** Takes it down: presentation first, then the driver. Idempotent. */
  close(): Promise<void>;
}
