/**
 * The driver's side of a packed virtqueue (section 2.8; the picture is in
 * `packed-device-queue.ts`).
 *
 *         usedIndex                 availIndex
 *   ring  ────┼──── in flight ────────┼──── free ────►   wraps at size; each wrap turns the counter
 *
 * A descriptor is used when its AVAIL and USED bits both equal the wrap counter at `usedIndex`.
 * Buffer ids are handed out first-in first-out; how many entries each takes is kept here.
 */
import { assert } from '../errors.js';
import { DESC_INDIRECT, DESC_NEXT, DESC_WRITE } from './chain.js';
import { passesEvent } from './device-queue.js';
import { DriverQueue, type DriverQueueOptions } from './driver-queue.js';

const FLAG_AVAIL = 1 << 7;
const FLAG_USED = 1 << 15;

const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1;
const EVENT_AT = 2;

export class PackedDriverQueue extends DriverQueue {
  private readonly ring: Uint32Array;
  private readonly driverEvent: Uint32Array;
  private readonly deviceEvent: Uint32Array;
  private readonly freeIds: Uint16Array;
  private freeOut = 0;
  private freeIn = 0;
  private readonly slotCounts: Uint16Array;
  private availIndex = 0;
  private availWrap = true;
  private usedIndex = 0;
  private usedWrap = true;
  // The first descriptor of a batch shows the whole batch: its last word is stored by publish.
  private batchSlots = 0;
  private batchFirstAt = 0;
  private batchFirstWord = 0;
  private suppressed = false;

  constructor(options: DriverQueueOptions) {
    super(options);
    const { size, areas } = options;
    const { descriptor, driver, device } = areas;
    this.ring = new Uint32Array(descriptor.buffer, descriptor.byteOffset, size * 4);
    this.driverEvent = new Uint32Array(driver.buffer, driver.byteOffset, 1);
    this.deviceEvent = new Uint32Array(device.buffer, device.byteOffset, 1);
    this.freeIds = new Uint16Array(size);
    this.slotCounts = new Uint16Array(size);
    this.restart();
  }

  protected override restart(): void {
    for (let i = 0; i < this.size; i += 1) this.freeIds[i] = i;
    this.freeOut = 0;
    this.freeIn = 0;
    this.availIndex = 0;
    this.availWrap = true;
    this.usedIndex = 0;
    this.usedWrap = true;
    this.batchSlots = 0;
    this.suppressed = false;
  }

  /** The used position in both halves: a new back end has taken nothing beyond it. */
  override get base(): number {
    const position = this.usedIndex | (this.usedWrap ? 0x8000 : 0);
    return ((position << 16) | position) >>> 0;
  }

  override commit(token: number): boolean {
    const { stagedCount } = this;
    assert(stagedCount > 0, 'a request has at least one segment');
    const indirect = this.wantsTable(stagedCount);
    const slotCount = indirect ? 1 : stagedCount;
    if (slotCount > this.freeCount) return false;
    // An id is free whenever an entry is: each request takes at least one.
    const id = this.freeIds[this.freeOut]!;
    this.freeOut = this.freeOut + 1 === this.size ? 0 : this.freeOut + 1;
    if (indirect) {
      this.writeDescriptor(this.writeTable(id, true), stagedCount * 16, id, DESC_INDIRECT);
    } else {
      this.writeChain(id);
    }
    this.slotCounts[id] = slotCount;
    this.placed(id, token, slotCount);
    return true;
  }

  private writeChain(id: number): void {
    const { stagedAddresses, stagedSizes, stagedCount, stagedReadable } = this;
    for (let i = 0; i < stagedCount; i += 1) {
      const write = i < stagedReadable ? 0 : DESC_WRITE;
      const flags = i + 1 < stagedCount ? write | DESC_NEXT : write;
      this.writeDescriptor(stagedAddresses[i]!, stagedSizes[i]!, id, flags);
    }
  }

