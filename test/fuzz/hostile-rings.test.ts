/** Rings that no honest driver writes: the device's side answers with a reason, and stays whole. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Chain, FaultReason } from '../../src/virtio/index.js';
import { MemoryRegion } from '../../src/virtio/index.js';
import { check, Random } from '../conformance/ring-pair.js';
import { GUEST, INDIRECT, NEXT, PLAIN, RingMemory, USED, WRITE } from './ring-memory.js';

const MIB = 2 ** 20;
const LAYOUTS = [
  ['split', { ...PLAIN, packed: false }],
  ['packed', { ...PLAIN, packed: true }],
] as const;

/** Builds a ring of 8 entries, lets `write` fill it, and expects what the first pop gives. */
function expectFault(
  features: typeof PLAIN,
  write: (ring: RingMemory) => void,
  reason: FaultReason,
): void {
  const ring = new RingMemory(features, 8);
  write(ring);
  ring.offer(0);
  expect(ring.pop()).toBe(reason);
  // A fault is lasting: the queue neither goes on nor loops.
  expect(ring.pop()).toBe(reason);
  expect(ring.queue.inflightCount).toBe(0);
  ring.close();
}

function expectChain(features: typeof PLAIN, write: (ring: RingMemory) => void): RingMemory {
  const ring = new RingMemory(features, 8);
  write(ring);
  ring.offer(0);
  const chain = ring.pop() as Chain;
  expect(chain).toBeTypeOf('object');
  expect(chain).not.toBeNull();
  ring.serve(chain);
  return ring;
}

describe.each(LAYOUTS)('%s ring: addresses', (_, features) => {
  test.each<[string, (end: number) => number | bigint, number]>([
    ['just before the memory', () => GUEST - 1, 1],
    ['just past the end', (end) => end, 1],
    ['crossing the end by one byte', (end) => end - 15, 16],
    ['crossing the start', () => GUEST - 8, 16],
    ['zero', () => 0, 1],
    ['below 2^53', () => 2 ** 53 - 1, 1],
    ['at 2^53', () => 2n ** 53n, 1],
    ['above 2^53', () => 2n ** 53n + BigInt(GUEST), 1],
    ['the same modulo 2^63', () => 2n ** 63n + BigInt(GUEST), 1],
    ['wrapping 2^64', () => 2n ** 64n - 8n, 16],
    ['the last of all', () => 2n ** 64n - 1n, 0xffffffff],
    ['the whole of 32 bits', () => GUEST, 0xfffffffe],
  ])('%s', (_name, address, size) => {
    for (const flags of [0, WRITE]) {
      const write = (ring: RingMemory) =>
        ring.descriptor(0, address(GUEST + ring.bytes.length), size, flags);
      expectFault(features, write, 'address');
      // The same within an indirect table.
      expectFault(
        features,
        (ring) => {
          const at = ring.data - GUEST;
          ring.descriptorAt(at, address(GUEST + ring.bytes.length), size, flags);
          ring.descriptor(0, ring.data, 16, INDIRECT);
        },
        'address',
      );
    }
  });

  test('the very last byte is shared', () => {
    expectChain(features, (ring) =>
      ring.descriptor(0, GUEST + ring.bytes.length - 1, 1, WRITE),
    ).close();
  });

  test('a gap between regions is no memory, and neighbours are', () => {
    const ring = new RingMemory(features, 8);
    const end = GUEST + ring.bytes.length;
    const page = ring.mapping;
    ring.memory.add(new MemoryRegion(page, 4096, end, end, 4096));
    ring.memory.add(new MemoryRegion(page, 4096, end + 8192, end + 8192, 4096));
    ring.descriptor(0, end - 3, 4096, 0);
    ring.descriptor(1, end + 4000, 200, 0);
    ring.offer(0, 1);
    const chain = ring.queue.pop()!;
    expect([...chain.reader].map((s) => s.size)).toEqual([3, 4093]);
    expect(ring.pop()).toBe('address');
    ring.close();
  });

  test('zero-length descriptors, alone and between others', () => {
    const ring = expectChain(features, (r) => r.descriptor(0, r.data, 0, WRITE));
    ring.close();
    expectChain(features, (r) => {
      r.descriptor(0, 0, 0, NEXT, 1);
      r.descriptor(1, r.data, 4, NEXT, 2);
      r.descriptor(2, 2n ** 64n - 1n, 0, NEXT | WRITE, 3);
      r.descriptor(3, r.data + 1, 4, WRITE);
    }).close();
  });

  test('ranges that overlap each other and the ring itself', () => {
    expectChain(features, (r) => {
      r.descriptor(0, r.data, 4096, NEXT, 1);
      r.descriptor(1, r.data + 1, 4096, NEXT | WRITE, 2);
      r.descriptor(2, GUEST, r.bytes.length, WRITE);
    }).close();
  });

  test('lengths that add up to 4 GiB through overlaps', () => {
    const ring = new RingMemory(features, 32, 256 * MIB);
    for (let i = 0; i < 16; i += 1) {
      ring.descriptor(i, ring.data, 256 * MIB, i < 15 ? NEXT | WRITE : WRITE, i + 1);
    }
    ring.offer(0);
    expect(ring.pop()).toBe('size');
    ring.close();
  });
});

