/** What a device has to offer so that a vhost-user session can serve it. */
import type { DeviceQueue } from '../virtio/index.js';

/** In place of a kick descriptor: nobody kicks, the device has to look at the ring by itself. */
export const KICK_POLL = -1;
/** In place of a kick descriptor: kicks come through {@link BackEndDevice.kickQueue}. */
export const KICK_IN_BAND = -2;

/** A device behind a vhost-user session. The session calls one method at a time. */
export interface BackEndDevice {
  readonly name: string;
  /**
   * Offered virtio features: the device's own, VERSION_1 and those of the ring. The session adds
   * PROTOCOL_FEATURES (bit 30) and LOG_ALL (bit 26).
   */
  readonly features: bigint;
  readonly queueCount: number;
  /** Size of the config space in bytes; 0: there is none, and CONFIG is not offered. */
  readonly configSize: number;
  /** Bytes of the config space; the range lies inside of it. */
  readConfig(offset: number, size: number): Uint8Array;
  /**
   * Writes config space; the range lies inside of it. `isMigration`: a migration restores it, so
   * that read-only fields are to be taken too. Throws VloError to refuse.
   */
  writeConfig(offset: number, bytes: Uint8Array, isMigration: boolean): void;
  /** Negotiated features, without the two that are the session's. Called when they change. */
  setFeatures(features: bigint): void;
  /**
   * The queue is started and enabled: serve it, beginning with what is in the ring already.
   * `kickFd` is a non-blocking descriptor that stays the session's, {@link KICK_POLL}, or
   * {@link KICK_IN_BAND}. A kick from before is still in the descriptor.
   */
  startQueue(queue: DeviceQueue, kickFd: number): void;
  /**
   * Takes no more requests; resolves when none of the queue's is in flight and all are published.
   * The same queue may be started again, or a successor of it that goes on at its base.
   */
  stopQueue(queue: DeviceQueue): Promise<void>;
  /** A kick by message. */
  kickQueue(queue: DeviceQueue): void;
  /**
   * Resets the device: its driver wants it (the default), or the front end is gone, whose driver
   * may come back with another one. All queues have been stopped.
   */
  reset(cause?: 'driver' | 'disconnect'): void;
}
