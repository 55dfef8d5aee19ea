/**
 * The device's side of a packed virtqueue (section 2.8): one ring of descriptors that both sides
 * write, and two event suppression structures.
 *
 *   descriptor  [addr len id flags] x size       flags: AVAIL, USED, WRITE, NEXT, INDIRECT
 *
 *         usedIndex                 availIndex
 *   ring  ────┼──── in flight ────────┼──── not yet available ────►   wraps at size; each wrap
 *                                                                     turns the wrap counter
 *
 * A descriptor is available when its AVAIL bit equals the driver's wrap counter and its USED bit
 * does not; the device hands it back with both bits equal to its own wrap counter.
 */
import { assert } from '../errors.js';
import { addIndirect, type Chain, DESC_INDIRECT, DESC_NEXT, INDIRECT_COUNT_MAX } from './chain.js';
import {
  DeviceQueue,
  type DeviceQueueOptions,
  type PackedInflight,
  passesEvent,
  type UnfinishedRequest,
} from './device-queue.js';
import { DriverFault } from './fault.js';

const FLAG_WRITE = 2;
const FLAG_AVAIL = 1 << 7;
const FLAG_USED = 1 << 15;

const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1;
const EVENT_AT = 2;

export class PackedDeviceQueue extends DeviceQueue {
  inflight: PackedInflight | null = null;
  private readonly ring: Uint32Array;
  private readonly driverEvent: Uint32Array;
  private readonly deviceEvent: Uint32Array;
  private readonly indirectMax: number;
  private availIndex: number;
  private availWrap: boolean;
  private usedIndex: number;
  private usedWrap: boolean;
  // The first used descriptor of a batch shows the whole batch: its last word is stored by publish.
  private batchSlots = 0;
  private batchCount = 0;
  private batchFirstAt = 0;
  private batchFirstWord = 0;
  private suppressed = false;
  private slotsInFlight = 0;

  constructor(options: DeviceQueueOptions) {
    super(options);
    const { size, areas, base } = options;
    const { descriptor, driver, device } = areas;
    this.ring = new Uint32Array(descriptor.buffer, descriptor.byteOffset, size * 4);
    this.driverEvent = new Uint32Array(driver.buffer, driver.byteOffset, 1);
    this.deviceEvent = new Uint32Array(device.buffer, device.byteOffset, 1);
    this.indirectMax = Math.max(size, INDIRECT_COUNT_MAX);
    this.availIndex = base & 0x7fff;
    this.availWrap = (base & 0x8000) !== 0;
    this.usedIndex = (base >>> 16) & 0x7fff;
    this.usedWrap = base >>> 31 === 1;
    assert(this.availIndex < size && this.usedIndex < size, 'a packed base lies outside the ring');
  }

  override get base(): number {
    const available = this.availIndex | (this.availWrap ? 0x8000 : 0);
    const used = this.usedIndex | (this.usedWrap ? 0x8000 : 0);
    return ((used << 16) | available) >>> 0;
  }

  override get unpublishedCount(): number {
    return this.batchCount;
  }

  override hasAvailable(): boolean {
    return this.unfinished.length > 0 || this.isAvailable();
  }

  private isAvailable(): boolean {
    const flags = Atomics.load(this.ring, (this.availIndex << 2) + 3) >>> 16;
    const available = (flags & FLAG_AVAIL) !== 0;
    return available === this.availWrap && available !== ((flags & FLAG_USED) !== 0);
  }

  override pop(): Chain | null {
    if (this.unfinished.length > 0) return this.rebuild(this.unfinished.pop()!);
    // This load comes before the reads of the rest of the chain that it announces.
    const word = Atomics.load(this.ring, (this.availIndex << 2) + 3);
    const available = (word & (FLAG_AVAIL << 16)) !== 0;
    if (available !== this.availWrap || available === ((word & (FLAG_USED << 16)) !== 0)) {
      return null;
    }
    const chain = this.takeSpare();
    try {
      this.walk(chain, word);
    } catch (fault) {
      this.discard(chain);
      throw fault;
    }
    this.advanceAvailable(chain.slotCount);
    chain.position = this.availPosition;
    this.slotsInFlight += chain.slotCount;
    if (this.inflight !== null) chain.inflightEntry = this.inflight.take();
    return this.taken(chain);
  }

  private walk(chain: Chain, headWord: number): void {
    const { ring, size } = this;
    let index = this.availIndex;
    let word = headWord;
    for (let steps = 1; ; steps += 1) {
      // Slots in flight are the device's: a chain that reaches into them goes round the ring.
      if (steps + this.slotsInFlight > size) {
        throw new DriverFault('chain-length', `queue ${this.index}: a chain longer than the ring`);
      }
      const at = index << 2;
      const flags = word >>> 16;
      const low = ring[at]!;
      const high = ring[at + 1]!;
      const length = ring[at + 2]!;
      this.addDescriptor(chain, low, high, length, flags, steps > 1);
      if (this.inflight !== null) {
        this.inflight.descriptor(low, high, length, word & 0xffff, flags);
      }
      if ((flags & DESC_NEXT) === 0) {
        chain.id = word & 0xffff; // The buffer id is in the last descriptor of the chain.
        chain.slotCount = steps;
        return;
      }
      index = index + 1 === size ? 0 : index + 1;
      word = ring[(index << 2) + 3]!;
    }
  }