describe.each(LAYOUTS)('%s ring: chains', (_, features) => {
  test('readable after writable', () => {
    expectFault(
      features,
      (r) => {
        r.descriptor(0, r.data, 1, NEXT | WRITE, 1);
        r.descriptor(1, r.data, 1, 0);
      },
      'order',
    );
  });

  test.each([1, 2, 8])('a cycle or a chain without an end, period %i', (period) => {
    expectFault(
      features,
      (r) => {
        for (let i = 0; i < 8; i += 1) r.descriptor(i, r.data, 1, NEXT, (i + 1) % period);
      },
      'chain-length',
    );
  });

  test('a chain as long as the ring, which is allowed', () => {
    expectChain(features, (r) => {
      for (let i = 0; i < 8; i += 1) r.descriptor(i, r.data + i, 1, i < 7 ? NEXT : 0, (i + 1) % 8);
    }).close();
  });

  test.each<[string, (ring: RingMemory) => void]>([
    ['an empty table', (r) => r.descriptor(0, r.data, 0, INDIRECT)],
    ['a table of half a descriptor', (r) => r.descriptor(0, r.data, 24, INDIRECT)],
    ['a table that is too long', (r) => r.descriptor(0, r.data, 1025 * 16, INDIRECT)],
    ['a table of 4 GiB', (r) => r.descriptor(0, r.data, 0xfffffff0, INDIRECT)],
    ['a table past the end', (r) => r.descriptor(0, GUEST + r.bytes.length - 16, 32, INDIRECT)],
    ['a table outside', (r) => r.descriptor(0, GUEST - 16, 16, INDIRECT)],
    ['a table at 2^64 - 16', (r) => r.descriptor(0, 2n ** 64n - 16n, 32, INDIRECT)],
    ['a table with NEXT', (r) => r.descriptor(0, r.data, 16, INDIRECT | NEXT, 1)],
    [
      'a table in a table',
      (r) => {
        r.descriptorAt(r.data - GUEST, r.data, 16, INDIRECT);
        r.descriptor(0, r.data, 16, INDIRECT);
      },
    ],
    ['a table that is the ring', (r) => r.descriptor(0, GUEST, 16, INDIRECT)],
  ])('%s', (_name, write) => {
    expectFault(features, write, 'indirect');
  });

  test('a table that was not negotiated', () => {
    expectFault(
      { ...features, indirect: false },
      (r) => r.descriptor(0, r.data, 16, INDIRECT),
      'indirect',
    );
  });

  test('the longest table, at an odd address', () => {
    const ring = new RingMemory(features, 8);
    const at = ring.data - GUEST + 3;
    for (let i = 0; i < 1024; i += 1) {
      ring.descriptorAt(at + i * 16, ring.data, 1, i < 1023 ? NEXT : 0, i + 1);
    }
    ring.descriptor(0, ring.data + 3, 1024 * 16, INDIRECT);
    ring.offer(0);
    expect((ring.pop() as Chain).reader.remaining).toBe(1024);
    ring.close();
  });

  test('segments cut by many small regions are limited', () => {
    const ring = new RingMemory(features, 1024);
    // 256 regions of one byte next to each other: each descriptor over them has 256 segments.
    const start = 0x9_0000_0000;
    for (let i = 0; i < 256; i += 1) {
      ring.memory.add(new MemoryRegion(ring.mapping, 4096 + i, start + i, start + i, 1));
    }
    for (let i = 0; i < 1024; i += 1) {
      ring.descriptor(i, start, 256, i < 1023 ? NEXT : 0, i + 1);
    }
    ring.offer(0);
    expect(() => ring.queue.pop()).toThrow(expect.objectContaining({ reason: 'chain-length' }));
    ring.close();
  });
});

