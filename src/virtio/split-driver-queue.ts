/**
 * The driver's side of a split virtqueue (section 2.7; the picture is in `split-device-queue.ts`).
 *
 *            lastUsedIndex         used index
 *   used ring  ────┼──── to take ───────┼──────►       Both run freely in 16 bits; the ring slot
 *                                                      is index & (size - 1).
 *
 *   free descriptors   ┼─ freeOut ──► next to take … ─► freeIn ┼
 *
 * Free descriptors form a first-in first-out ring. Under IN_ORDER chains come back in the order of
 * their submission, so this alone hands descriptors out in ring order, as section 2.7.5 asks.
 */
import { assert } from '../errors.js';
import { DESC_INDIRECT, DESC_NEXT, DESC_WRITE } from './chain.js';
import { passesEvent } from './device-queue.js';
import { DriverQueue, type DriverQueueOptions } from './driver-queue.js';
import { DeviceFault } from './fault.js';

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

export class SplitDriverQueue extends DriverQueue {
  private readonly descriptors: Uint32Array;
  private readonly avail: Uint16Array;
  private readonly used: Uint16Array;
  private readonly usedElements: Uint32Array;
  private readonly mask: number;
  private readonly usedEventAt: number;
  private readonly availEventAt: number;
  private readonly free: Uint16Array;
  private freeOut = 0;
  private freeIn = 0;
  /** The links of chains in flight; those in shared memory may be changed by the device. */
  private readonly nextOf: Uint16Array;
  private readonly slotCounts: Uint16Array;
  private availIndex = 0;
  private publishedIndex = 0;
  private lastUsedIndex = 0;
  private seenUsedIndex = 0;
  private suppressed = false;

  constructor(options: DriverQueueOptions) {
    super(options);
    const { size, areas } = options;
    assert((size & (size - 1)) === 0, 'the size of a split ring is a power of two');
    const { descriptor, driver, device } = areas;
    this.descriptors = new Uint32Array(descriptor.buffer, descriptor.byteOffset, size * 4);
    this.avail = new Uint16Array(driver.buffer, driver.byteOffset, 3 + size);
    this.used = new Uint16Array(device.buffer, device.byteOffset, 3 + size * 4);
    this.usedElements = new Uint32Array(device.buffer, device.byteOffset, 1 + size * 2);
    this.mask = size - 1;
    this.usedEventAt = 2 + size;
    this.availEventAt = 2 + size * 4;
    this.free = new Uint16Array(size);
    this.nextOf = new Uint16Array(size);
    this.slotCounts = new Uint16Array(size);
    this.restart();
  }

  protected override restart(): void {
    for (let i = 0; i < this.size; i += 1) this.free[i] = i;
    this.freeOut = 0;
    this.freeIn = 0;
    this.availIndex = 0;
    this.publishedIndex = 0;
    this.lastUsedIndex = 0;
    this.seenUsedIndex = 0;
    this.suppressed = false;
  }

  /** The used index, as a new back end reads it: it goes on with the entry of that number. */
  override get base(): number {
    return Atomics.load(this.used, 1);
  }

  override commit(token: number): boolean {
    const { stagedCount } = this;
    assert(stagedCount > 0, 'a request has at least one segment');
    const indirect = this.wantsTable(stagedCount);
    const slotCount = indirect ? 1 : stagedCount;
    if (slotCount > this.freeCount) return false;
    const head = indirect ? this.writeIndirect() : this.writeChain();
    this.slotCounts[head] = slotCount;
    this.avail[2 + (this.availIndex & this.mask)] = head;
    this.availIndex = (this.availIndex + 1) & 0xffff;
    this.placed(head, token, slotCount);
    return true;
  }

  private writeIndirect(): number {
    const { descriptors } = this;
    const head = this.takeFree();
    const address = this.writeTable(head, false);
    const at = head << 2;
    descriptors[at] = address;
    descriptors[at + 1] = address / 4294967296;
    descriptors[at + 2] = this.stagedCount * 16;
    descriptors[at + 3] = DESC_INDIRECT;
    return head;
  }