  private addDescriptor(
    chain: Chain,
    low: number,
    high: number,
    length: number,
    flags: number,
    chained: boolean,
  ): void {
    if ((flags & DESC_INDIRECT) === 0) {
      chain.addRange(this.memory, low, high, length, flags);
      return;
    }
    if (!this.features.indirect || (flags & DESC_NEXT) !== 0 || chained) {
      throw new DriverFault('indirect', `queue ${this.index}: an indirect table is not allowed`);
    }
    addIndirect(chain, this.memory, low, high, length, this.indirectMax, true);
  }

  private rebuild(request: UnfinishedRequest): Chain {
    const chain = this.takeSpare();
    try {
      chain.id = request.id;
      chain.slotCount = request.descriptors.length;
      for (const [i, d] of request.descriptors.entries()) {
        this.addDescriptor(chain, d.low, d.high, d.size, d.flags, i > 0);
      }
    } catch (fault) {
      this.discard(chain);
      throw fault;
    }
    chain.inflightEntry = request.entry;
    chain.unfinished = request;
    this.slotsInFlight += chain.slotCount;
    return this.taken(chain);
  }

  private advanceAvailable(slots: number): void {
    this.availIndex += slots;
    if (this.availIndex < this.size) return;
    this.availIndex -= this.size;
    this.availWrap = !this.availWrap;
  }

  private get availPosition(): number {
    return this.availIndex | (this.availWrap ? 0x8000 : 0);
  }

  override isLast(chain: Chain): boolean {
    return chain.unfinished !== null || chain.position === this.availPosition;
  }

  override unpop(chain: Chain): void {
    if (chain.unfinished !== null) {
      this.slotsInFlight -= chain.slotCount;
      this.untakeUnfinished(chain);
      return;
    }
    assert(this.isLast(chain), 'only the chain popped last can be put back');
    this.untaken(chain);
    this.slotsInFlight -= chain.slotCount;
    if (this.inflight !== null) this.inflight.untake(chain.inflightEntry);
    this.availIndex -= chain.slotCount;
    if (this.availIndex >= 0) return;
    this.availIndex += this.size;
    this.availWrap = !this.availWrap;
  }

  protected override writeUsed(chain: Chain): void {
    if (this.inflight !== null) this.inflight.complete(chain.inflightEntry);
    const { ring } = this;
    const at = this.usedIndex << 2;
    const length = chain.writer.usedLength;
    const flags = (this.usedWrap ? FLAG_AVAIL | FLAG_USED : 0) | (length > 0 ? FLAG_WRITE : 0);
    const word = (chain.id | (flags << 16)) >>> 0;
    ring[at + 2] = length;
    if (this.batchCount === 0) {
      this.batchFirstAt = at;
      this.batchFirstWord = word;
    } else {
      ring[at + 3] = word;
    }
    if (this.log !== null && this.logUsedAddress >= 0) {
      this.log.mark(this.logUsedAddress + at * 4, 16);
    }
    this.batchCount += 1;
    this.batchSlots += chain.slotCount;
    this.slotsInFlight -= chain.slotCount;
    this.usedIndex += chain.slotCount;
    if (this.usedIndex < this.size) return;
    this.usedIndex -= this.size;
    this.usedWrap = !this.usedWrap;
  }

  override publish(): void {
    if (this.batchCount === 0) return;
    // All of the batch is written before the one word that the driver is looking at.
    Atomics.store(this.ring, this.batchFirstAt + 3, this.batchFirstWord);
    const slots = this.batchSlots;
    this.batchCount = 0;
    this.batchSlots = 0;
    if (this.inflight !== null) this.inflight.published(this.usedIndex, this.usedWrap);
    if (this.isWanted(slots)) this.notify();
  }

  private isWanted(slots: number): boolean {
    // The used descriptor is stored before the driver's wish is loaded (see the split ring).
    const event = Atomics.load(this.driverEvent, 0);
    const mode = (event >>> 16) & 3;
    if (mode === EVENT_ENABLE) return true;
    if (mode !== EVENT_AT || !this.features.eventIndex) return false;
    let index = event & 0x7fff;
    // An event position of the lap before lies one ring size back (section 2.8.7.1).
    if (((event & 0x8000) !== 0) !== this.usedWrap) index -= this.size;
    return passesEvent(index, this.usedIndex, this.usedIndex - slots);
  }

  override suppressKicks(): void {
    if (this.suppressed) return;
    this.suppressed = true;
    this.deviceEvent[0] = EVENT_DISABLE << 16;
  }

  override armKicks(): boolean {
    this.suppressed = false;
    const position = this.availPosition;
    const mode = this.features.eventIndex ? EVENT_AT : EVENT_ENABLE;
    Atomics.store(this.deviceEvent, 0, position | (mode << 16));
    // The wish is stored before the ring is looked at: a request added in between is seen here.
    return this.hasAvailable();
  }
}