describe('split ring: indices', () => {
  const features = LAYOUTS[0][1];

  test.each([8, 9, 0x7fff, 0xffff])('a head of %i', (head) => {
    const ring = new RingMemory(features, 8);
    ring.offer(head);
    expect(ring.pop()).toBe('index-range');
    ring.close();
  });

  test.each([8, 0xffff])('a link to %i', (next) => {
    expectFault(features, (r) => r.descriptor(0, r.data, 1, NEXT, next), 'index-range');
    expectFault(
      features,
      (r) => {
        r.descriptorAt(r.data - GUEST, r.data, 1, NEXT, next);
        r.descriptor(0, r.data, 32, INDIRECT);
      },
      'index-range',
    );
  });

  test('a cycle within a table', () => {
    expectFault(
      features,
      (r) => {
        r.descriptorAt(r.data - GUEST, r.data, 1, NEXT, 1);
        r.descriptorAt(r.data - GUEST + 16, r.data, 1, NEXT, 0);
        r.descriptor(0, r.data, 32, INDIRECT);
      },
      'chain-length',
    );
  });

  test.each([9, 0x7fff, 0x8000, 0xffff])('an available index that jumps by %i', (jump) => {
    const ring = new RingMemory(features, 8);
    ring.setAvailIndex(jump);
    expect(ring.pop()).toBe('index-jump');
    ring.close();
  });

  test('an index that goes back after requests were taken', () => {
    const ring = new RingMemory(features, 8);
    ring.descriptor(0, ring.data, 1);
    ring.offer(0, 0, 0);
    for (let i = 0; i < 3; i += 1) ring.serve(ring.pop() as Chain);
    ring.setAvailIndex(2);
    expect(ring.pop()).toBe('index-jump');
    ring.close();
  });

  test('more requests than entries, all of one head', () => {
    const ring = new RingMemory(features, 8);
    ring.descriptor(0, ring.data, 1);
    ring.offer(0, 0, 0, 0, 0, 0, 0, 0);
    for (let i = 0; i < 8; i += 1) expect(ring.pop()).toBeTypeOf('object');
    ring.setAvailIndex(9);
    expect(ring.pop()).toBe('index-jump');
    ring.close();
  });
});

describe('packed ring: flags', () => {
  const features = LAYOUTS[1][1];

  test('a chain that runs into descriptors in flight', () => {
    const ring = new RingMemory(features, 8);
    for (let i = 0; i < 5; i += 1) ring.descriptor(i, ring.data, 1, i < 4 ? NEXT : 0);
    expect(ring.pop()).toBeTypeOf('object');
    for (let i = 5; i < 8; i += 1) ring.descriptor(i, ring.data, 1, NEXT);
    expect(ring.pop()).toBe('chain-length');
    ring.close();
  });

  test('an indirect table within a chain', () => {
    expectFault(
      features,
      (r) => {
        r.descriptor(0, r.data, 1, NEXT);
        r.descriptor(1, r.data, 16, INDIRECT);
      },
      'indirect',
    );
  });

  test('descriptors that are neither available nor used are not taken', () => {
    const ring = new RingMemory(features, 8);
    for (const bits of [0, USED]) {
      ring.descriptorAt(0, ring.data, 1, bits);
      expect(ring.pop()).toBeNull();
    }
    ring.close();
  });

  test.each([0x8000, 0xffff])('a buffer id of %i comes back as it is', (id) => {
    const ring = new RingMemory(features, 8);
    ring.descriptor(0, ring.data, 1, WRITE, id);
    ring.serve(ring.pop() as Chain);
    expect(ring.view.getUint16(12, true)).toBe(id);
    ring.close();
  });
});

