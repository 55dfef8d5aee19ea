/**
 * A driver and a device on one ring, with a model that knows what each must see: the data, the used
 * lengths, the order, and exactly when which side is notified.
 */
import { Mapping } from '../../src/native/index.js';
import {
  type Chain,
  type DeviceQueue,
  type DriverQueue,
  layoutAreas,
  layoutIndirect,
  layoutQueue,
  MemoryMap,
  MemoryRegion,
  PackedDeviceQueue,
  PackedDriverQueue,
  type RingFeatures,
  SplitDeviceQueue,
  SplitDriverQueue,
} from '../../src/virtio/index.js';

/** Starts where a page would not, so that addresses above 2^32 and odd ones are common. */
export const GUEST = 0x1_2345_6000;
const SLOT_SIZE = 128;
const TABLE_LENGTH = 4;
const SEGMENT_COUNT_MAX = 6;
const PATTERN_FREE = 0xee;

export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

/** Random numbers from a seed, fast enough for millions of steps. */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed | 0;
  }

  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }
}

export interface RingConfig extends RingFeatures {
  readonly size: number;
}

export const ringName = (c: RingConfig): string =>
  `${c.packed ? 'packed' : 'split'} of ${c.size}${c.indirect ? ' indirect' : ''}${
    c.eventIndex ? ' event-idx' : ''
  }${c.inOrder ? ' in-order' : ''}`;

/** All combinations of the ring's features for one layout. */
export function combinations(packed: boolean): RingFeatures[] {
  return [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => ({
    packed,
    indirect: (bits & 1) !== 0,
    eventIndex: (bits & 2) !== 0,
    inOrder: (bits & 4) !== 0,
  }));
}

/** When one side has to be notified; positions are entries (split) or descriptors (packed). */
class NotificationModel {
  private mode: 'always' | 'never' | 'event';
  private event = 0;
  /** Position that the other side has published. */
  position = 0;
  private readonly period: number;

  constructor(config: RingConfig) {
    // An event position means the same again when the index, or the lap's parity, comes round.
    this.period = config.packed ? 2 * config.size : 65536;
    this.mode = config.eventIndex && !config.packed ? 'event' : 'always';
  }

  arm(eventIndex: boolean, event: number): void {
    this.mode = eventIndex ? 'event' : 'always';
    this.event = event;
  }

  suppress(): void {
    this.mode = 'never';
  }

  /** Moves on by a batch and returns how many notifications it must bring. */
  advance(units: number): number {
    const before = this.position;
    this.position += units;
    if (units === 0 || this.mode === 'never') return 0;
    if (this.mode === 'always') return 1;
    const laps = Math.max(0, Math.ceil((before - this.event) / this.period));
    const passed = this.event + laps * this.period;
    return passed >= before && passed < this.position ? 1 : 0;
  }
}

interface Request {
  readonly slot: number;
  readonly serial: number;
  readonly readableSize: number;
  readonly writableSize: number;
  /** Offset in the data of each byte of the request, readable ones first. */
  readonly offsets: number[];
  units: number;
  usedLength: number;
  done: boolean;
}

interface Held {
  readonly chain: Chain;
  readonly request: Request;
}

export class RingPair {
  readonly driver: DriverQueue;
  readonly device: DeviceQueue;
  /** Operations on the ring so far. */
  operations = 0;
  private readonly config: RingConfig;
  private readonly mapping: Mapping;
  private readonly data: Uint8Array;
  private readonly dataAddress: number;
  private readonly random: Random;
  private readonly requests: (Request | undefined)[] = [];
  private readonly freeSlots: number[] = [];
  private committed: Request[] = [];
  private readonly visible: Request[] = [];
  private visibleHead = 0;
  private readonly held: Held[] = [];
  private readonly popOrder: Request[] = [];
  private completed: Request[] = [];
  private readonly used: Request[] = [];
  private usedHead = 0;
  private serial = 0;
  private kicks = 0;
  private calls = 0;
  private readonly kickModel: NotificationModel;
  private readonly callModel: NotificationModel;
  private takenUnits = 0;
  private poppedUnits = 0;

