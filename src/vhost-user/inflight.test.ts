import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { consumeEvent, type Fd, Mapping, mappingCounts, openFdCount } from '../native/index.js';
import {
  type Chain,
  type DeviceQueue,
  F,
  layoutAreas,
  layoutQueue,
  MemoryMap,
  MemoryRegion,
  PackedDeviceQueue,
  PackedDriverQueue,
  type RingFeatures,
  ringFeatures,
  SplitDeviceQueue,
  SplitDriverQueue,
} from '../virtio/index.js';
import { inflightPartSize, type Recovery } from './inflight.js';
import { attachPacked, type PackedTracker } from './inflight-packed.js';
import { attachSplit, type SplitTracker } from './inflight-split.js';
import { VIRTIO_FEATURE } from './messages-constants.js';
import { GuestRam, Harness, until } from './test-utils.js';

let before: { fds: number; live: number };
beforeEach(() => {
  before = { fds: openFdCount(), live: mappingCounts().live };
});
afterEach(async () => {
  await new Promise((resolve) => setTimeout(resolve, 2));
  expect({ fds: openFdCount(), live: mappingCounts().live }).toEqual(before);
});

/** A small generator of numbers, the same at each run. */
function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % below;
  };
}

const FEATURES = {
  split: ringFeatures(F.VERSION_1),
  packed: ringFeatures(F.VERSION_1 | F.RING_PACKED),
} as const;

/** Ring, data and in-flight part in one memory, and what is needed to serve it. */
class Machine {
  readonly mapping: Mapping;
  readonly map = new MemoryMap();
  readonly part: Uint8Array;
  readonly areas;
  /** Ring and in-flight part. */
  readonly state: Uint8Array;
  readonly size: number;
  readonly features: RingFeatures;

  constructor(size: number, features: RingFeatures) {
    this.size = size;
    this.features = features;
    this.mapping = Mapping.anonymous(65536);
    this.map.add(new MemoryRegion(this.mapping, 0, 0x10000, 0, 65536));
    const layout = layoutQueue(size, features.packed);
    const partSize = inflightPartSize(size, features.packed);
    this.state = this.mapping.bytes(0, layout.byteLength + partSize);
    this.part = this.mapping.bytes(layout.byteLength, partSize);
    this.areas = layoutAreas(layout, this.mapping.bytes(0, layout.byteLength));
  }

  attach(base: number): {
    tracker: SplitTracker | PackedTracker;
    recovery: Recovery;
    isForeign: boolean;
  } {
    const { areas, size, part } = this;
    const { descriptor, driver, device } = areas;
    if (this.features.packed) {
      const descriptors = new Uint32Array(descriptor.buffer, descriptor.byteOffset, size * 4);
      return attachPacked(part, size, { descriptors, size, base, wasStopped: false });
    }
    const index = (bytes: Uint8Array) => new Uint16Array(bytes.buffer, bytes.byteOffset, 2)[1]!;
    const ring = {
      usedIndex: index(device),
      availIndex: index(driver),
      size,
      base,
      wasStopped: false,
    };
    return attachSplit(part, size, ring);
  }

  queue(base: number): {
    queue: DeviceQueue;
    tracker: SplitTracker | PackedTracker;
    recovery: Recovery;
  } {
    const { tracker, recovery } = this.attach(base);
    const { size, features, map: memory, areas } = this;
    const options = { index: 0, size, features, memory, areas, base: recovery.base, callFd: -1 };
    if (features.packed) {
      const queue = new PackedDeviceQueue(options);
      queue.inflight = tracker as PackedTracker;
      queue.resume(recovery.unfinished);
      return { queue, tracker, recovery };
    }
    const queue = new SplitDeviceQueue(options);
    queue.inflight = tracker as SplitTracker;
    queue.resume(recovery.unfinished);
    return { queue, tracker, recovery };
  }
}

interface Snapshot {
  readonly state: Uint8Array;
  /** Requests that the driver placed and has not got back. */
  readonly outstanding: number[];
}

/** Calls `hook` after each single store that a tracker does. */
function watchStores(tracker: object, hook: () => void): void {
  for (const name of ['bytes', 'words', 'counters', 'u16', 'u32', 'f64']) {
    const array = (tracker as Record<string, unknown>)[name];
    if (array === undefined) continue;
    const watched = new Proxy(array as Uint8Array, {
      get: (target, key) => Reflect.get(target, key) as unknown,
      set: (target, key, value) => {
        (target as unknown as Record<string | symbol, unknown>)[key] = value;
        hook();
        return true;
      },
    });
    (tracker as Record<string, unknown>)[name] = watched;
  }
}

