/**
 * The service loop: one for each device process, on Node's event loop.
 *
 *            kick                         nothing for `window`
 *   asleep ────────► looking at the rings ─────────────────────► asleep (kicks armed)
 *                     │  ▲
 *                     └──┘ pop, handle, commit, publish; every `SLICE_MS` the event loop runs
 *
 * A wake-up costs far more than a request, so the loop keeps looking for a while after the last
 * request: the window. It grows while kicks come sooner than the longest window, so that looking
 * would have caught them, and goes to zero when they come later, so that an idle device costs
 * nothing. While the loop looks, the driver is asked not to kick.
 */
import { performance } from 'node:perf_hooks';
import { consumeEvent, Watch } from '../native/index.js';
import { KICK_POLL } from '../vhost-user/back-end-device.js';
import { CHAIN_TAKEN } from '../virtio/chain.js';
import { type Chain, DriverFault } from '../virtio/index.js';
import { LATER, NOT_NOW, type OpenDevice } from './define.js';
import { LOOKS_PER_CLOCK, PollWindow, SLICE_MS } from './poll-window.js';
import type { ServedQueue } from './served-queue.js';

/** Requests that one queue may hand out before the others get a turn, and all are published. */
const BATCH_MAX = 64;
/** Interval in milliseconds of looking at queues that have no kick descriptor. */
const UNKICKED_INTERVAL_MS = 1;

/** Default of the longest window, in microseconds. */
export const POLL_US_DEFAULT = 200;
/** Longest window that makes sense, in microseconds. */
export const POLL_US_MAX = 100_000;

export interface ServiceEvents {
  /** The driver broke a queue's ring, or a request of it; the queue has stopped. */
  onFault(queue: ServedQueue, fault: DriverFault): void;
  /** A handler failed by a bug of its own; the queue has stopped. */
  onBug(queue: ServedQueue, error: unknown): void;
}

export class QueueService {
  private readonly device: OpenDevice;
  private readonly events: ServiceEvents;
  private readonly window: PollWindow;
  private readonly active: ServedQueue[] = [];
  private asleep = true;
  private sleptAt = 0;
  private workedAt = 0;
  private scheduled = false;
  private inTurn = false;
  private isContinued = false;
  private timer: NodeJS.Timeout | null = null;

  constructor(device: OpenDevice, events: ServiceEvents, pollUs = POLL_US_DEFAULT) {
    this.device = device;
    this.events = events;
    this.window = new PollWindow(pollUs / 1000);
  }

  /** Queues that are served now. */
  get queues(): readonly ServedQueue[] {
    return this.active;
  }

  /** Starts to serve a queue. What is in the ring already is served without a kick. */
  add(queue: ServedQueue): void {
    this.active.push(queue);
    if (queue.kickFd >= 0) queue.watch = new Watch(queue.kickFd, () => this.kicked(queue));
    this.updateTimer();
    this.wake();
  }

  /** Tells the device of a queue that was added. */
  announce(queue: ServedQueue): void {
    this.guard(queue, () => {
      this.device.queueStarted?.(queue);
      if (queue.isSupply) this.device.supplied?.(queue);
    });
  }

  /** The queue of this name (the one that was started first) that does not stop. */
  find(name: string): ServedQueue | null {
    const { active } = this;
    for (let i = 0; i < active.length; i += 1) {
      if (active[i]!.name === name && !active[i]!.isStopping) return active[i]!;
    }
    return null;
  }

  /** Ends the service of a queue; resolves when none of its requests is in flight. */
  async remove(queue: ServedQueue): Promise<void> {
    queue.watch?.close();
    queue.watch = null;
    queue.isPaused = true;
    const idle = new Promise<void>((resolve) => {
      queue.onIdle = resolve;
    });
    this.guard(queue, () => this.device.queueStopping?.(queue));
    this.checkIdle(queue);
    this.wake();
    await idle;
    const index = this.active.indexOf(queue);
    if (index >= 0) this.active.splice(index, 1);
    this.updateTimer();
  }

  /** The driver kicked without a descriptor. */
  kickInBand(queue: ServedQueue): void {
    queue.ring.counters.kicks += 1;
    if (queue.isSupply) this.supplied(queue);
    else this.wake();
  }

  private supplied(queue: ServedQueue): void {
    this.guard(queue, () => this.device.supplied?.(queue));
  }

  /** Runs the loop in the next turn of the event loop, unless it runs anyway. */
  readonly wake = (): void => {
    if (this.scheduled || this.inTurn) return;
    this.scheduled = true;
    this.asleep = false;
    setImmediate(this.turn);
  };

  private kicked(queue: ServedQueue): void {
    const count = consumeEvent(queue.kickFd);
    if (count === 0) return;
    if (count < 0) {
      // It stays readable for ever: watched on, it would keep the process busy with nothing.
      queue.watch?.close();
      queue.watch = null;
      this.fail(queue, new DriverFault('request', 'the kick descriptor is dead'));
      return;
    }
    queue.ring.counters.kicks += 1;
    if (queue.isSupply) {
      this.supplied(queue);
      return;
    }
    if (!this.asleep) return; // The loop is looking already.
    this.window.wokeAfter(performance.now() - this.sleptAt);
    this.asleep = false;
    this.turn();
  }

