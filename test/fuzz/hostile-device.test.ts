/** Devices that answer wrongly: the driver's side keeps its own books and says what was wrong. */
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Mapping, PAGE_SIZE } from '../../src/native/index.js';
import {
  DeviceFault,
  type DeviceFaultReason,
  DriverFault,
  type DriverQueue,
  layoutAreas,
  layoutIndirect,
  layoutQueue,
  MemoryMap,
  MemoryRegion,
  PackedDeviceQueue,
  PackedDriverQueue,
  type QueueLayout,
  type RingFeatures,
  SplitDeviceQueue,
  SplitDriverQueue,
} from '../../src/virtio/index.js';
import { check, combinations, Random } from '../conformance/ring-pair.js';
import { AVAIL, USED, WRITE } from './ring-memory.js';

const GUEST = 0x1000;
const REASONS: readonly DeviceFaultReason[] = ['index-jump', 'used-id', 'used-length'];

/** A driver on its own memory, and a pen for the device's part of it. */
class Victim {
  readonly layout: QueueLayout;
  readonly mapping: Mapping;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly queue: DriverQueue;
  /** Tokens placed that did not come back, oldest first. */
  readonly tokens: number[] = [];
  private nextToken = 0;

  readonly features: RingFeatures;
  readonly size: number;

  constructor(features: RingFeatures, size: number, clampLengths = false) {
    this.features = features;
    this.size = size;
    this.layout = layoutQueue(size, features.packed, 4);
    this.mapping = Mapping.anonymous(this.layout.byteLength + PAGE_SIZE);
    this.bytes = this.mapping.bytes(0, this.mapping.size);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
    const Queue = features.packed ? PackedDriverQueue : SplitDriverQueue;
    this.queue = new Queue({
      ...{ index: 3, size, features, kickFd: -1, clampLengths },
      areas: layoutAreas(this.layout, this.bytes),
      indirect: layoutIndirect(this.layout, this.bytes, GUEST),
    });
  }

  place(segmentCount = 2, size = 16): boolean {
    this.queue.begin();
    for (let i = 0; i < segmentCount; i += 1) this.queue.addWritable(GUEST + i, size);
    if (!this.queue.commit(this.nextToken)) return false;
    this.tokens.push(this.nextToken);
    this.nextToken += 1;
    return true;
  }

  /** Split: writes a used element. Packed: a used descriptor of the first lap. */
  answer(at: number, id: number, length: number): void {
    if (this.features.packed) {
      this.view.setUint32(at * 16 + 8, length, true);
      this.view.setUint16(at * 16 + 12, id, true);
      this.view.setUint16(at * 16 + 14, AVAIL | USED | WRITE, true);
      return;
    }
    this.view.setUint32(this.layout.device + 4 + at * 8, id, true);
    this.view.setUint32(this.layout.device + 8 + at * 8, length, true);
    this.setUsedIndex(at + 1);
  }

  setUsedIndex(index: number): void {
    this.view.setUint16(this.layout.device + 2, index, true);
  }

  /** Takes what is there, checking that each token comes back once; the fault's reason, or null. */
  drain(): DeviceFaultReason | null {
    try {
      for (let i = 0; this.queue.next(); i += 1) {
        check(i < this.size, 'more came back than a ring holds');
        const at = this.tokens.indexOf(this.queue.usedToken);
        check(at >= 0, 'a token came back that is not outstanding');
        this.tokens.splice(at, 1);
        check(this.queue.usedLength <= 16 * this.size, 'a used length is too large');
      }
      return null;
    } catch (fault) {
      check(fault instanceof DeviceFault, `no DeviceFault but ${fault}`);
      check(REASONS.includes(fault.reason), `reason ${fault.reason}`);
      return fault.reason;
    }
  }

  /** After any mess: the requests are known, and the ring can be used from the start again. */
  recover(): void {
    expect(this.queue.reset()).toEqual(this.tokens);
    this.tokens.length = 0;
    const { size, features } = this;
    const memory = new MemoryMap();
    memory.add(new MemoryRegion(this.mapping, 0, GUEST, GUEST, this.mapping.size));
    const Device = features.packed ? PackedDeviceQueue : SplitDeviceQueue;
    const device = new Device({
      ...{ index: 3, size, features, memory, base: features.packed ? 0x80008000 : 0, callFd: -1 },
      areas: layoutAreas(this.layout, this.bytes),
    });
    for (let lap = 0; lap < 3; lap += 1) {
      while (this.place(1));
      expect(this.tokens.length).toBe(size);
      this.queue.publish();
      for (let chain = device.pop(); chain !== null; chain = device.pop()) device.complete(chain);
      device.publish();
      expect(this.drain()).toBeNull();
      expect(this.tokens).toEqual([]);
    }
    this.mapping.retire();
  }
}

const base: RingFeatures = { packed: false, indirect: false, eventIndex: false, inOrder: false };

