import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IovecList } from '../native/index.js';
import { ChainReader, ChainWriter, SegmentList } from './cursor.js';
import { defineStruct } from './struct.js';

const BASE = 0x7000_0000_0001;

/** Segments of these sizes in one view, each followed by one byte that belongs to nobody. */
function segmentsOf(sizes: readonly number[]): { list: SegmentList; bytes: Uint8Array } {
  const bytes = new Uint8Array(sizes.reduce((a, b) => a + b + 1, 1)).fill(0xee);
  const list = new SegmentList();
  let at = 1;
  for (const size of sizes) {
    list.push(BASE + at, at, size, bytes, at);
    at += size + 1;
  }
  return { list, bytes };
}

function readerOver(content: Uint8Array, sizes: readonly number[]): ChainReader {
  const { list, bytes } = segmentsOf(sizes);
  let done = 0;
  for (let i = 0; i < list.count; i += 1) {
    bytes.set(content.subarray(done, done + sizes[i]!), list.starts[i]!);
    done += sizes[i]!;
  }
  const reader = new ChainReader(list);
  reader.place(0, 0, done);
  return reader;
}

/** The bytes that a writer put into its segments, without those between them. */
function written(list: SegmentList): number[] {
  const all: number[] = [];
  for (let i = 0; i < list.count; i += 1) {
    const start = list.starts[i]!;
    all.push(...list.views[i]!.subarray(start, start + list.sizes[i]!));
  }
  return all;
}

const Header = defineStruct({ type: 'u32', flags: 'u16', sector: 'u64', tail: 'u8' });
const short = expect.objectContaining({ name: 'DriverFault', reason: 'short' });

describe('ChainReader', () => {
  test('takes a header that is split at any byte, or into single bytes', () => {
    const value = { type: 0xdeadbeef, flags: 0x8001, sector: 2 ** 52 + 3, tail: 7 };
    const content = new Uint8Array([...Header.encode(value), 0x99]);
    const cuts = Array.from({ length: Header.size }, (_, i) => [i + 1, Header.size - i]);
    for (const sizes of [...cuts, content.map(() => 1)]) {
      const reader = readerOver(content, [...sizes]);
      expect(reader.take(Header)).toEqual(value);
      expect(reader.remaining).toBe(1);
      expect(reader.readU8()).toBe(0x99);
      expect(() => reader.readU8()).toThrow(short);
    }
  });

  test('reads numbers over any cuts', () => {
    const content = new Uint8Array([1, 0x80, 2, 0, 0, 0xff, 3, 0, 0, 0, 4, 0, 0, 0, 5]);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 15 }), (cuts) => {
        const sizes: number[] = [];
        let left = content.length;
        for (const cut of cuts) {
          if (cut >= left) break;
          sizes.push(cut);
          left -= cut;
        }
        const reader = readerOver(content, [...sizes, left]);
        expect(reader.readU16()).toBe(0x8001);
        expect(reader.readU32()).toBe(0xff000002);
        expect(reader.readU64()).toBe(4 * 2 ** 32 + 3);
        expect(reader.readU8()).toBe(5);
        expect(reader.remaining).toBe(0);
      }),
    );
  });

  test('read, skip, gather and countSegments agree over any cuts', () => {
    const step = fc.tuple(fc.constantFrom('read', 'skip', 'gather'), fc.nat(12));
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 12 }),
        fc.array(step, { maxLength: 20 }),
        (sizes, steps) => {
          const total = sizes.reduce((a, b) => a + b);
          const content = Uint8Array.from({ length: total }, (_, i) => i);
          const reader = readerOver(content, sizes);
          const list = new IovecList(2);
          let at = 0;
          for (const [kind, amount] of steps) {
            if (amount > reader.remaining) {
              if (kind !== 'read') expect(() => reader.skip(amount)).toThrow(short);
              if (kind !== 'read') expect(() => reader.gather(list, amount)).toThrow(short);
              continue;
            }
            if (kind === 'gather') {
              list.clear();
              reader.gather(list, amount);
              expect(list.size).toBe(amount);
              expect(list.count).toBe(reader.countSegments(amount));
              continue;
            }
            if (kind === 'skip') reader.skip(amount);
            const target = new Uint8Array(kind === 'read' ? amount : 0);
            expect(reader.read(target)).toBe(target.length);
            expect([...target]).toEqual([...content.subarray(at, at + target.length)]);
            at += amount;
            expect(reader.remaining).toBe(total - at);
            expect([...reader].reduce((sum, s) => sum + s.size, 0)).toBe(total - at);
          }
          list.free();
        },
      ),
    );
  });

  test('an empty part reads as nothing', () => {
    const reader = new ChainReader(new SegmentList());
    reader.place(0, 0, 0);
    expect(reader.read(new Uint8Array(4))).toBe(0);
    reader.skip(0);
    expect([...reader]).toEqual([]);
    expect(() => reader.readU32()).toThrow(short);
    expect(() => reader.take(Header)).toThrow(short);
  });

  test('64-bit numbers that are not exact stay large', () => {
    expect(readerOver(new Uint8Array(8).fill(0xff), [3, 5]).readU64()).toBeGreaterThan(2 ** 53);
  });
});