const readToken = (chain: Chain): number => chain.reader.readU32();

/** Works at random and takes a snapshot after each store to the in-flight memory. */
function work(machine: Machine, seed: number, steps: number): Snapshot[] {
  const random = numbers(seed);
  const { size, features, areas, mapping } = machine;
  const driverOptions = { index: 0, size, features, areas, kickFd: -1 };
  const driver = features.packed
    ? new PackedDriverQueue(driverOptions)
    : new SplitDriverQueue(driverOptions);
  const { queue, tracker } = machine.queue(features.packed ? 0x80008000 : 0);
  const snapshots: Snapshot[] = [];
  const placed = new Set<number>();
  const held: { chain: Chain; token: number }[] = [];
  let unpublished: number[] = [];
  const snap = () => snapshots.push({ state: machine.state.slice(), outstanding: [...placed] });
  const visible = tracker.published.bind(tracker) as (index: number, wrap: boolean) => void;
  tracker.published = (index: number, wrap?: boolean) => {
    // The ring's store is done, and nothing else.
    for (const token of unpublished) {
      placed.delete(token);
    }
    unpublished = [];
    snap();
    visible(index, wrap as boolean);
  };
  watchStores(tracker, snap);
  const data = new Uint32Array(
    mapping.bytes(32768, 32768).buffer,
    mapping.bytes(32768, 4).byteOffset,
    8192,
  );
  let next = 1;
  for (let step = 0; step < steps; step += 1) {
    const choice = random(10);
    if (choice < 3 && driver.hasRoom(3)) {
      const slot = next % 1024;
      data[slot * 8] = next;
      driver.begin();
      driver.addReadable(0x10000 + 32768 + slot * 32, 4);
      for (let i = random(3); i > 0; i -= 1) driver.addWritable(0x10000 + 32768 + slot * 32 + 8, 4);
      driver.commit(next);
      driver.publish();
      placed.add(next);
      next += 1;
    } else if (choice < 6) {
      const chain = queue.pop();
      if (chain === null) continue;
      const token = readToken(chain);
      // Some are put back at once.
      if (random(6) === 0) {
        queue.unpop(chain);
      } else held.push({ chain, token });
    } else if (choice < 8 && held.length > 0) {
      const [entry] = held.splice(random(held.length), 1);
      unpublished.push(entry!.token);
      queue.complete(entry!.chain);
    } else if (choice === 8) {
      queue.publish();
    } else {
      while (driver.next());
    }
    snap();
  }
  return snapshots;
}