  constructor(config: RingConfig, seed: number) {
    const { size, packed } = config;
    this.config = config;
    this.random = new Random(seed);
    this.kickModel = new NotificationModel(config);
    this.callModel = new NotificationModel(config);
    const layout = layoutQueue(size, packed, TABLE_LENGTH);
    this.mapping = Mapping.anonymous(layout.byteLength + size * SLOT_SIZE);
    const memory = new MemoryMap();
    memory.add(new MemoryRegion(this.mapping, 0, GUEST, GUEST, this.mapping.size));
    const bytes = this.mapping.bytes(0, this.mapping.size);
    this.data = bytes.subarray(layout.byteLength);
    this.dataAddress = GUEST + layout.byteLength;
    const common = { index: 0, size, features: config, areas: layoutAreas(layout, bytes) };
    const indirect = layoutIndirect(layout, bytes, GUEST);
    const Driver = packed ? PackedDriverQueue : SplitDriverQueue;
    const Device = packed ? PackedDeviceQueue : SplitDeviceQueue;
    this.driver = new Driver({ ...common, indirect, kickFd: -1 });
    this.device = new Device({ ...common, memory, base: packed ? 0x80008000 : 0, callFd: -1 });
    this.driver.onKick = () => {
      this.kicks += 1;
    };
    this.device.onNotify = () => {
      this.calls += 1;
    };
    for (let slot = size - 1; slot >= 0; slot -= 1) this.freeSlots.push(slot);
  }

  close(): void {
    this.mapping.retire();
  }

  /** Places one request with random cuts; false when the ring is full. */
  place(): boolean {
    const { driver, random, data } = this;
    const slot = this.freeSlots.at(-1);
    if (slot === undefined) return false;
    const countMax = Math.min(SEGMENT_COUNT_MAX, driver.segmentCountMax);
    const segmentCount = 1 + random.below(countMax);
    const readableCount = random.below(segmentCount + 1);
    const start = slot * SLOT_SIZE;
    data.fill(PATTERN_FREE, start, start + SLOT_SIZE);
    const offsets: number[] = [];
    let readableSize = 0;
    let at = start + random.below(8);
    driver.begin();
    for (let i = 0; i < segmentCount; i += 1) {
      const size = 1 + random.below(12);
      for (let k = 0; k < size; k += 1) offsets.push(at + k);
      if (i < readableCount) {
        driver.addReadable(this.dataAddress + at, size);
        readableSize += size;
      } else {
        driver.addWritable(this.dataAddress + at, size);
      }
      at += size + random.below(4);
    }
    const serial = this.serial & 0xff;
    for (let i = 0; i < readableSize; i += 1) data[offsets[i]!] = serial + i;
    const writableSize = offsets.length - readableSize;
    const request: Request = {
      ...{ slot, serial, readableSize, writableSize, offsets },
      ...{ units: 0, usedLength: 0, done: false },
    };
    return this.commit(request, segmentCount);
  }

  private commit(request: Request, segmentCount: number): boolean {
    const { driver } = this;
    const free = driver.freeCount;
    const room = driver.hasRoom(segmentCount);
    this.operations += 1;
    const placed = driver.commit(request.slot);
    check(placed === room, 'hasRoom and commit disagree');
    if (!placed) {
      check(driver.freeCount === free, 'a refused request took room');
      check(free < segmentCount, 'a request was refused although there is room');
      return false;
    }
    request.units = this.config.packed ? free - driver.freeCount : 1;
    const slots = this.config.indirect && segmentCount > 1 && segmentCount <= TABLE_LENGTH;
    check(free - driver.freeCount === (slots ? 1 : segmentCount), 'wrong number of descriptors');
    this.serial += 1;
    this.freeSlots.pop();
    this.requests[request.slot] = request;
    this.committed.push(request);
    return true;
  }