  private readonly turn = (): void => {
    if (this.inTurn) return;
    this.scheduled = false;
    this.inTurn = true;
    try {
      this.look();
    } finally {
      this.inTurn = false;
    }
  };

  private look(): void {
    const startedAt = performance.now();
    const { active } = this;
    for (let i = 0; i < active.length; i += 1) {
      if (!active[i]!.isSupply) active[i]!.ring.suppressKicks();
    }
    // A slice that goes on with the last one keeps its window: a longer one would never end.
    if (!this.isContinued) this.workedAt = startedAt;
    this.isContinued = false;
    for (let looks = 1; ; looks += 1) {
      const worked = this.serveAll();
      if (!worked && looks % LOOKS_PER_CLOCK !== 0 && this.window.ms > 0) continue;
      const isLooking = !worked && this.window.ms > 0;
      const now = isLooking ? this.window.yield() : performance.now();
      if (worked) this.workedAt = now;
      else if (now - this.workedAt >= this.window.ms && this.fallAsleep(now)) return;
      if (now - startedAt < SLICE_MS) continue;
      this.isContinued = true;
      this.scheduled = true;
      setImmediate(this.turn);
      return;
    }
  }

  /** Arms all kicks; false when a request came in the meantime. */
  private fallAsleep(now: number): boolean {
    const { active } = this;
    for (let i = 0; i < active.length; i += 1) {
      const queue = active[i]!;
      if (queue.isPaused || queue.isSupply || !queue.ring.armKicks()) continue;
      for (let k = 0; k <= i; k += 1) {
        if (!active[k]!.isSupply) active[k]!.ring.suppressKicks();
      }
      return false;
    }
    this.asleep = true;
    this.sleptAt = now;
    return true;
  }

  private serveAll(): boolean {
    const { active, device } = this;
    let worked = false;
    for (let i = 0; i < active.length; i += 1) {
      const queue = active[i]!;
      if (!queue.isPaused && !queue.isSupply && queue.ring.hasAvailable()) {
        this.serve(queue);
        worked = true;
      }
    }
    if (device.poll?.() === true) worked = true;
    // Also what was started outside of this loop: it costs nothing when there is nothing.
    device.commit?.();
    for (let i = 0; i < active.length; i += 1) {
      const queue = active[i]!;
      if (queue.ring.unpublishedCount > 0) {
        queue.ring.publish();
        worked = true;
      }
      if (queue.onIdle !== null) this.checkIdle(queue);
    }
    return worked;
  }

  private serve(queue: ServedQueue): void {
    const { ring } = queue;
    const handler = queue.handler!;
    let request: Chain | null = null;
    try {
      for (let budget = BATCH_MAX; budget > 0; budget -= 1) {
        request = null;
        request = ring.pop();
        if (request === null) return;
        const result = handler(request, queue);
        if (result === LATER) continue;
        if (result === undefined) {
          ring.complete(request);
        } else if (result === NOT_NOW) {
          ring.unpop(request);
          queue.isPaused = true;
          return;
        } else {
          this.completeLater(queue, request, result);
        }
      }
    } catch (error) {
      this.fail(queue, error);
      if (request !== null) this.giveBack(queue, request);
    }
  }

  private completeLater(queue: ServedQueue, request: Chain, result: Promise<void>): void {
    result
      .then(() => queue.complete(request))
      .catch((error: unknown) => {
        this.fail(queue, error);
        this.giveBack(queue, request);
      });
  }

  /**
   * Completes the request of a handler that failed: nobody else will, and the queue could never be
   * stopped. A handler that had completed it already, and so failed, has nothing to give back.
   */
  private giveBack(queue: ServedQueue, request: Chain): void {
    if (request.state === CHAIN_TAKEN) queue.complete(request);
  }

  /** Runs a device's own function, which must not end the process by a fault or a bug. */
  guard(queue: ServedQueue, run: () => void): void {
    try {
      run();
    } catch (error) {
      this.fail(queue, error);
    }
  }

  /** Stops a queue after a fault of the driver or a bug of the device. */
  fail(queue: ServedQueue, error: unknown): void {
    if (queue.isBroken) return;
    queue.isBroken = true;
    queue.isPaused = true;
    if (error instanceof DriverFault) this.events.onFault(queue, error);
    else this.events.onBug(queue, error);
  }

  private checkIdle(queue: ServedQueue): void {
    if (queue.onIdle === null) return;
    const { ring } = queue;
    if (ring.unpublishedCount > 0) ring.publish();
    if (ring.inflightCount > 0) return;
    queue.onIdle();
  }

  private readonly lookUnkicked = (): void => {
    for (const queue of this.active) {
      if (!queue.isSupply || queue.kickFd !== KICK_POLL || queue.isPaused) continue;
      if (!queue.ring.hasAvailable()) continue;
      this.supplied(queue);
    }
    this.wake();
  };

  /** Looks at queues whose driver does not kick, at an interval. */
  private updateTimer(): void {
    const isNeeded = this.active.some((queue) => queue.kickFd === KICK_POLL);
    if (isNeeded && this.timer === null) {
      this.timer = setInterval(this.lookUnkicked, UNKICKED_INTERVAL_MS);
      this.timer.unref();
    } else if (!isNeeded && this.timer !== null) {
      clearInterval(this.timer);
      this.timer = null;
    }
  }
}
