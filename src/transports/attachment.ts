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

export interface AttachOptions {
  /** Name of the device, for messages. */
  readonly name: string;
  /** Type of the device: `blk`. */
  readonly type: string;
  /** Socket of the vhost-user back end. */
  readonly socket: string;
  /** Folder, there already and empty, for what the user transport shows. */
  readonly folder: string;
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