  publishDriver(): void {
    const before = this.kicks;
    this.operations += 1;
    this.driver.publish();
    const expected = this.kickModel.advance(this.committed.reduce((n, r) => n + r.units, 0));
    check(this.kicks - before === expected, `${this.kicks - before} kicks, not ${expected}`);
    this.visible.push(...this.committed);
    this.committed = [];
  }

  /** The device takes a request; false when there is none. */
  pop(): boolean {
    const { device } = this;
    const expected = this.visible[this.visibleHead];
    check(device.hasAvailable() === (expected !== undefined), 'hasAvailable is wrong');
    this.operations += 1;
    const chain = device.pop();
    if (expected === undefined) {
      check(chain === null, 'a request was popped that was not published');
      return false;
    }
    check(chain !== null, 'a published request was lost');
    const address = chain.segments.guestAddresses[0]!;
    const slot = Math.floor((address - this.dataAddress) / SLOT_SIZE);
    check(slot === expected.slot, `request in slot ${slot} popped, not ${expected.slot}`);
    this.visibleHead += 1;
    if (this.random.below(16) === 0) {
      device.unpop(chain);
      this.visibleHead -= 1;
      return true;
    }
    if (this.visibleHead > 100_000) this.visibleHead -= this.visible.splice(0, 100_000).length;
    this.poppedUnits += expected.units;
    this.popOrder.push(expected);
    this.held.push({ chain, request: expected });
    this.readAll(chain, expected);
    return true;
  }

  private readAll(chain: Chain, request: Request): void {
    const { readableSize, writableSize, serial } = request;
    check(chain.reader.remaining === readableSize, 'wrong readable size');
    check(chain.writer.remaining === writableSize, 'wrong writable size');
    const bytes = new Uint8Array(readableSize);
    const half = this.random.below(readableSize + 1);
    chain.reader.read(bytes.subarray(0, half));
    chain.reader.read(bytes.subarray(half));
    for (let i = 0; i < readableSize; i += 1) {
      check(bytes[i] === ((serial + i) & 0xff), 'wrong data read');
    }
  }