describe('ChainWriter', () => {
  function writerOver(sizes: readonly number[]) {
    const { list, bytes } = segmentsOf(sizes);
    const writer = new ChainWriter(list);
    writer.place(
      0,
      0,
      sizes.reduce((a, b) => a + b, 0),
    );
    return { writer, list, bytes };
  }

  const sizesArbitrary = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 8 });

  test('splits off a tail at every boundary', () => {
    fc.assert(
      fc.property(sizesArbitrary, (sizes) => {
        const total = sizes.reduce((a, b) => a + b);
        for (let tailSize = 0; tailSize <= total; tailSize += 1) {
          const { writer, list, bytes } = writerOver(sizes);
          const tail = writer.splitTail(tailSize);
          expect([writer.remaining, tail.remaining]).toEqual([total - tailSize, tailSize]);
          expect(tail.write(new Uint8Array(total + 1).fill(0xbb))).toBe(tailSize);
          // The tail alone is not in one piece from the start.
          expect(writer.usedLength).toBe(total === tailSize ? tailSize : 0);
          expect(writer.write(new Uint8Array(total + 1).fill(0xaa))).toBe(total - tailSize);
          expect(writer.usedLength).toBe(total);
          const expected = [
            ...Array<number>(total - tailSize).fill(0xaa),
            ...Array<number>(tailSize).fill(0xbb),
          ];
          expect(written(list)).toEqual(expected);
          expect(bytes.filter((byte) => byte === 0xee)).toHaveLength(sizes.length + 1);
        }
        expect(() => writerOver(sizes).writer.splitTail(total + 1)).toThrow(short);
      }),
    );
  });

  test('the used length ends at the first byte that was not written', () => {
    const { writer } = writerOver([4, 4]);
    const tail = writer.splitTail(1);
    writer.write(new Uint8Array(6));
    tail.writeU8(0);
    expect(writer.usedLength).toBe(6);
    writer.writeU8(0);
    expect(writer.usedLength).toBe(8);
  });

  test('writes numbers and structures over any cuts, all or nothing', () => {
    fc.assert(
      fc.property(sizesArbitrary, (sizes) => {
        const total = sizes.reduce((a, b) => a + b);
        const value = { type: 0x80000001, flags: 0xfffe, sector: 2 ** 40 + 5, tail: 255 };
        const { writer, list } = writerOver(sizes);
        if (total < Header.size) {
          expect(() => writer.put(Header, value)).toThrow(short);
          expect(writer.written).toBe(0);
          return;
        }
        writer.put(Header, value);
        expect(written(list).slice(0, Header.size)).toEqual([...Header.encode(value)]);
        const again = writerOver(sizes);
        again.writer.writeU32(value.type);
        again.writer.writeU16(value.flags);
        again.writer.writeU64(value.sector);
        again.writer.writeU8(value.tail);
        expect(written(again.list)).toEqual(written(list));
      }),
    );
  });

  test.each(['writeU8', 'writeU16', 'writeU32', 'writeU64'] as const)(
    '%s into too little room',
    (name) => {
      const sizes = { writeU8: 1, writeU16: 2, writeU32: 4, writeU64: 8 };
      const { writer, list } = writerOver([1, sizes[name]]);
      writer.advance(2);
      expect(() => writer[name](0)).toThrow(short);
      expect(written(list).every((byte) => byte === 0xee)).toBe(true);
    },
  );

  test('advance counts what a system call wrote, and no more than there is', () => {
    const { writer } = writerOver([3, 3]);
    writer.advance(5);
    expect([writer.written, writer.remaining, writer.usedLength]).toEqual([5, 1, 5]);
    expect(() => writer.advance(2)).toThrow(short);
  });

  test('is as new after it was placed again', () => {
    const { writer } = writerOver([4]);
    writer.splitTail(2).writeU16(1);
    writer.write(new Uint8Array(2));
    writer.place(0, 0, 4);
    expect([writer.usedLength, writer.size, writer.remaining]).toEqual([0, 4, 4]);
  });
});

describe('SegmentList', () => {
  test('grows, keeps what it holds, and has a limit', () => {
    const list = new SegmentList();
    const view = new Uint8Array(0);
    for (let i = 0; i < 131072; i += 1) list.push(i * 2 ** 32, i, i, view, i);
    expect(list.addresses[131071]).toBe(131071 * 2 ** 32);
    expect([list.guestAddresses[9], list.sizes[9], list.starts[9]]).toEqual([9, 9, 9]);
    const tooMany = expect.objectContaining({ reason: 'chain-length' });
    expect(() => list.push(0, 0, 0, view, 0)).toThrow(tooMany);
  });
});
