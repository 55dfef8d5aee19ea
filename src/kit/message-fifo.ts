/**
 * Messages that wait for buffers of the driver, in memory that is allocated once:
 *
 *   slots   ┌─────┬─────┬─────┬─────┐   each as large as the largest message
 *           └─────┴─────┴─────┴─────┘
 *             ▲ first, `count` of them wait
 *
 * A message for which there is no slot is lost, and counted.
 */
import { assert } from '../errors.js';
import type { ChainWriter } from '../virtio/index.js';
import type { ServedQueue } from './served-queue.js';

/** No slot was free. */
export const LOST = -1;

export class MessageFifo {
  /** The slots. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Messages that wait. */
  count = 0;
  /** Messages that were lost since the last {@link clear}. */
  lostCount = 0;
  private readonly sizes: Uint32Array;
  private readonly sizeMax: number;
  private first = 0;

  /** For `countMax` messages of up to `sizeMax` bytes. */
  constructor(countMax: number, sizeMax: number) {
    this.sizes = new Uint32Array(countMax);
    this.sizeMax = sizeMax;
    this.bytes = new Uint8Array(countMax * sizeMax);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Messages that still fit. */
  get room(): number {
    return this.sizes.length - this.count;
  }

  /**
   * Adds a message of `size` bytes, which the caller writes.
   * @returns where it lies in {@link bytes}, with what an earlier one has left; or {@link LOST}
   */
  push(size: number): number {
    assert(size <= this.sizeMax, 'a message is larger than its slot');
    if (this.room === 0) {
      this.lostCount += 1;
      return LOST;
    }
    const slot = (this.first + this.count) % this.sizes.length;
    this.sizes[slot] = size;
    this.count += 1;
    return slot * this.sizeMax;
  }

  /**
   * Hands messages to the driver, each in a buffer of its own, as long as there are buffers. One
   * that is too small is the driver's fault and stops the queue. @returns how many.
   */
  deliverTo(queue: ServedQueue | null): number {
    const before = this.count;
    while (queue !== null && this.count > 0) {
      if (!queue.deliverEach(1, this.sizes[this.first]!, this.fill)) break;
      this.first = (this.first + 1) % this.sizes.length;
      this.count -= 1;
    }
    return before - this.count;
  }

  /** Byte by byte: a view would be allocated for each message. */
  private readonly fill = (writer: ChainWriter): void => {
    const start = this.first * this.sizeMax;
    const end = start + this.sizes[this.first]!;
    for (let at = start; at < end; at += 1) writer.writeU8(this.bytes[at]!);
  };

  /** Forgets what waits. */
  clear(): void {
    this.count = 0;
    this.lostCount = 0;
  }
}
