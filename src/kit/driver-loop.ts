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
import { LOOKS_PER_CLOCK, PollWindow, SLICE_MS } from './poll-window.js';
import { POLL_US_DEFAULT } from './service.js';

/** Looks at busy rings between two looks at the sources. */
const POLL_EVERY = 16;

/** A queue as the loop sees it. */
export interface LoopQueue {
  readonly ring: DriverQueue;
  /** Descriptor of the eventfd by which the device calls. */
  readonly callFd: number;
  /** Takes all used entries; true when there were some. Throws nothing. */
  drain(): boolean;
}

/** Where a driver's requests come from, as the loop sees it: looked at as the rings are. */
export interface LoopSource {
  /** Descriptor that is readable when there is something to take. */
  readonly fd: number;
  /** True when looking takes no system call. */
  readonly isCheap: boolean;
  /** False when nothing would be taken now, whatever is there. */
  readonly isReady: boolean;
  /** Takes what is there, up to a bound; true when there was something. Throws nothing. */
  poll(): boolean;
}

/** A source with its watch. */
interface Watched {
  readonly source: LoopSource;
  readonly watch: Watch;
  isPaused: boolean;
}

export class DriverLoop {
  private readonly queues: LoopQueue[] = [];
  private readonly sources: Watched[] = [];
  private readonly watches: Watch[] = [];
  private readonly window: PollWindow;
  private isAsleep = true;
  private sleptAt = 0;
  private workedAt = 0;
  private isScheduled = false;
  private inTurn = false;
  /** True when the present turn ends soon: promises were settled. */
  isYielding = false;
  private sliceAt = 0;
  private isContinued = false;
  private isClosed = false;
  /** Looks at the rings until the sources get the next one. */
  private looksToPoll = 0;

  /** @param pollUs longest time in microseconds to look before sleeping; 0 sleeps at once. */
  constructor(pollUs = POLL_US_DEFAULT) {
    // A driver has something to wait for: it begins with the longest look.
    this.window = new PollWindow(pollUs / 1000, pollUs / 1000);
  }

  /** Looks after a queue from now on. The descriptor stays the caller's, until {@link close}. */
  add(queue: LoopQueue): void {
    this.queues.push(queue);
    this.watches.push(new Watch(queue.callFd, () => this.called(queue)));
  }

  /** Looks after a source of requests from now on, until {@link removeSource} or {@link close}. */
  addSource(source: LoopSource): void {
    const watch = new Watch(source.fd, () => {
      if (this.isAsleep) this.rouse();
    });
    this.sources.push({ source, watch, isPaused: false });
    this.wake();
  }

  /** Ends the watch of a source. Its descriptor is still open. */
  removeSource(source: LoopSource): void {
    const index = this.sources.findIndex((entry) => entry.source === source);
    if (index >= 0) this.sources.splice(index, 1)[0]!.watch.close();
  }

  /** There are requests to publish, or entries to take: runs the loop soon. Cheap when it runs. */
  readonly wake = (): void => {
    if (this.isScheduled || this.inTurn || this.isClosed) return;
    this.isScheduled = true;
    this.isAsleep = false;
    setImmediate(this.slice);
  };

  /** Ends the present turn: promises were settled, whose continuations wait for it. */
  yieldSoon(): void {
    this.isYielding = true;
  }

  /** Ends the watches; call it before the descriptors are closed. Idempotent. */
  close(): void {
    this.isClosed = true;
    for (const watch of this.watches.splice(0)) watch.close();
    for (const { watch } of this.sources.splice(0)) watch.close();
    this.queues.length = 0;
  }

  private called(queue: LoopQueue): void {
    if (consumeEvent(queue.callFd) !== 0 && this.isAsleep) this.rouse();
  }

  private rouse(): void {
    this.window.wokeAfter(performance.now() - this.sleptAt);
    this.isAsleep = false;
    this.slice();
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
    this.isContinued = true;
    this.isScheduled = true;
    // Continuations of promises run before the next turn. They need no turn of the event loop,
    // which has its own at the end of the slice.
    if (this.isYielding && performance.now() - this.sliceAt < SLICE_MS) queueMicrotask(this.soon);
    else setImmediate(this.slice);
  };

  /** Runs the next turn when all microtasks are done, also those that they make. */
  private readonly soon = (): void => process.nextTick(this.turn);

  /** Begins a slice: for so long the event loop has to wait. */
  private readonly slice = (): void => {
    this.sliceAt = performance.now();
    this.turn();
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
    // A slice that goes on with the last one keeps its window: a longer one would never end.
    if (!this.isContinued) this.workedAt = startedAt;
    this.isContinued = false;
    for (let looks = 1; ; looks += 1) {
      const worked = this.takeAll();
      if (this.isYielding) return false;
      if (!worked && looks % LOOKS_PER_CLOCK !== 0 && this.window.ms > 0) continue;
      const isLooking = !worked && this.window.ms > 0;
      const now = isLooking ? this.window.yield() : performance.now();
      if (worked) this.workedAt = now;
      else if (this.mayFallAsleep(now) && this.fallAsleep(now)) return true;
      if (now - startedAt >= SLICE_MS) return false;
    }
  }

  private takeAll(): boolean {
    const { queues } = this;
    let worked = this.sources.length > 0 && this.pollSources();
    for (let i = 0; i < queues.length; i += 1) {
      const queue = queues[i]!;
      if (!queue.ring.hasUsed() || !queue.drain()) continue;
      queue.ring.publish();
      worked = true;
      // Who hears of an end often asks for the next thing.
      this.looksToPoll = 0;
    }
    return worked;
  }

  /** Looks at the sources, which takes system calls: less often while the rings are at work. */
  private pollSources(): boolean {
    const { queues, sources } = this;
    const isTurn = this.looksToPoll === 0;
    let worked = false;
    for (let i = 0; i < sources.length; i += 1) {
      const { source } = sources[i]!;
      if ((isTurn || source.isCheap) && source.poll()) worked = true;
    }
    if (!isTurn) this.looksToPoll -= 1;
    if (!isTurn && !worked) return false;
    let isBusy = false;
    for (let i = 0; i < queues.length; i += 1) {
      const { ring } = queues[i]!;
      if (worked) ring.publish();
      if (ring.outstandingCount > 0) isBusy = true;
    }
    if (isBusy && isTurn) this.looksToPoll = POLL_EVERY;
    return worked;
  }

  private mayFallAsleep(now: number): boolean {
    if (now - this.workedAt >= this.window.ms) return true;
    const { queues } = this;
    if (this.sources.length > 0) return false; // The next request is waited for, too.
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
    for (let i = 0; i < this.sources.length; i += 1) this.rearm(this.sources[i]!);
    this.isAsleep = true;
    this.sleptAt = now;
    return true;
  }

  /** A source that takes nothing now would wake this thread again and again for nothing. */
  private rearm(entry: Watched): void {
    const shouldPause = !entry.source.isReady;
    if (shouldPause === entry.isPaused) return;
    entry.isPaused = shouldPause;
    if (shouldPause) entry.watch.pause();
    else entry.watch.resume();
  }
}