  private writeDescriptor(address: number, size: number, id: number, flags: number): void {
    const { ring } = this;
    const at = this.availIndex << 2;
    const word = (id | ((flags | (this.availWrap ? FLAG_AVAIL : FLAG_USED)) << 16)) >>> 0;
    ring[at] = address;
    ring[at + 1] = address / 4294967296;
    ring[at + 2] = size;
    if (this.batchSlots === 0) {
      this.batchFirstAt = at;
      this.batchFirstWord = word;
    } else {
      ring[at + 3] = word;
    }
    this.batchSlots += 1;
    this.availIndex += 1;
    if (this.availIndex < this.size) return;
    this.availIndex = 0;
    this.availWrap = !this.availWrap;
  }

  override publish(): void {
    const slots = this.batchSlots;
    if (slots === 0) return;
    // All of the batch is written before the one word that the device is looking at.
    Atomics.store(this.ring, this.batchFirstAt + 3, this.batchFirstWord);
    this.batchSlots = 0;
    this.published();
    if (this.isWanted(slots)) this.kick();
  }

  private isWanted(slots: number): boolean {
    // The descriptor is stored before the device's wish is loaded (see the split ring).
    const event = Atomics.load(this.deviceEvent, 0);
    const mode = (event >>> 16) & 3;
    if (mode === EVENT_ENABLE) return true;
    if (mode !== EVENT_AT || !this.features.eventIndex) return false;
    let index = event & 0x7fff;
    // An event position of the lap before lies one ring size back (section 2.8.7.1).
    if (((event & 0x8000) !== 0) !== this.availWrap) index -= this.size;
    return passesEvent(index, this.availIndex, this.availIndex - slots);
  }

  override hasUsed(): boolean {
    return this.batchLast >= 0 || this.isUsed();
  }

  private isUsed(): boolean {
    const flags = Atomics.load(this.ring, (this.usedIndex << 2) + 3) >>> 16;
    const used = (flags & FLAG_USED) !== 0;
    return used === this.usedWrap && used === ((flags & FLAG_AVAIL) !== 0);
  }

  override next(): boolean {
    if (this.batchLast < 0 && !this.look()) return false;
    const id = this.takeUsed();
    const slotCount = this.slotCounts[id]!;
    this.freeIds[this.freeIn] = id;
    this.freeIn = this.freeIn + 1 === this.size ? 0 : this.freeIn + 1;
    this.freeCount += slotCount;
    this.usedIndex += slotCount;
    if (this.usedIndex < this.size) return true;
    this.usedIndex -= this.size;
    this.usedWrap = !this.usedWrap;
    return true;
  }

  /** Opens the batch of the next used descriptor; false when there is none. */
  private look(): boolean {
    const { ring } = this;
    const at = this.usedIndex << 2;
    // This load comes before the read of the length that it announces.
    const word = Atomics.load(ring, at + 3);
    const used = (word & (FLAG_USED << 16)) !== 0;
    if (used !== this.usedWrap || used !== ((word & (FLAG_AVAIL << 16)) !== 0)) return false;
    // Without WRITE the length is reserved (section 2.8.4).
    const length = (word & (DESC_WRITE << 16)) !== 0 ? ring[at + 2]! : 0;
    this.openBatch(word & 0xffff, length, this.size);
    return true;
  }

  override suppressNotifications(): void {
    if (this.suppressed) return;
    this.suppressed = true;
    this.driverEvent[0] = EVENT_DISABLE << 16;
  }

  override armNotifications(): boolean {
    this.suppressed = false;
    const position = this.usedIndex | (this.usedWrap ? 0x8000 : 0);
    const mode = this.features.eventIndex ? EVENT_AT : EVENT_ENABLE;
    Atomics.store(this.driverEvent, 0, position | (mode << 16));
    // The wish is stored before the ring is looked at: a request used in between is seen here.
    return this.hasUsed();
  }
}
