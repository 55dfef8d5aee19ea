import { afterEach, describe, expect, test } from 'vitest';
import { createMemfd, Mapping } from '../native/index.js';
import { MemoryMap, MemoryRegion } from './memory-map.js';

const GIB = 2 ** 30;
const mappings: Mapping[] = [];

function map(size: number): Mapping {
  const fd = createMemfd('memory-map-test', size);
  const mapping = Mapping.shared(fd.number, size);
  fd.close();
  mappings.push(mapping);
  return mapping;
}

afterEach(() => {
  for (const mapping of mappings.splice(0)) mapping.retire();
});

describe('MemoryMap', () => {
  test('finds regions by guest and by user address, and nothing between them', () => {
    const mapping = map(65536);
    const memory = new MemoryMap();
    const high = new MemoryRegion(mapping, 8192, 2 ** 52, 0x9000, 4096);
    const low = new MemoryRegion(mapping, 0, 0x1000, 0x50000, 4096);
    const next = new MemoryRegion(mapping, 4096, 0x2000, 0x40000, 1);
    for (const region of [high, low, next]) expect(memory.add(region)).toBe(true);
    expect(memory.regions).toEqual([low, next, high]);
    // Twice, as the second look goes through the region found last.
    for (let i = 0; i < 2; i += 1) {
      expect(memory.find(0x0fff)).toBeNull();
      expect(memory.find(0x1000)).toBe(low);
      expect(memory.find(0x1fff)).toBe(low);
      expect(memory.find(0x2000)).toBe(next);
      expect(memory.find(0x2001)).toBeNull();
      expect(memory.find(2 ** 52 + 4095)).toBe(high);
      expect(memory.find(2 ** 52 + 4096)).toBeNull();
      expect(memory.find(Number.MAX_SAFE_INTEGER)).toBeNull();
      expect(memory.find(-1)).toBeNull();
    }
    expect(memory.findUser(0x9fff)).toBe(high);
    expect(memory.findUser(0x40000)).toBe(next);
    expect(memory.findUser(0x40001)).toBeNull();
    expect(high.hostAddress).toBe(mapping.address + 8192);
  });

  test('refuses overlaps and forgets what was removed', () => {
    const mapping = map(65536);
    const memory = new MemoryMap();
    const first = new MemoryRegion(mapping, 0, 0x1000, 0, 0x2000);
    expect(memory.add(first)).toBe(true);
    for (const [start, size] of [
      [0x1000, 0x2000],
      [0x0, 0x1001],
      [0x2fff, 1],
      [0x1800, 0x10],
      [0x0, 0x10000],
    ] as const) {
      expect(memory.add(new MemoryRegion(mapping, 0, start, 0, size))).toBe(false);
    }
    expect(memory.add(new MemoryRegion(mapping, 0, 0x0, 0, 0x1000))).toBe(true);
    expect(memory.find(0x1000)).toBe(first);
    expect(memory.remove(0x1000, 0, 0x1fff)).toBeNull();
    expect(memory.remove(0x1000, 0, 0x2000)).toBe(first);
    expect(memory.find(0x1000)).toBeNull();
    expect(memory.clear()).toHaveLength(1);
    expect(memory.find(0)).toBeNull();
  });

  test('509 regions, as many as vhost-user allows', () => {
    const mapping = map(509 * 4096);
    const memory = new MemoryMap();
    for (let i = 0; i < 509; i += 1) {
      const at = (i * 263) % 509; // In no particular order.
      expect(memory.add(new MemoryRegion(mapping, at * 4096, at * 8192, 0, 4096))).toBe(true);
    }
    for (let i = 0; i < 509; i += 1) {
      expect(memory.find(i * 8192 + 4095)?.mappingOffset).toBe(i * 4096);
      expect(memory.find(i * 8192 + 4096)).toBeNull();
    }
  });

  test('a region beyond its mapping is our own bug', () => {
    const mapping = map(4096);
    expect(() => new MemoryRegion(mapping, 1, 0, 0, 4096)).toThrow('bug');
  });
});

describe('windows of a region larger than 2 GiB', () => {
  const size = 5 * GIB + 4096; // Sparse: only what is touched takes memory.

  test.each([
    0,
    GIB - 1,
    GIB,
    2 * GIB - 1,
    2 * GIB,
    3 * GIB - 3,
    4 * GIB,
    5 * GIB - 1,
    size - 4096 - 1,
    size - 4096 - 8,
  ])('offset %i', (offset) => {
    const mapping = map(size);
    const region = new MemoryRegion(mapping, 4096, 0x1_0000_0000, 0, size - 4096);
    const view = region.window(offset);
    const at = region.windowOffset(offset);
    const left = Math.min(GIB, region.size - offset);
    expect(at).toBeGreaterThanOrEqual(0);
    expect(at + left).toBeLessThanOrEqual(view.length);
    view[at] = 0xab;
    view[at + left - 1] = 0xcd;
    expect(region.bytes(offset, 1)[0]).toBe(left === 1 ? 0xcd : 0xab);
    expect(region.bytes(offset + left - 1, 1)[0]).toBe(0xcd);
    // A second mapping would see the same: the offset in the file is right.
    expect(mapping.bytes(4096 + offset, 1)[0]).toBe(left === 1 ? 0xcd : 0xab);
  });

  test('a small mapping has one window', () => {
    const mapping = map(2 * GIB);
    for (const offset of [0, GIB, 2 * GIB - 1]) expect(mapping.windowIndex(offset)).toBe(0);
    expect(map(2 * GIB + 1).windowIndex(2 * GIB)).toBe(1);
  });
});
