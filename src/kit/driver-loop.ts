/**
 * The loop of a driver: publishes what was placed and takes what came back, on Node's event loop.
 *
 *           requests placed, or a call                  nothing for `window`
 *   asleep ────────────────────────────► looking at rings ──────────────────► asleep (calls armed)
 *
 * As in the service loop of a device, looking for a while costs less than a wake-up. Here the loop
 * knows when there is something to wait for: with no request outstanding it sleeps at once. The
 * window grows while calls come sooner than the longest window and is dropped when they come later.
 */
import { performance } from 'node:perf_hooks';
import { consumeEvent, Watch } from '../native/index.js';
import type { DriverQueue } from '../virtio/index.js';
import { POLL_US_DEFAULT } from './service.js';

/** Longest time in milliseconds that the loop holds the thread before the event loop's turn. */
const SLICE_MS = 0.5;
/** First window, in milliseconds, when looking begins to pay. */
const WINDOW_FIRST_MS = 0.016;
/** Looks between two readings of the clock. */
const LOOKS_PER_CLOCK = 16;

/** A queue as the loop sees it. */
export interface LoopQueue {
  readonly ring: DriverQueue;
  /** Descriptor of the eventfd by which the device calls. */
  readonly callFd: number;
  /** Takes all used entries; true when there were some. Throws nothing. */
  drain(): boolean;
}

export class DriverLoop {
  private readonly queues: LoopQueue[] = [];
  private readonly watches: Watch[] = [];
  private readonly windowMaxMs: number;
  private windowMs: number;
  private isAsleep = true;
  private sleptAt = 0;
  private workedAt = 0;
  private isScheduled = false;
  private inTurn = false;
  private isYielding = false;
  private isClosed = false;

  /** @param pollUs longest time in microseconds to look before sleeping; 0 sleeps at once. */
  constructor(pollUs = POLL_US_DEFAULT) {
    this.windowMaxMs = pollUs / 1000;
    this.windowMs = this.windowMaxMs;
  }

  /** Looks after a queue from now on. The descriptor stays the caller's, until {@link close}. */
  add(queue: LoopQueue): void {
    this.queues.push(queue);
    this.watches.push(new Watch(queue.callFd, () => this.called(queue)));
  }

  /** There are requests to publish, or entries to take: runs the loop soon. Cheap when it runs. */
  readonly wake = (): void => {
    if (this.isScheduled || this.inTurn || this.isClosed) return;
    this.isScheduled = true;
    this.isAsleep = false;
    setImmediate(this.turn);
  };

  /** Ends the present turn: promises were settled, whose continuations wait for it. */
  yieldSoon(): void {
    this.isYielding = true;
  }

  /** Ends the watches; call it before the descriptors are closed. Idempotent. */
  close(): void {
    this.isClosed = true;
    for (const watch of this.watches.splice(0)) watch.close();
    this.queues.length = 0;
  }

  private called(queue: LoopQueue): void {
    if (consumeEvent(queue.callFd) === 0 || !this.isAsleep) return;
    this.adaptWindow(performance.now() - this.sleptAt);
    this.isAsleep = false;
    this.turn();
  }

  private adaptWindow(sleptMs: number): void {
    if (sleptMs > this.windowMaxMs) this.windowMs = 0;
    else if (this.windowMs === 0) this.windowMs = Math.min(WINDOW_FIRST_MS, this.windowMaxMs);
    else this.windowMs = Math.min(this.windowMs * 2, this.windowMaxMs);
  }

  private readonly turn = (): void => {
    if (this.inTurn || this.isClosed) return;
    this.isScheduled = false;
    this.inTurn = true;
    try {
      if (this.look()) return;
    } finally {
      this.inTurn = false;
    }
    this.isScheduled = true;
    setImmediate(this.turn);
  };

  /** Works until there is nothing to do (true) or the event loop has to get its turn (false). */
  private look(): boolean {
    const startedAt = performance.now();
    const { queues } = this;
    this.isYielding = false;
    for (let i = 0; i < queues.length; i += 1) {
      queues[i]!.ring.suppressNotifications();
      queues[i]!.ring.publish();
    }
    this.workedAt = startedAt;
    for (let looks = 1; ; looks += 1) {
      const worked = this.takeAll();
      if (this.isYielding) return false;
      if (!worked && looks % LOOKS_PER_CLOCK !== 0 && this.windowMs > 0) continue;
      const now = performance.now();
      if (worked) this.workedAt = now;
      else if (this.mayFallAsleep(now) && this.fallAsleep(now)) return true;
      if (now - startedAt >= SLICE_MS) return false;
    }
  }

  private takeAll(): boolean {
    const { queues } = this;
    let worked = false;
    for (let i = 0; i < queues.length; i += 1) {
      const queue = queues[i]!;
      if (!queue.ring.hasUsed() || !queue.drain()) continue;
      queue.ring.publish();
      worked = true;
    }
    return worked;
  }

  private mayFallAsleep(now: number): boolean {
    if (now - this.workedAt >= this.windowMs) return true;
    const { queues } = this;
    for (let i = 0; i < queues.length; i += 1) {
      if (queues[i]!.ring.outstandingCount > 0) return false;
    }
    return true;
  }

  /** Arms all calls; false when something came back in the meantime. */
  private fallAsleep(now: number): boolean {
    const { queues } = this;
    // A completion on one queue may have placed requests on another.
    for (let i = 0; i < queues.length; i += 1) queues[i]!.ring.publish();
    for (let i = 0; i < queues.length; i += 1) {
      if (!queues[i]!.ring.armNotifications()) continue;
      for (let k = 0; k <= i; k += 1) queues[k]!.ring.suppressNotifications();
      return false;
    }
    this.isAsleep = true;
    this.sleptAt = now;
    return true;
  }
}
