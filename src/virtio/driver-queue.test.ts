import { afterEach, describe, expect, test } from 'vitest';
import { consumeEvent, createEventFd, Mapping, NativeBuffer } from '../native/index.js';
import type { DeviceQueue } from './device-queue.js';
import {
  CACHE_LINE_SIZE,
  type DriverQueue,
  layoutAreas,
  layoutIndirect,
  layoutQueue,
} from './driver-queue.js';
import { MemoryMap, MemoryRegion } from './memory-map.js';
import { PackedDeviceQueue } from './packed-device-queue.js';
import { PackedDriverQueue } from './packed-driver-queue.js';
import { SplitDeviceQueue } from './split-device-queue.js';
import { SplitDriverQueue } from './split-driver-queue.js';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

interface Pair {
  readonly driver: DriverQueue;
  readonly connect: (base: number) => DeviceQueue;
}

function makePair(packed: boolean, size: number, tableLength = 0, kickFd = -1): Pair {
  const features = { packed, indirect: tableLength > 0, eventIndex: false, inOrder: false };
  const layout = layoutQueue(size, packed, tableLength);
  const mapping = Mapping.anonymous(layout.byteLength);
  cleanups.push(() => mapping.retire());
  const bytes = mapping.bytes(0, mapping.size);
  const areas = layoutAreas(layout, bytes);
  const memory = new MemoryMap();
  memory.add(new MemoryRegion(mapping, 0, 0, 0, mapping.size));
  const common = { index: 0, size, features, areas };
  const Driver = packed ? PackedDriverQueue : SplitDriverQueue;
  const Device = packed ? PackedDeviceQueue : SplitDeviceQueue;
  return {
    driver: new Driver({ ...common, indirect: layoutIndirect(layout, bytes, 0), kickFd }),
    connect: (base) => new Device({ ...common, memory, base, callFd: -1 }),
  };
}

function place(driver: DriverQueue, token: number, segmentCount = 1): boolean {
  driver.begin();
  for (let i = 0; i < segmentCount; i += 1) driver.addWritable(i, 1);
  return driver.commit(token);
}

describe('layoutQueue', () => {
  test.each([
    [1, false],
    [256, false],
    [32768, false],
    [1, true],
    [7, true],
    [32768, true],
  ])('size %i, packed %s: parts apart, each on its own cache lines', (size, packed) => {
    const layout = layoutQueue(size, packed, 3);
    const areas = layoutAreas(layout, new Uint8Array(layout.byteLength));
    const parts = [areas.descriptor, areas.driver, areas.device];
    let end = 0;
    for (const part of parts) {
      expect(part.byteOffset % CACHE_LINE_SIZE).toBe(0);
      expect(part.byteOffset).toBeGreaterThanOrEqual(end);
      end = part.byteOffset + part.length;
    }
    expect(layout.indirect).toBeGreaterThanOrEqual(end);
    expect(layout.byteLength).toBeGreaterThanOrEqual(layout.indirect + size * 3 * 16);
    expect(layoutIndirect(layout, new Uint8Array(layout.byteLength), 4096)).toMatchObject({
      address: 4096 + layout.indirect,
      tableLength: 3,
    });
  });

  test('no tables', () => {
    const layout = layoutQueue(4, false);
    expect(layoutIndirect(layout, new Uint8Array(layout.byteLength), 0)).toBeNull();
  });
});

