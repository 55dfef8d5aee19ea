/** What the user transport shows to applications, whatever the device. */

/** Counters of a presentation, from its start. */
export interface PresentationCounters {
  /** Requests that were answered. */
  requests: number;
  /** Those of them that failed. */
  errors: number;
  bytesRead: number;
  bytesWritten: number;
}

/** A device as applications see it. */
export interface Presentation {
  /** The file that applications open. */
  readonly path: string;
  readonly counters: PresentationCounters;
  /** The back end was lost, or is there again. */
  connectionChanged(isConnected: boolean): void;
  /** The driver has given up: from now on every request fails, and none of them waits. */
  driverFailed(): void;
  /** Takes it away. The driver is still there. Idempotent. */
  close(): Promise<void>;
}

export function newCounters(): PresentationCounters {
  return { requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0 };
}
