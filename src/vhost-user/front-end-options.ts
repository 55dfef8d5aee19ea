/** What a front end is told when it is made, and what it tells. */
import type { VloError } from '../errors.js';

/** Default time limit in milliseconds for an answer of the back end. */
export const FRONT_END_TIMEOUT_MS = 10_000;

/** How a lost back end is sought. */
export interface ReconnectOptions {
  /** Time in milliseconds after which the search is given up; default 30,000. */
  readonly limitMs?: number;
  /** First pause between two attempts, in milliseconds; it doubles each time; default 5. */
  readonly delayMs?: number;
  /** Longest pause in milliseconds; default 500. */
  readonly delayMsMax?: number;
}

export interface FrontEndEvents {
  /** The back end is gone. Requests stay in the rings. */
  onDisconnect?(error: VloError): void;
  /** A back end serves the rings again. */
  onReconnect?(): void;
  /** No back end was found in time, or not a fitting one: nothing will come back. */
  onFail?(error: VloError): void;
  /** The back end says that a ring or the device is broken. */
  onDeviceError?(error: VloError): void;
  /** The config space has changed. */
  onConfigChange?(): void;
}

export interface FrontEndOptions {
  /** Socket of the back end. Give this or {@link fd}. */
  readonly path?: string;
  /** A connected socket, taken over. There is no reconnecting to it. */
  readonly fd?: number;
  /** Virtio features of device and ring that are used where they are offered. */
  readonly features?: bigint;
  /** Virtio features that have to be offered; default VERSION_1. */
  readonly required?: bigint;
  /** Notify by messages instead of eventfds; default false. For simulations. */
  readonly inBandNotifications?: boolean;
  /** Time limit in milliseconds for each answer. */
  readonly timeoutMs?: number;
  /** Reconnect by itself when the back end dies; default: only when `reconnect` is called. */
  readonly reconnect?: ReconnectOptions | null;
  readonly events?: FrontEndEvents;
  /** Takes one line of the log. */
  readonly log?: (line: string) => void;
}
