/** Regions that a back end is told of, from what the kernel lists. */
import { expect, test } from 'vitest';
import { createMemfd } from '../../native/index.js';
import type { VduseMemory } from './device.js';
import { MemoryTable, planRegions } from './memory.js';

const POOL = 64 * 2 ** 20;
const TOP = 0x4800_0000;
const own = (start: number, end: number) => ({ start, end, offset: start });

test('pool and rings are a region each, though the kernel lists the pool later', () => {
  const rings = [own(TOP - 0x2000, TOP - 0x1000), own(TOP - 0x6000, TOP - 0x3f00)];
  const planned = [own(0, POOL), own(TOP - 0x10000, TOP)];
  expect(planRegions(rings, POOL)).toEqual(planned);
  expect(planRegions([own(0, POOL), ...rings], POOL)).toEqual(planned);
});

test('without anything in the list there is no file, and no region', () => {
  expect(planRegions([], POOL)).toEqual([]);
});

test('memory that lies elsewhere in its file is a region of its own', () => {
  const foreign = { start: 0x1000, end: 0x5000, offset: 0x7000 };
  expect(planRegions([foreign], POOL)).toEqual([foreign]);
});

const memory = (start: number, end: number): VduseMemory => ({
  ...own(start, end),
  fd: createMemfd('vduse-test', 4096),
});

test('a region that stays is the same object, and what is not needed is handed back', () => {
  const table = new MemoryTable(POOL);
  const ring = memory(TOP - 0x4000, TOP);
  const other = memory(TOP - 0x8000, TOP - 0x4000);
  const unusedAtFirst = table.follow([ring, other]);
  expect(unusedAtFirst).toEqual([other.fd]);
  const [pool, rings] = table.regions;
  expect(pool).toEqual({ fd: ring.fd, guestAddress: 0, size: POOL, mmapOffset: 0 });
  const again = memory(TOP - 0x4000, TOP);
  expect(table.follow([again])).toEqual([again.fd]);
  expect(table.regions[0]).toBe(pool);
  expect(table.regions[1]).toBe(rings);
  const moved = memory(TOP - 0x20000, TOP - 0x18000);
  expect(table.follow([moved])).toEqual([]);
  expect(table.regions[0]).toBe(pool);
  expect(table.regions[1]).not.toBe(rings);
  for (const fd of [...unusedAtFirst, again.fd]) fd.close();
  table.close();
  expect(ring.fd.isOpen || moved.fd.isOpen).toBe(false);
});