  private writeChain(): number {
    const { descriptors, nextOf, stagedAddresses, stagedSizes, stagedCount, stagedReadable } = this;
    const head = this.takeFree();
    let slot = head;
    for (let i = 0; ; i += 1) {
      const at = slot << 2;
      const address = stagedAddresses[i]!;
      descriptors[at] = address;
      descriptors[at + 1] = address / 4294967296;
      descriptors[at + 2] = stagedSizes[i]!;
      const write = i < stagedReadable ? 0 : DESC_WRITE;
      if (i + 1 === stagedCount) {
        descriptors[at + 3] = write;
        return head;
      }
      const next = this.takeFree();
      descriptors[at + 3] = write | DESC_NEXT | (next << 16);
      nextOf[slot] = next;
      slot = next;
    }
  }

  private takeFree(): number {
    const slot = this.free[this.freeOut]!;
    this.freeOut = (this.freeOut + 1) & this.mask;
    return slot;
  }

  override publish(): void {
    const before = this.publishedIndex;
    const now = this.availIndex;
    if (before === now) return;
    // Descriptors and ring entries are written before the index that covers them.
    Atomics.store(this.avail, 1, now);
    this.publishedIndex = now;
    this.published();
    // The index is stored before the device's wish is loaded (both sequentially consistent): else
    // a device that arms just now would neither see the request nor be kicked.
    const wanted = this.features.eventIndex
      ? passesEvent(Atomics.load(this.used, this.availEventAt), now, before)
      : (Atomics.load(this.used, 0) & USED_NO_NOTIFY) === 0;
    if (wanted) this.kick();
  }

  override hasUsed(): boolean {
    return (
      this.batchLast >= 0 ||
      this.lastUsedIndex !== this.seenUsedIndex ||
      this.lastUsedIndex !== Atomics.load(this.used, 1)
    );
  }

  override next(): boolean {
    if (this.batchLast < 0 && !this.look()) return false;
    const id = this.takeUsed();
    this.lastUsedIndex = (this.lastUsedIndex + 1) & 0xffff;
    const { free, mask, nextOf } = this;
    const slotCount = this.slotCounts[id]!;
    let slot = id;
    for (let i = 0; i < slotCount; i += 1) {
      free[this.freeIn] = slot;
      this.freeIn = (this.freeIn + 1) & mask;
      slot = nextOf[slot]!;
    }
    this.freeCount += slotCount;
    return true;
  }

  /** Opens the batch of the next used element; false when there is none. */
  private look(): boolean {
    if (this.lastUsedIndex === this.seenUsedIndex) {
      // This load comes before the reads of the elements that it announces.
      const index = Atomics.load(this.used, 1);
      if (index === this.lastUsedIndex) return false;
      const count = (index - this.lastUsedIndex) & 0xffff;
      if (count > this.visibleCount) {
        throw new DeviceFault(
          'index-jump',
          `queue ${this.index}: ${count} used entries for ${this.visibleCount} requests`,
        );
      }
      this.seenUsedIndex = index;
    }
    const at = 1 + ((this.lastUsedIndex & this.mask) << 1);
    const count = (this.seenUsedIndex - this.lastUsedIndex) & 0xffff;
    this.openBatch(this.usedElements[at]!, this.usedElements[at + 1]!, count);
    return true;
  }

  override suppressNotifications(): void {
    if (this.suppressed) return;
    this.suppressed = true;
    // An event index just passed is as far away as one can be.
    if (this.features.eventIndex) this.avail[this.usedEventAt] = this.lastUsedIndex - 1;
    else this.avail[0] = AVAIL_NO_INTERRUPT;
  }

  override armNotifications(): boolean {
    this.suppressed = false;
    if (this.features.eventIndex) {
      Atomics.store(this.avail, this.usedEventAt, this.lastUsedIndex);
    } else {
      Atomics.store(this.avail, 0, 0);
    }
    // The wish is stored before the index is loaded: an entry written in between is seen here.
    return this.batchLast >= 0 || Atomics.load(this.used, 1) !== this.lastUsedIndex;
  }
}