describe.each([false, true])('a hostile device, packed %s', (packed) => {
  const features = { ...base, packed };

  function expectFault(write: (victim: Victim) => void, reason: DeviceFaultReason): void {
    const victim = new Victim(features, 8);
    for (let i = 0; i < 3; i += 1) victim.place(1);
    victim.queue.publish();
    write(victim);
    expect(victim.drain()).toBe(reason);
    expect(victim.drain()).toBe(reason); // Lasting.
    victim.recover();
  }

  test.each([3, 7, 8, 9, 0x7fff, 0xffff])('a used id of %i', (id) => {
    expectFault((victim) => victim.answer(0, id, 0), 'used-id');
  });

  test('an id twice', () => {
    expectFault((victim) => {
      victim.answer(0, 1, 16);
      victim.answer(1, 1, 16);
    }, 'used-id');
  });

  test('a request that was committed and not published', () => {
    const victim = new Victim(features, 8);
    victim.place(1);
    victim.queue.publish();
    victim.place(1);
    victim.answer(0, 1, 0);
    expect(victim.drain()).toBe('used-id');
    victim.recover();
  });

  test.each([17, 0x7fffffff, 0xffffffff])('a used length of %i', (length) => {
    expectFault((victim) => victim.answer(0, 0, length), 'used-length');
  });

  test('a length that is clamped on demand', () => {
    const victim = new Victim(features, 8, true);
    victim.place(1);
    victim.queue.publish();
    victim.answer(0, 0, 17);
    expect(victim.queue.next()).toBe(true);
    expect(victim.queue.usedLength).toBe(16);
    victim.tokens.length = 0;
    victim.recover();
  });

  test('under IN_ORDER, a batch that skips requests, and one that is not whole', () => {
    const victim = new Victim({ ...features, inOrder: true }, 8);
    for (let i = 0; i < 4; i += 1) victim.place(1);
    victim.queue.publish();
    victim.answer(0, 2, 5);
    if (!packed) victim.setUsedIndex(3);
    const seen: [number, number, boolean][] = [];
    while (victim.queue.next()) {
      const { usedToken, usedLength, usedLengthKnown } = victim.queue;
      seen.push([usedToken, usedLength, usedLengthKnown]);
      expect(victim.queue.armNotifications()).toBe(usedToken < 2);
    }
    expect(seen).toEqual([
      [0, 16, false],
      [1, 16, false],
      [2, 5, true],
    ]);
    victim.tokens.splice(0, 3);
    if (!packed) {
      // The next element names the fifth request, but the index covers one only.
      victim.place(1);
      victim.queue.publish();
      victim.answer(3, 4, 0);
      expect(victim.drain()).toBe('index-jump');
    }
    victim.recover();
  });

  test('IN_ORDER batches, over many laps', () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => runInOrder(packed, seed)),
      { numRuns: 100 },
    );
  });
});

/** A device that always answers a random number of requests with one used entry. */
function runInOrder(packed: boolean, seed: number): void {
  const random = new Random(seed);
  const victim = new Victim({ ...base, packed, inOrder: true, indirect: true }, packed ? 7 : 8);
  const { queue, size, view, layout } = victim;
  const mask = size - 1;
  const ids: number[] = [];
  let [availAt, usedAt, availWrap, usedWrap] = [0, 0, true, true];
  for (let round = 0; round < 200; round += 1) {
    const slots: number[] = [];
    for (let i = random.below(4); i > 0; i -= 1) {
      const free = queue.freeCount;
      if (!victim.place(1 + random.below(6))) break;
      slots.push(free - queue.freeCount);
    }
    queue.publish();
    for (const count of slots) {
      // What the device would learn: the head from the available ring, the id from the last slot.
      if (packed) {
        const last = (availAt + count - 1) % size;
        ids.push(view.getUint16(last * 16 + 12, true) | (count << 16));
        availAt += count;
        if (availAt >= size) [availAt, availWrap] = [availAt - size, !availWrap];
      } else {
        ids.push(view.getUint16(layout.driver + 4 + (availAt & mask) * 2, true));
        availAt += 1;
      }
    }
    const count = random.below(ids.length + 1);
    if (count === 0) continue;
    const batch = ids.splice(0, count);
    const id = batch.at(-1)! & 0xffff;
    if (packed) {
      view.setUint32(usedAt * 16 + 8, 3, true);
      view.setUint16(usedAt * 16 + 12, id, true);
      view.setUint16(usedAt * 16 + 14, (usedWrap ? AVAIL | USED : 0) | WRITE, true);
      usedAt += batch.reduce((sum, entry) => sum + (entry >> 16), 0);
      if (usedAt >= size) [usedAt, usedWrap] = [usedAt - size, !usedWrap];
    } else {
      view.setUint32(layout.device + 4 + (usedAt & mask) * 8, id, true);
      view.setUint32(layout.device + 8 + (usedAt & mask) * 8, 3, true);
      usedAt += count;
      victim.setUsedIndex(usedAt);
    }
    for (let i = 0; i < count; i += 1) {
      check(queue.next(), 'a request of a batch was lost');
      check(queue.usedToken === victim.tokens.shift(), 'a batch came back out of order');
      check(queue.usedLengthKnown === (i === count - 1), 'a wrong length is known');
    }
    check(!queue.next(), 'a batch is too long');
  }
  victim.recover();
}

