/**
 * The device's side of a split virtqueue (section 2.7).
 *
 *   descriptor table   [addr len flags next] x size
 *   available ring     flags idx | head head head … | usedEvent      written by the driver
 *   used ring          flags idx | id len, id len … | availEvent     written by the device
 *
 *            lastAvailIndex          availIndex
 *   available ring  ──────┼──── to pop ───┼──────►      Both run freely in 16 bits; the ring slot
 *                                                       is index & (size - 1).
 */
import { assert } from '../errors.js';
import { addIndirect, type Chain, DESC_INDIRECT, DESC_NEXT, INDIRECT_COUNT_MAX } from './chain.js';
import {
  DeviceQueue,
  type DeviceQueueOptions,
  passesEvent,
  type SplitInflight,
} from './device-queue.js';
import { DriverFault } from './fault.js';

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

export class SplitDeviceQueue extends DeviceQueue {
  inflight: SplitInflight | null = null;
  private readonly descriptors: Uint32Array;
  private readonly avail: Uint16Array;
  private readonly used: Uint16Array;
  private readonly usedElements: Uint32Array;
  private readonly mask: number;
  private readonly usedEventAt: number;
  private readonly availEventAt: number;
  private readonly indirectMax: number;
  private lastAvailIndex: number;
  private seenAvailIndex: number;
  private usedIndex: number;
  private publishedIndex: number;
  private suppressed = false;

  constructor(options: DeviceQueueOptions) {
    super(options);
    const { size, areas } = options;
    assert((size & (size - 1)) === 0 && size > 0, 'the size of a split ring is a power of two');
    const { descriptor, driver, device } = areas;
    this.descriptors = new Uint32Array(descriptor.buffer, descriptor.byteOffset, size * 4);
    this.avail = new Uint16Array(driver.buffer, driver.byteOffset, 3 + size);
    this.used = new Uint16Array(device.buffer, device.byteOffset, 3 + size * 4);
    this.usedElements = new Uint32Array(device.buffer, device.byteOffset, 1 + size * 2);
    this.mask = size - 1;
    this.usedEventAt = 2 + size;
    this.availEventAt = 2 + size * 4;
    this.indirectMax = Math.max(size, INDIRECT_COUNT_MAX);
    this.lastAvailIndex = options.base & 0xffff;
    this.seenAvailIndex = this.lastAvailIndex;
    this.usedIndex = Atomics.load(this.used, 1);
    this.publishedIndex = this.usedIndex;
  }

  override get base(): number {
    return this.lastAvailIndex;
  }

  override get unpublishedCount(): number {
    return (this.usedIndex - this.publishedIndex) & 0xffff;
  }

  override hasAvailable(): boolean {
    return (
      this.unfinished.length > 0 ||
      this.lastAvailIndex !== this.seenAvailIndex ||
      this.lastAvailIndex !== Atomics.load(this.avail, 1)
    );
  }

  override pop(): Chain | null {
    if (this.unfinished.length > 0) return this.popUnfinished();
    if (this.lastAvailIndex === this.seenAvailIndex) {
      // This load comes before the reads of the ring and of descriptors that it announces.
      const index = Atomics.load(this.avail, 1);
      if (index === this.lastAvailIndex) return null;
      const count = (index - this.lastAvailIndex) & 0xffff;
      if (count > this.size) {
        throw new DriverFault(
          'index-jump',
          `queue ${this.index}: ${count} available entries in a ring of ${this.size}`,
        );
      }
      this.seenAvailIndex = index;
    }
    if (this.inflightCount >= this.size) {
      throw new DriverFault('index-jump', `queue ${this.index}: more requests than entries`);
    }
    const head = this.avail[2 + (this.lastAvailIndex & this.mask)]!;
    const chain = this.build(head);
    this.lastAvailIndex = (this.lastAvailIndex + 1) & 0xffff;
    chain.position = this.lastAvailIndex;
    if (this.inflight !== null) this.inflight.take(head);
    return chain;
  }

