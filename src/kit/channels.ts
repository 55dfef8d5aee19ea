/**
 * Events of running devices for whoever wants to observe them, on Node's diagnostics channels. A
 * message has the device's name and the queue; metrics, logs and traces subscribe by the name of
 * the channel, and nothing is done where nobody does.
 */
import { type Channel, channel } from 'node:diagnostics_channel';
import type { ServedQueue } from './served-queue.js';

/** A queue of a device started, stopped, or failed. */
export interface QueueEvent {
  /** Name of the device type. */
  readonly device: string;
  readonly queue: ServedQueue;
  /** What stopped the queue: a `DriverFault`, or a bug of the device. Only on `queueFault`. */
  readonly cause?: unknown;
}

/** The channels, by what they tell. The names of the channels are stable. */
export const CHANNELS = {
  queueStart: channel('virtio-loopback:queue:start'),
  /** The queue's counters are final. */
  queueStop: channel('virtio-loopback:queue:stop'),
  queueFault: channel('virtio-loopback:queue:fault'),
} as const satisfies Record<string, Channel>;

/** Publishes an event, if somebody listens. */
export function publishEvent(to: Channel, event: QueueEvent): void {
  if (to.hasSubscribers) to.publish(event);
}