describe.each(['split', 'packed'] as const)('%s: a back end that dies', (layout) => {
  test.each([1, 2, 3, 4, 5, 6])('at any store loses and repeats nothing, seed %i', (seed) => {
    const features = FEATURES[layout];
    const size = features.packed ? 5 + seed : 8;
    const machine = new Machine(size, features);
    const successor = new Machine(size, features);
    const snapshots = work(machine, seed, 2500);
    successor.mapping.bytes(32768, 32768).set(machine.mapping.bytes(32768, 32768));
    expect(snapshots.length).toBeGreaterThan(1000);
    for (const snapshot of snapshots) {
      successor.state.set(snapshot.state);
      // A base that is not looked at: the memory in flight is in use.
      const first = successor.attach(features.packed ? 0x80008000 : 0).recovery;
      // One that dies with some requests complete and none published leaves it all, too.
      const { queue: second } = successor.queue(features.packed ? 0x80008000 : 0);
      for (let chain = second.pop(), i = 0; chain !== null; chain = second.pop(), i += 1) {
        if (i % 2 === 0) second.complete(chain);
      }
      const { queue, recovery } = successor.queue(features.packed ? 0x80008000 : 0);
      expect(recovery.unfinished).toHaveLength(snapshot.outstanding.length);
      const same = recovery.unfinished.slice(0, first.unfinished.length);
      expect(same).toEqual(first.unfinished);
      const served: number[] = [];
      for (let chain = queue.pop(); chain !== null; chain = queue.pop()) {
        served.push(readToken(chain));
        queue.complete(chain);
        if (served.length % 3 === 0) queue.publish();
      }
      queue.publish();
      // All of them, once each, and in the order in which they were placed.
      if (served.join() !== snapshot.outstanding.join()) {
        expect(served).toEqual(snapshot.outstanding);
      }
      const after = successor.attach(0).recovery;
      expect(after.unfinished).toEqual([]);
    }
    machine.mapping.retire();
    successor.mapping.retire();
  });

  test('hostile memory is refused or ignored, and never makes us hang', () => {
    const features = FEATURES[layout];
    const machine = new Machine(8, features);
    const random = numbers(99);
    let refused = 0;
    for (let i = 0; i < 3000; i += 1) {
      for (let at = 0; at < machine.state.length; at += 1) {
        // Small values go deeper than large ones.
        machine.state[at] = random(3) === 0 ? random(256) : random(9);
      }
      const words = new Uint16Array(machine.part.buffer, machine.part.byteOffset, 8);
      words[4] = random(20) === 0 ? random(4) : 1;
      words[5] = random(20) === 0 ? random(20) : 8;
      try {
        const { recovery } = machine.attach(features.packed ? 0x80008000 : 0);
        expect(recovery.unfinished.length).toBeLessThanOrEqual(8);
        const { queue } = machine.queue(features.packed ? 0x80008000 : 0);
        expect(queue.base & 0x7fff).toBeLessThan(features.packed ? 8 : 65536);
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        expect(error.code).toBe('VLO_PROTOCOL');
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(0);
    expect(refused).toBeLessThan(3000);
    machine.mapping.retire();
  });
});

test('layout of a split part is that of the specification', () => {
  const machine = new Machine(4, FEATURES.split);
  const { tracker } = machine.queue(0) as { tracker: SplitTracker };
  tracker.take(2);
  tracker.take(1);
  tracker.complete(2);
  const { part } = machine;
  const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
  expect(part.length).toBe(128);
  expect([view.getUint16(8, true), view.getUint16(10, true), view.getUint16(12, true)]).toEqual([
    1, 4, 2,
  ]);
  expect([part[16 + 16 * 2], part[16 + 16]]).toEqual([1, 1]);
  expect(view.getUint32(16 + 16 + 8, true)).toBe(1);
  tracker.published(1);
  expect([part[16 + 16 * 2], part[16 + 16], view.getUint16(14, true)]).toEqual([0, 1, 1]);
  machine.mapping.retire();
});

test('layout of a packed part is that of the specification', () => {
  const machine = new Machine(4, FEATURES.packed);
  const { tracker } = machine.queue(0x80008000) as { tracker: PackedTracker };
  tracker.descriptor(0x11223344, 0x55, 0x1000, 7, 1);
  tracker.descriptor(0x99, 0, 0x20, 8, 2);
  expect(tracker.take()).toBe(0);
  tracker.descriptor(1, 0, 1, 9, 0);
  expect(tracker.take()).toBe(2);
  const { part } = machine;
  const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
  expect(part.length).toBe(192);
  const u16 = (at: number) => view.getUint16(at, true);
  // version, entries, free head, old free head, used index, old used index, wrap counters
  expect([u16(8), u16(10), u16(12), u16(14), u16(16), u16(18), part[20], part[21]]).toEqual([
    1, 4, 3, 3, 0, 0, 1, 1,
  ]);
  // inflight, next, last, count, counter, id, flags, size, address
  expect([part[32], u16(34), u16(36), u16(38), u16(40), u16(48), u16(50)]).toEqual([
    1, 1, 1, 2, 0, 7, 1,
  ]);
  expect([view.getUint32(52, true), view.getUint32(56, true), view.getUint32(60, true)]).toEqual([
    0x1000, 0x11223344, 0x55,
  ]);
  expect([u16(64 + 16), u16(64 + 18), part[64 + 32], view.getUint32(64 + 32 + 8, true)]).toEqual([
    8, 2, 1, 1,
  ]);
  tracker.complete(2);
  expect([u16(12), u16(14), u16(16), u16(18)]).toEqual([2, 3, 1, 0]);
  tracker.published(1, true);
  expect([u16(12), u16(14), u16(16), u16(18), part[96]]).toEqual([2, 2, 1, 1, 0]);
  machine.mapping.retire();
});

const BASE_FEATURES = F.VERSION_1 | VIRTIO_FEATURE.PROTOCOL_FEATURES;

describe.each([
  ['split', BASE_FEATURES],
  ['packed', BASE_FEATURES | F.RING_PACKED],
] as const)('%s session', (_, features) => {
  /** Copies what a dead back end leaves: guest memory and in-flight memory. */
  function copyOf(ram: GuestRam, fd: Fd, size: number): { ram: GuestRam; memory: GuestRam } {
    const copy = new GuestRam();
    copy.mapping.bytes(0, ram.size).set(ram.mapping.bytes(0, ram.size));
    const memory = new GuestRam(size);
    const source = Mapping.shared(fd.number, size);
    memory.mapping.bytes(0, size).set(source.bytes(0, size));
    source.retire();
    return { ram: copy, memory };
  }

  // QEMU announces its configured queue size, and its guest may set up a ring of more entries.
  test.each([16, 4])(
    'trap 1: a reconnect resubmits what was in flight, announced %i',
    async (queueSize) => {
      const ram = new GuestRam();
      const h = new Harness(undefined, { features });
      await h.negotiate(ram);
      const wish = { mmapSize: 0, mmapOffset: 0, queueCount: 2, queueSize };
      const { fds, ...description } = await h.frontEnd.get('GET_INFLIGHT_FD', wish);
      expect(description).toMatchObject({ queueCount: 2, queueSize, mmapOffset: 0 });
      expect(await h.frontEnd.ack('SET_INFLIGHT_FD', description, fds)).toBe(true);
      const ring = await h.startRing(ram, 0, 16);
      h.device.holds = true;
      for (const token of [1, 2, 3, 4]) ring.add(token);
      await until(() => h.device.held.length === 4, 'held');
      const ids = h.device.held.map(({ chain }) => chain.id);
      h.device.release([1]);
      expect(ring.take()).toEqual([2]);
      // The death: only memory is left.
      const left = copyOf(ram, fds[0]!, description.mmapSize);
      const successor = new Harness(undefined, { features });
      await successor.negotiate(left.ram);
      await successor.frontEnd.ack('SET_INFLIGHT_FD', description, [left.memory.fd]);
      // QEMU names the used index as the base of a split ring, and what it knows of a packed one.
      const base = features === BASE_FEATURES ? 1 : 0x80008000;
      consumeEvent(ring.call.number);
      await successor.describeRing(ring, base);
      expect(successor.device.served).toEqual([ids[0], ids[2], ids[3]]);
      expect(successor.logged.join()).toContain('resubmits 3 requests');
      expect(consumeEvent(ring.call.number)).toBeGreaterThan(0);
      // Orderly stop, and on again with the same in-flight memory.
      const { num } = await successor.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 });
      expect(num).toBe(features === BASE_FEATURES ? 4 : 0x80088008);
      await successor.frontEnd.ack('SET_INFLIGHT_FD', description, [left.memory.fd]);
      await successor.describeRing(ring, num);
      expect(successor.device.served).toHaveLength(3);
      expect(await successor.frontEnd.ack('RESET_DEVICE', {})).toBe(true);
      await successor.leave();
      h.device.release();
      await h.leave();
      for (const fd of fds) fd.close();
      left.ram.free();
      left.memory.free();
      ram.free();
    },
  );

  test('memory changes keep what is tracked', async () => {
    const ram = new GuestRam();
    const h = new Harness(undefined, { features });
    await h.negotiate(ram);
    const wish = { mmapSize: 0, mmapOffset: 0, queueCount: 1, queueSize: 8 };
    const { fds, ...description } = await h.frontEnd.get('GET_INFLIGHT_FD', wish);
    await h.frontEnd.ack('SET_INFLIGHT_FD', description, fds);
    const ring = await h.startRing(ram);
    for (const token of [1, 2, 3]) {
      ring.add(token);
      await h.frontEnd.ack('SET_MEM_TABLE', { regions: [ram.region] }, [ram.fd]);
    }
    await until(() => h.device.served.length === 3, 'three');
    expect(ring.take()).toEqual([1, 2, 3]);
    await h.leave();
    for (const fd of fds) fd.close();
    ram.free();
  });
});

test('in-flight memory for too many queues or entries is refused, and not made', async () => {
  const h = new Harness();
  await h.negotiate();
  for (const [queueCount, queueSize] of [
    [0, 8],
    [3, 8],
    [1, 0],
    [1, 32769],
  ] as const) {
    const wish = { mmapSize: 0, mmapOffset: 0, queueCount, queueSize };
    const reply = await h.frontEnd.get('GET_INFLIGHT_FD', wish);
    expect(reply).toMatchObject({ mmapSize: 0, fds: [] });
  }
  await h.leave();
});