  /** The device completes one of the requests it holds, in any order. */
  complete(): boolean {
    if (this.held.length === 0) return false;
    const at = this.random.below(Math.min(this.held.length, 64));
    const { chain, request } = this.held[at]!;
    this.held[at] = this.held.at(-1)!;
    this.held.pop();
    const size = this.random.below(request.writableSize + 1);
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i += 1) bytes[i] = ~(request.serial + i);
    check(chain.writer.write(bytes) === size, 'not all was written');
    request.usedLength = size;
    request.done = true;
    this.operations += 1;
    this.device.complete(chain);
    if (!this.config.inOrder) this.completed.push(request);
    while (this.config.inOrder && this.popOrder[0]?.done === true) {
      this.completed.push(this.popOrder.shift()!);
    }
    return true;
  }

  publishDevice(): void {
    const before = this.calls;
    this.operations += 1;
    check(this.device.unpublishedCount === this.completed.length, 'wrong unpublishedCount');
    this.device.publish();
    const expected = this.callModel.advance(this.completed.reduce((n, r) => n + r.units, 0));
    check(
      this.calls - before === expected,
      `${this.calls - before} notifications, not ${expected}`,
    );
    this.used.push(...this.completed);
    this.completed = [];
    if (!this.config.inOrder) this.popOrder.length = 0;
  }

  /** The driver takes a used entry; false when there is none. */
  take(): boolean {
    const { driver } = this;
    const request = this.used[this.usedHead];
    check(driver.hasUsed() === (request !== undefined), 'hasUsed is wrong');
    this.operations += 1;
    const taken = driver.next();
    check(
      taken === (request !== undefined),
      taken ? 'a request came back twice' : 'a used entry was lost',
    );
    if (request === undefined) return false;
    this.usedHead += 1;
    if (this.usedHead > 100_000) this.usedHead -= this.used.splice(0, 100_000).length;
    check(driver.usedToken === request.slot, 'a wrong request came back');
    check(driver.usedLength === request.usedLength, 'a wrong used length came back');
    check(driver.usedLengthKnown, 'a used length is not known');
    this.checkMemory(request);
    this.takenUnits += request.units;
    this.requests[request.slot] = undefined;
    this.freeSlots.push(request.slot);
    return true;
  }

  private checkMemory(request: Request): void {
    const { data } = this;
    const { offsets, readableSize, usedLength, serial } = request;
    const start = request.slot * SLOT_SIZE;
    let next = 0;
    for (let at = start; at < start + SLOT_SIZE; at += 1) {
      let expected = PATTERN_FREE;
      if (offsets[next] === at) {
        if (next < readableSize) expected = (serial + next) & 0xff;
        else if (next < readableSize + usedLength)
          expected = ~(serial + next - readableSize) & 0xff;
        next += 1;
      }
      check(data[at] === expected, 'wrong data in memory');
    }
  }

  armDriver(): void {
    this.operations += 1;
    const again = this.driver.armNotifications();
    check(again === this.usedHead < this.used.length, 'armNotifications answered wrongly');
    this.callModel.arm(this.config.eventIndex, this.takenUnits);
  }

  suppressDriver(): void {
    this.operations += 1;
    this.driver.suppressNotifications();
    this.callModel.suppress();
  }

  armDevice(): void {
    this.operations += 1;
    const again = this.device.armKicks();
    check(again === this.visibleHead < this.visible.length, 'armKicks answered wrongly');
    this.kickModel.arm(this.config.eventIndex, this.poppedUnits);
  }

  suppressDevice(): void {
    this.operations += 1;
    this.device.suppressKicks();
    // A split ring's event position stays where it is: at most one kick more.
    if (this.config.packed || !this.config.eventIndex) this.kickModel.suppress();
  }

  /** Does one of the operations, so often as `amount` says where that has a meaning. */
  step(kind: number, amount: number): void {
    switch (kind) {
      case 0:
        for (let i = 0; i < amount && this.place(); i += 1);
        break;
      case 1:
        for (let i = 0; i < amount && this.pop(); i += 1);
        break;
      case 2:
        for (let i = 0; i < amount && this.complete(); i += 1);
        break;
      case 3:
        for (let i = 0; i < amount && this.take(); i += 1);
        break;
      case 4:
        this.publishDriver();
        break;
      case 5:
        this.publishDevice();
        break;
      case 6:
        this.armDriver();
        break;
      case 7:
        this.suppressDriver();
        break;
      case 8:
        this.armDevice();
        break;
      default:
        this.suppressDevice();
    }
  }

  /** Random steps with a taste for batches, until `operations` have been done. */
  run(operations: number): void {
    const { random } = this;
    const until = this.operations + operations;
    const batchMax = Math.min(this.config.size, 4096);
    while (this.operations < until) {
      this.step(random.below(10), 1 + random.below(random.below(4) === 0 ? batchMax : 4));
    }
  }

  /** Lets everything that is under way finish: nothing may be lost. */
  drain(): void {
    do {
      this.publishDriver();
      while (this.pop());
      while (this.complete());
      this.publishDevice();
      while (this.take());
    } while (this.visibleHead < this.visible.length);
    check(this.driver.outstandingCount === 0, 'requests were lost');
    check(this.driver.freeCount === this.config.size, 'descriptors were lost');
    check(this.freeSlots.length === this.config.size, 'the model lost a request');
    check(this.device.inflightCount === 0, 'the device holds a request');
    const { committed, used } = this.driver.counters;
    check(committed === this.serial && used === this.serial, 'the counters are wrong');
  }
}