describe.each([false, true])('DriverQueue, packed %s', (packed) => {
  const start = packed ? 0x80008000 : 0;

  test('a full ring refuses, and the same request fits later', () => {
    const { driver, connect } = makePair(packed, 4);
    const device = connect(start);
    expect(place(driver, 1, 3)).toBe(true);
    expect(driver.freeCount).toBe(1);
    expect(place(driver, 2, 2)).toBe(false);
    expect([driver.hasRoom(1), driver.hasRoom(2)]).toEqual([true, false]);
    driver.publish();
    device.complete(device.pop()!);
    device.publish();
    expect(driver.next()).toBe(true);
    expect(driver.commit(2)).toBe(true); // Still put together.
    expect(driver.outstandingCount).toBe(1);
  });

  test('tables save entries while there are any', () => {
    const { driver } = makePair(packed, 4, 3);
    for (let i = 0; i < 4; i += 1) expect(place(driver, i, 3)).toBe(true);
    expect(driver.freeCount).toBe(0);
    const { driver: other } = makePair(packed, 4, 3);
    expect(place(other, 0, 4)).toBe(true); // Longer than a table.
    expect(other.freeCount).toBe(0);
  });

  test('misuse is our own bug', () => {
    const { driver } = makePair(packed, 2);
    driver.begin();
    expect(() => driver.commit(0)).toThrow('bug');
    driver.addWritable(0, 1);
    expect(() => driver.addReadable(0, 1)).toThrow('bug');
    driver.addWritable(0, 1);
    expect(() => driver.addWritable(0, 1)).toThrow('bug');
    driver.begin();
    driver.addReadable(0, 0xffffffff);
    expect(() => driver.addReadable(0, 1)).toThrow('bug');
    expect(() => makePair(packed, 32769)).toThrow('bug');
    if (!packed) expect(() => makePair(false, 3)).toThrow('bug');
  });

  test('kicks through an event descriptor once a batch, and tells outstanding tokens', () => {
    const event = createEventFd();
    cleanups.push(() => event.close());
    const { driver, connect } = makePair(packed, 8, 0, event.number);
    const device = connect(start);
    for (const token of [0xffffffff, 7, 5]) place(driver, token);
    expect(consumeEvent(event.number)).toBe(0);
    driver.publish();
    driver.publish();
    expect(consumeEvent(event.number)).toBe(1);
    device.suppressKicks();
    place(driver, 9);
    driver.publish();
    expect(consumeEvent(event.number)).toBe(0);
    expect(driver.counters).toEqual({ committed: 4, used: 0, kicks: 1 });
    const [first, second] = [device.pop()!, device.pop()!];
    device.complete(second);
    device.publish();
    expect(driver.next() && driver.usedToken).toBe(7);
    const tokens: number[] = [];
    driver.forEachOutstanding((token) => tokens.push(token));
    expect(tokens).toEqual([0xffffffff, 5, 9]);
    device.complete(first);
    device.publish();
    expect(driver.next() && driver.usedToken).toBe(0xffffffff);
    expect(driver.reset()).toEqual([5, 9]);
    expect([driver.outstandingCount, driver.freeCount]).toEqual([0, 8]);
    expect(driver.next()).toBe(false);
  });

  test('a new device goes on at the base, over many laps', () => {
    const { driver, connect } = makePair(packed, packed ? 5 : 4);
    let token = 0;
    let expected = 0;
    for (let lap = 0; lap < 100; lap += 1) {
      // The old device served all it took; three requests wait for the new one.
      const device = connect(driver.base);
      for (let i = 0; i < 3; i += 1) expect(place(driver, token++)).toBe(true);
      driver.publish();
      for (let i = 0; i < 2; i += 1) device.complete(device.pop()!);
      device.publish();
      while (driver.next()) expect(driver.usedToken).toBe(expected++);
      const successor = connect(driver.base);
      successor.complete(successor.pop()!);
      successor.publish();
      expect(successor.pop()).toBeNull();
      while (driver.next()) expect(driver.usedToken).toBe(expected++);
    }
    expect([expected, driver.freeCount]).toEqual([300, driver.size]);
  });
});

test('a scratch buffer of native memory can hold a ring', () => {
  const layout = layoutQueue(4, false);
  const buffer = new NativeBuffer(layout.byteLength);
  cleanups.push(() => buffer.free());
  const features = { packed: false, indirect: false, eventIndex: true, inOrder: false };
  const areas = layoutAreas(layout, buffer.bytes);
  const driver = new SplitDriverQueue({ index: 0, size: 4, features, areas, kickFd: -1 });
  expect(driver.armNotifications()).toBe(false);
});