describe('split ring: used index', () => {
  test.each([4, 9, 0x7fff, 0x8000, 0xffff])('a jump by %i', (jump) => {
    const victim = new Victim(base, 8);
    for (let i = 0; i < 3; i += 1) victim.place(1);
    victim.queue.publish();
    victim.setUsedIndex(jump);
    expect(victim.drain()).toBe('index-jump');
    victim.recover();
  });

  test('a jump over requests that are not published', () => {
    const victim = new Victim(base, 8);
    for (let i = 0; i < 3; i += 1) victim.place(1);
    victim.setUsedIndex(1);
    expect(victim.drain()).toBe('index-jump');
    victim.recover();
  });
});

test('any scribbling in the ring gives nothing, a token that is outstanding, or a fault', () => {
  const features = fc.constantFrom(...combinations(false), ...combinations(true));
  fc.assert(
    fc.property(features, fc.constantFrom(1, 2, 8, 64), fc.integer(), (feature, size, seed) => {
      const random = new Random(seed);
      const victim = new Victim(feature, size);
      const { bytes, view, layout, queue } = victim;
      for (let round = 0; round < 20; round += 1) {
        for (
          let i = random.below(size + 1);
          i > 0 && victim.place(1 + random.below(Math.min(3, size)));
          i -= 1
        );
        if (random.below(4) > 0) queue.publish();
        const start = feature.packed ? 0 : layout.device;
        for (let i = random.below(20); i > 0; i -= 1) {
          const small = random.below(2) === 0 ? random.below(size + 2) : random.below(0x10000);
          const at = random.below(8) === 0 ? 0 : start;
          const span = Math.min(bytes.length - at, 16 * size + 8);
          view.setUint16(at + (random.below(span) & ~1), small, true);
        }
        if (!feature.packed && random.below(2) === 0) victim.setUsedIndex(random.below(size + 2));
        if (victim.drain() !== null) break;
        if (random.below(2) === 0) queue.armNotifications();
        else queue.suppressNotifications();
      }
      victim.recover();
    }),
    { numRuns: 1500 },
  );
});

/** Writes noise into the ring from another thread until told to stop. */
const SCRIBBLER = `
  const { workerData } = require('node:worker_threads');
  const koffi = require('koffi');
  const ring = new Uint16Array(koffi.view(workerData.address, workerData.size));
  const stop = new Int32Array(workerData.stop);
  let x = 1;
  while (Atomics.load(stop, 0) === 0) {
    for (let i = 0; i < 1000; i += 1) {
      x = (Math.imul(x, 1103515245) + 12345) | 0;
      const at = (x >>> 12) % ring.length;
      ring[at] = (x & 0x300) === 0 ? x >>> 16 : (x >>> 16) & 0x8087;
    }
  }
`;

test.each([false, true])('a peer that writes while we read, packed %s', async (packed) => {
  const features = { packed, indirect: true, eventIndex: true, inOrder: false };
  const size = 16;
  const layout = layoutQueue(size, packed, 4);
  const mapping = Mapping.anonymous(2 * PAGE_SIZE);
  const bytes = mapping.bytes(0, mapping.size);
  const memory = new MemoryMap();
  memory.add(new MemoryRegion(mapping, 0, 0, 0, PAGE_SIZE));
  const areas = layoutAreas(layout, bytes);
  const options = { index: 0, size, features, areas };
  const stop = new SharedArrayBuffer(4);
  const workerData = { address: mapping.address, size: layout.byteLength, stop };
  const worker = new Worker(SCRIBBLER, { eval: true, workerData });
  await new Promise((resolve) => worker.once('online', resolve));
  const base = packed ? 0x80008000 : 0;
  const [Device, Driver] = packed
    ? [PackedDeviceQueue, PackedDriverQueue]
    : [SplitDeviceQueue, SplitDriverQueue];
  let chains = 0;
  for (const end = Date.now() + 1000; Date.now() < end; ) {
    const device = new Device({ ...options, memory, base, callFd: -1 });
    const driver = new Driver({ ...options, kickFd: -1 });
    driver.begin();
    driver.addWritable(0, 4);
    try {
      for (let chain = device.pop(); chain !== null; chain = device.pop()) {
        chains += 1;
        chain.reader.read(new Uint8Array(64));
        device.complete(chain);
        device.publish();
      }
    } catch (fault) {
      check(fault instanceof DriverFault, `no DriverFault but ${fault}`);
    }
    try {
      while (driver.commit(1));
      driver.publish();
      while (driver.next());
    } catch (fault) {
      check(fault instanceof DeviceFault, `no DeviceFault but ${fault}`);
    }
  }
  Atomics.store(new Int32Array(stop), 0, 1);
  await new Promise((resolve) => worker.once('exit', resolve));
  expect(chains).toBeGreaterThan(0);
  expect(bytes.subarray(PAGE_SIZE).every((byte) => byte === 0)).toBe(true);
  mapping.retire();
});