/** Pops and serves until there is nothing, a fault, or more than a ring can hold. */
function drainHostile(ring: RingMemory, random: Random): void {
  const held: Chain[] = [];
  for (let i = 0; i < 4 * ring.size; i += 1) {
    const outcome = ring.pop();
    if (outcome === null || typeof outcome === 'string') break;
    held.push(outcome);
    check(held.length <= ring.size, 'more chains are in flight than the ring has entries');
    if (random.below(2) === 0) continue;
    // The request's own memory may be the ring: what is written there are more hostile entries.
    const at = random.below(held.length);
    ring.serve(held.splice(at, 1)[0]!);
    if (random.below(4) === 0) ring.queue.armKicks();
  }
  for (const chain of held) ring.checkChain(chain);
  ring.checkGuards();
}

/** Fills the ring's memory with numbers that are near to something, or with pure noise. */
function scribble(ring: RingMemory, random: Random): void {
  const { bytes, view, layout } = ring;
  const noise = random.below(4) === 0;
  const words = [0, 1, 2, 3, 4, 7, ring.size, ring.size - 1, 16, 32, 0x80, 0x8000, 0xffff];
  const addresses = [ring.data, GUEST, GUEST + bytes.length - 1, GUEST - 1, ring.data + 5];
  for (let at = 0; at + 16 <= layout.byteLength + 64; at += 16) {
    if (noise || at >= layout.driver) {
      const value = () => (noise ? random.below(0x10000) : words[random.below(words.length)]!);
      for (let i = 0; i < 16; i += 2) view.setUint16(at + i, value(), true);
      continue;
    }
    const address = BigInt(addresses[random.below(addresses.length)]!);
    const far = random.below(32) === 0 ? 1n << BigInt(random.below(64)) : 0n;
    const size = random.below(4) === 0 ? 16 * random.below(40) : random.below(100);
    const link = random.below(ring.size + (random.below(16) === 0 ? 2 : 0));
    const flags = [0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, 7][random.below(7)]!;
    ring.descriptor(at / 16, address ^ far, size, flags, link);
  }
  // Tables, where descriptors often point to.
  for (let i = 0; i < 32; i += 1) {
    const flags = [NEXT, WRITE, NEXT | WRITE, 0, INDIRECT][random.below(5)]!;
    const at = ring.data - GUEST + i * 16;
    ring.descriptorAt(at, ring.data + random.below(100), random.below(64), flags, random.below(34));
  }
  if (!noise && random.below(4) > 0) ring.setAvailIndex(1 + random.below(ring.size));
}

describe.each(LAYOUTS)('%s ring: garbage', (_, features) => {
  const sizes = features.packed ? [1, 2, 3, 8, 37, 256] : [1, 2, 8, 64, 256];

  function runGarbage(size: number, seed: number, inOrder: boolean): void {
    const random = new Random(seed);
    const ring = new RingMemory({ ...features, inOrder, eventIndex: inOrder }, size);
    scribble(ring, random);
    drainHostile(ring, random);
    ring.close();
  }

  test('any content gives nothing, a chain in shared memory, or a fault', () => {
    fc.assert(fc.property(fc.constantFrom(...sizes), fc.integer(), fc.boolean(), runGarbage), {
      numRuns: 3000,
    });
  });

  test('the same with fixed seeds', () => {
    for (let seed = 0; seed < 1000; seed += 1) {
      runGarbage(sizes[seed % sizes.length]!, seed, seed % 3 === 0);
    }
  });

  test('a chain does not change when its descriptors do', () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = new Random(seed);
        const ring = new RingMemory(features, 8);
        const at = ring.data - GUEST;
        ring.descriptorAt(at, ring.data + 64, 100, NEXT, 1);
        ring.descriptorAt(at + 16, ring.data + 200, 50, WRITE, 0);
        ring.descriptor(0, ring.data, 32, INDIRECT);
        ring.offer(0);
        const chain = ring.pop() as Chain;
        const target = new Uint8Array(100);
        while (chain.reader.remaining > 0) {
          for (let i = 0; i < 32; i += 1) ring.bytes[at + i] = random.below(256);
          scribble(ring, random);
          chain.reader.read(target.subarray(0, 1 + random.below(20)));
          ring.checkChain(chain);
        }
        chain.writer.write(target);
        expect(chain.writer.written).toBe(50);
        expect([...chain.segments.sizes.subarray(0, 2)]).toEqual([100, 50]);
        ring.queue.complete(chain);
        ring.queue.publish();
        ring.close();
      }),
      { numRuns: 200 },
    );
  });
});