  private popUnfinished(): Chain {
    const request = this.unfinished.pop()!;
    const chain = this.build(request.id);
    chain.unfinished = request;
    return chain;
  }

  private build(head: number): Chain {
    const chain = this.takeSpare();
    try {
      chain.id = head;
      this.walk(chain, head);
    } catch (fault) {
      this.discard(chain);
      throw fault;
    }
    return this.taken(chain);
  }

  private walk(chain: Chain, head: number): void {
    const { descriptors, size, memory } = this;
    let index = head;
    for (let steps = 0; ; steps += 1) {
      if (index >= size) throw new DriverFault('index-range', `queue ${this.index}: ${index}`);
      // As many steps as entries: more is a cycle.
      if (steps === size) throw new DriverFault('chain-length', `queue ${this.index}: a cycle`);
      const at = index << 2;
      const low = descriptors[at]!;
      const high = descriptors[at + 1]!;
      const length = descriptors[at + 2]!;
      const word = descriptors[at + 3]!;
      const flags = word & 0xffff;
      if ((flags & DESC_INDIRECT) !== 0) {
        if (!this.features.indirect || (flags & DESC_NEXT) !== 0) {
          throw new DriverFault(
            'indirect',
            `queue ${this.index}: an indirect table is not allowed`,
          );
        }
        addIndirect(chain, memory, low, high, length, this.indirectMax, false);
        return;
      }
      chain.addRange(memory, low, high, length, flags);
      if ((flags & DESC_NEXT) === 0) return;
      index = word >>> 16;
    }
  }

  override isLast(chain: Chain): boolean {
    return chain.unfinished !== null || chain.position === this.lastAvailIndex;
  }

  override unpop(chain: Chain): void {
    if (chain.unfinished !== null) {
      this.untakeUnfinished(chain);
      return;
    }
    assert(this.isLast(chain), 'only the chain popped last can be put back');
    this.untaken(chain);
    this.lastAvailIndex = (this.lastAvailIndex - 1) & 0xffff;
    if (this.inflight !== null) this.inflight.untake(chain.id);
  }

  protected override writeUsed(chain: Chain): void {
    if (this.inflight !== null) this.inflight.complete(chain.id);
    const at = 1 + ((this.usedIndex & this.mask) << 1);
    this.usedElements[at] = chain.id;
    this.usedElements[at + 1] = chain.writer.usedLength;
    if (this.log !== null && this.logUsedAddress >= 0) {
      this.log.mark(this.logUsedAddress + at * 4, 8);
    }
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
  }

  override publish(): void {
    const before = this.publishedIndex;
    const now = this.usedIndex;
    if (before === now) return;
    // The elements are written before the index that covers them.
    Atomics.store(this.used, 1, now);
    this.publishedIndex = now;
    if (this.log !== null && this.logUsedAddress >= 0) this.log.mark(this.logUsedAddress + 2, 2);
    if (this.inflight !== null) this.inflight.published(now);
    // The index is stored before the driver's wish is loaded (both sequentially consistent): else
    // a driver that asks just now would neither see the element nor be notified.
    const wanted = this.features.eventIndex
      ? passesEvent(Atomics.load(this.avail, this.usedEventAt), now, before)
      : (Atomics.load(this.avail, 0) & AVAIL_NO_INTERRUPT) === 0;
    if (wanted) this.notify();
  }

  override suppressKicks(): void {
    // With event indices nothing needs doing: the driver kicks once when it passes availEvent,
    // which stays where it is until armKicks.
    if (this.features.eventIndex || this.suppressed) return;
    this.suppressed = true;
    this.used[0] = USED_NO_NOTIFY;
  }

  override armKicks(): boolean {
    if (this.features.eventIndex) {
      Atomics.store(this.used, this.availEventAt, this.lastAvailIndex);
    } else {
      this.suppressed = false;
      Atomics.store(this.used, 0, 0);
    }
    // The wish is stored before the index is loaded: a request added in between is seen here.
    return this.unfinished.length > 0 || Atomics.load(this.avail, 1) !== this.lastAvailIndex;
  }
}
