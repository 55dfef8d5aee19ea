/** The requests of the entropy device (virtio 1.x, section 5.4.6). */

import type { ServedQueue } from '../../kit/index.js';
import { type HandlerResult, NOT_NOW, type OpenDevice, type Request } from '../../kit/index.js';
import { DriverFault } from '../../virtio/index.js';
import type { EntropySource } from './backend.js';
import { REQUEST_SIZE_MAX } from './wire.js';

export interface RngDeviceOptions {
  /** Most bytes handed out in a period; Infinity for no limit. */
  readonly bytesMax: number;
  /** Length of a period in milliseconds. */
  readonly periodMs: number;
  readonly log: (line: string) => void;
}

/** How long to wait, in milliseconds, before a failing source is asked again. */
const RETRY_MS = 1000;

/** Fills the driver's buffers from a source, at a limited rate. */
export class RngDevice {
  private readonly source: EntropySource;
  private readonly options: RngDeviceOptions;
  private budget: number;
  private periodEnd = 0;
  private timer: NodeJS.Timeout | null = null;
  /** The queue that waits for the source; its predecessor may have stopped while it waited. */
  private waiting: ServedQueue | null = null;
  private hasFailed = false;
  private isClosed = false;

  constructor(source: EntropySource, options: RngDeviceOptions) {
    this.source = source;
    this.options = options;
    this.budget = options.bytesMax;
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'requestq'> {
    return {
      features: 0n,
      handlers: { requestq: (request, queue) => this.serve(request, queue) },
      close: () => this.close(),
    };
  }

  private serve({ writer }: Request, queue: ServedQueue): HandlerResult {
    if (writer.remaining === 0) {
      throw new DriverFault('request', 'an entropy request has no writable buffer');
    }
    this.refillBudget();
    if (this.budget <= 0) return this.pause(queue, this.periodEnd - performance.now());
    let left = Math.min(writer.remaining, this.budget, REQUEST_SIZE_MAX);
    while (left > 0) {
      const { address, size } = writer.nextSegment();
      const result = this.source.read(address, Math.min(size, left));
      if (result <= 0) {
        if (writer.written > 0) break; // Some bytes are an answer.
        return this.sourceEmpty(queue, result);
      }
      writer.advance(result);
      this.budget -= result;
      left -= result;
    }
    this.hasFailed = false;
    return undefined;
  }

  private refillBudget(): void {
    const now = performance.now();
    if (now < this.periodEnd) return;
    this.periodEnd = now + this.options.periodMs;
    this.budget = this.options.bytesMax;
  }

  private sourceEmpty(queue: ServedQueue, result: number): typeof NOT_NOW {
    if (result === 0) {
      // The source is waited for once, however often the queue is stopped and started meanwhile.
      if (this.waiting === null) this.source.waitReady(() => this.sourceReady());
      this.waiting = queue;
      return NOT_NOW;
    }
    if (!this.hasFailed) this.options.log(`the source fails (errno ${-result}); trying on`);
    this.hasFailed = true;
    return this.pause(queue, RETRY_MS);
  }

  private sourceReady(): void {
    const queue = this.waiting;
    this.waiting = null;
    queue?.resume();
  }

  /** The request goes back to the ring; a timer serves the queue again. */
  private pause(queue: ServedQueue, delayMs: number): typeof NOT_NOW {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(
      () => {
        if (!this.isClosed) queue.resume();
      },
      Math.max(1, delayMs),
    );
    this.timer.unref();
    return NOT_NOW;
  }

  private close(): void {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    this.source.close();
  }
}
