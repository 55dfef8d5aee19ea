import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { defineStruct } from './struct.js';

const Mixed = defineStruct({
  a: 'u8',
  b: 'u16',
  c: 'u32',
  d: 'u64',
  e: 'i32',
  name: { bytes: 5 },
});

describe('defineStruct', () => {
  test('lays fields out without gaps, little-endian', () => {
    expect(Mixed.size).toBe(24);
    expect(Mixed.offsets).toEqual({ a: 0, b: 1, c: 3, d: 7, e: 15, name: 19 });
    const bytes = Mixed.encode({ a: 1, b: 0x0203, c: 0x04050607, d: 2 ** 32 + 8, e: -2 });
    expect([...bytes.subarray(0, 19)]).toEqual([
      1, 3, 2, 7, 6, 5, 4, 8, 0, 0, 0, 1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff,
    ]);
    expect([...bytes.subarray(19)]).toEqual([0, 0, 0, 0, 0]);
  });

  test('decodes what it encoded, at any offset', () => {
    const value = fc.record({
      a: fc.integer({ min: 0, max: 0xff }),
      b: fc.integer({ min: 0, max: 0xffff }),
      c: fc.integer({ min: 0, max: 0xffffffff }),
      d: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
      e: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      name: fc.uint8Array({ minLength: 5, maxLength: 5 }),
    });
    fc.assert(
      fc.property(value, fc.nat(9), (fields, offset) => {
        const memory = new Uint8Array(offset + Mixed.size + 3);
        memory.set(Mixed.encode(fields), offset);
        expect(Mixed.decode(memory.subarray(offset))).toEqual(fields);
      }),
    );
  });

  test('a decoded byte field is a copy', () => {
    const memory = new Uint8Array(Mixed.size);
    const { name } = Mixed.decode(memory);
    memory.fill(1);
    expect([...name]).toEqual([0, 0, 0, 0, 0]);
  });

  test('too few bytes, and bytes that do not fit, are our own bug', () => {
    expect(() => Mixed.decode(new Uint8Array(Mixed.size - 1))).toThrow('bug');
    expect(() => Mixed.encode({ name: new Uint8Array(6) })).toThrow('bug');
  });
});
