/**
 * Requests that wait for something, each at a place with a number, until a status byte answers
 * them. The numbers mean something to the device (lines of a chip), or are given out by
 * {@link HeldRequests.claim} as tokens (frames on their way).
 */
import { assert } from '../errors.js';
import { DriverFault } from '../virtio/index.js';
import type { Request } from './define.js';
import type { ServedQueue } from './served-queue.js';

/** All places are claimed. */
export const NO_PLACE = -1;

export class HeldRequests {
  private readonly requests: (Request | null)[];
  private readonly queues: (ServedQueue | null)[];
  private readonly isClaimed: Uint8Array;
  private readonly free: number[] = [];

  constructor(placeCount: number) {
    this.requests = new Array<Request | null>(placeCount).fill(null);
    this.queues = new Array<ServedQueue | null>(placeCount).fill(null);
    this.isClaimed = new Uint8Array(placeCount).fill(1);
    this.releaseAll();
  }

  /**
   * A place that nobody else gets before it is released: whoever was told of it may name it after
   * its request was answered. @returns {@link NO_PLACE} when there is none.
   */
  claim(): number {
    const place = this.free.pop() ?? NO_PLACE;
    if (place !== NO_PLACE) this.isClaimed[place] = 1;
    return place;
  }

  /** Ends a claim, if there is one. The place is empty. */
  release(place: number): void {
    if (this.isClaimed[place] !== 1) return;
    assert(this.requests[place] === null, 'a request waits at the place that is released');
    this.isClaimed[place] = 0;
    this.free.push(place);
  }

  /** Ends all claims. All places are empty. */
  releaseAll(): void {
    for (let place = this.isClaimed.length - 1; place >= 0; place -= 1) this.release(place);
  }

  /** Keeps a request whose handler returns `LATER`. The place is empty. */
  hold(place: number, request: Request, queue: ServedQueue): void {
    assert(this.requests[place] === null, 'the place is taken, or does not exist');
    this.requests[place] = request;
    this.queues[place] = queue;
  }

  /** True when a request waits there. */
  isHeld(place: number): boolean {
    return (this.queues[place] ?? null) !== null;
  }

  /**
   * Completes a request with a status behind what its writer has written; if one waits there. One
   * without room for it is the driver's fault and stops the queue.
   */
  answer(place: number, status: number): void {
    const request = this.requests[place] ?? null;
    if (request === null) return;
    const queue = this.queues[place]!;
    this.requests[place] = null;
    this.queues[place] = null;
    // Not thrown: this is called by timers and events, and by whoever stops a queue.
    if (request.writer.remaining > 0) request.writer.writeU8(status);
    else queue.blame(new DriverFault('request', 'no room for a status'));
    queue.complete(request);
  }

  /** Answers all, or those of a queue that stops. */
  answerAll(status: number, queue: ServedQueue | null = null): void {
    for (let place = 0; place < this.requests.length; place += 1) {
      if (queue === null || this.queues[place] === queue) this.answer(place, status);
    }
  }
}
