/** A running queue as the service loop and device handlers see it. */

import { assert } from '../errors.js';
import type { Watch } from '../native/index.js';
import {
  type Chain,
  type ChainWriter,
  type DeviceQueue,
  DriverFault,
  type QueueCounters,
} from '../virtio/index.js';
import type { Handler } from './define.js';

/** Where a packed ring begins: index 0 on both sides, both wrap counters set. */
const PACKED_BASE_FIRST = 0x80008000;

/** @internal What a queue needs from the loop that serves it. */
export interface QueueLoop {
  readonly wake: () => void;
  fail(queue: ServedQueue, error: unknown): void;
}

export class ServedQueue {
  /** Name from the device's definition. */
  readonly name: string;
  /** Index among the device's queues. */
  readonly index: number;
  /** @internal */
  readonly ring: DeviceQueue;
  /** @internal */
  readonly handler: Handler | null;
  /** @internal True for a queue of buffers that the device takes by itself. */
  readonly isSupply: boolean;
  /** @internal */
  readonly kickFd: number;
  /** @internal */
  watch: Watch | null = null;
  /** @internal Requests are not looked for: the queue stops, is broken, or waits for `resume`. */
  isPaused = false;
  /** @internal A fault ended the queue until the driver resets it. */
  isBroken = false;
  /** @internal Set while the queue stops. */
  onIdle: (() => void) | null = null;
  private readonly loop: QueueLoop;
  /** Buffers that {@link deliverEach} has taken; empty between its calls. */
  private readonly taken: Chain[] = [];

  /** @internal */
  constructor(
    ring: DeviceQueue,
    name: string,
    handler: Handler | null,
    isSupply: boolean,
    kickFd: number,
    loop: QueueLoop,
  ) {
    this.ring = ring;
    this.name = name;
    this.index = ring.index;
    this.handler = handler;
    this.isSupply = isSupply;
    this.kickFd = kickFd;
    this.loop = loop;
  }

  /** Counters of the queue. */
  get counters(): Readonly<QueueCounters> {
    return this.ring.counters;
  }

  /** Entries of the ring. */
  get size(): number {
    return this.ring.size;
  }

  /** Where the queue is in its ring: one that goes on where it stopped starts there. */
  get position(): number {
    return this.ring.base;
  }

  /**
   * True while nothing in the ring has been served, by nobody. A queue that starts and is not fresh
   * was served before, by this process or another: what the driver has said is not said again.
   */
  get isFresh(): boolean {
    return this.ring.base === (this.ring.features.packed ? PACKED_BASE_FIRST : 0);
  }

  /** True when the queue stops and takes no more requests. */
  get isStopping(): boolean {
    return this.onIdle !== null;
  }

  /** Completes a request whose handler returned LATER, or a buffer that was taken. Once only. */
  complete(request: Chain): void {
    this.ring.complete(request);
    this.loop.wake();
  }

  /**
   * Takes the next buffer of a supply queue; null when the driver has supplied none, or when what
   * it supplied is malformed: the queue has then stopped.
   */
  take(): Chain | null {
    assert(this.isSupply, `queue '${this.name}' hands its requests to the handler`);
    if (this.isPaused) return null;
    try {
      const buffer = this.ring.pop();
      if (buffer !== null) return buffer;
      // The ring was found empty: only now is a kick wanted, and one look more against the race.
      return this.ring.armKicks() ? this.ring.pop() : null;
    } catch (error) {
      // Devices take buffers in timers and events of their own, where nobody would catch this.
      this.loop.fail(this, error);
      return null;
    }
  }

  /** Puts back the buffer that was taken last, unused. */
  putBack(buffer: Chain): void {
    this.ring.unpop(buffer);
  }

  /**
   * Puts a request that is held back, unserved, so that it is handed out again where this queue
   * goes on. @returns false when it has to be completed: one that was taken later is completed, or
   * still held.
   */
  tryPutBack(request: Chain): boolean {
    if (!this.ring.isLast(request)) return false;
    this.ring.unpop(request);
    return true;
  }

  /**
   * Fills one supplied buffer with each message: all of them, or none when the driver supplied too
   * few buffers (false). A buffer that is too small is the driver's fault and stops the queue.
   */
  deliver(messages: readonly Uint8Array[]): boolean {
    const sizeMax = messages.reduce((size, { length }) => Math.max(size, length), 0);
    return this.deliverEach(messages.length, sizeMax, (writer, index) => {
      writer.write(messages[index]!);
    });
  }

  /**
   * As {@link deliver}, for `count` messages of up to `size` bytes that `fill` writes: nothing is
   * allocated.
   */
  deliverEach(
    count: number,
    size: number,
    fill: (writer: ChainWriter, index: number) => void,
  ): boolean {
    const { taken } = this;
    while (taken.length < count) {
      const buffer = this.take();
      if (buffer === null) {
        while (taken.length > 0) this.putBack(taken.pop()!); // The last one first.
        return false;
      }
      taken.push(buffer);
    }
    let isShort = false;
    for (let i = 0; i < count; i += 1) if (taken[i]!.writer.remaining < size) isShort = true;
    for (let i = 0; i < count; i += 1) {
      if (!isShort) fill(taken[i]!.writer, i);
      this.complete(taken[i]!);
    }
    taken.length = 0;
    if (!isShort) return true;
    const text = `a supplied buffer is smaller than a message of ${size} bytes`;
    this.loop.fail(this, new DriverFault('short', text));
    return false;
  }

  /**
   * Stops the queue for what the driver placed in it: for devices that find it in an event of their
   * own, where nobody would catch what is thrown.
   */
  blame(fault: DriverFault): void {
    this.loop.fail(this, fault);
  }

  /** Serves again after a handler returned NOT_NOW. */
  resume(): void {
    if (this.isBroken || this.isStopping) return;
    this.isPaused = false;
    this.loop.wake();
  }
}
