import fc from 'fast-check';
import { expect, test } from 'vitest';
import { IovecList, NativeBuffer } from './buffer.js';
import { expectNoLeaks } from './test-utils.js';

/** The segments of a list, as the kernel would read them. */
function segmentsOf(list: IovecList): [number, number][] {
  const buffer = (list as unknown as { buffer: NativeBuffer }).buffer;
  return Array.from({ length: list.count }, (_, i) => [
    buffer.getU64(i * 16),
    buffer.getU64(i * 16 + 8),
  ]);
}

test('64-bit numbers in two halves', () =>
  expectNoLeaks(() => {
    const buffer = new NativeBuffer(24);
    for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 47 + 5, Number.MAX_SAFE_INTEGER]) {
      buffer.setU64(8, value);
      expect(buffer.getU64(8)).toBe(value);
    }
    expect([buffer.getU64(0), buffer.getU64(16)]).toEqual([0, 0]);
    buffer.free();
    buffer.free();
  }));

test('advance leaves exactly the bytes that were not moved', () =>
  expectNoLeaks(() => {
    const sizes = fc.array(fc.nat(10), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(sizes, fc.array(fc.nat(30), { maxLength: 6 }), (lengths, steps) => {
        const list = new IovecList(2); // Grows.
        const bytes: number[] = [];
        for (const [i, length] of lengths.entries()) {
          const address = 2 ** 46 + i * 100;
          list.push(address, length);
          for (let k = 0; k < length; k += 1) bytes.push(address + k);
        }
        for (const step of steps) {
          const size = Math.min(step, bytes.length);
          list.advance(size);
          bytes.splice(0, size);
          const left = segmentsOf(list).flatMap(([address, length]) =>
            Array.from({ length }, (_, k) => address + k),
          );
          expect(left).toEqual(bytes);
          expect(list.size).toBe(bytes.length);
        }
        list.clear();
        expect([list.count, list.size]).toEqual([0, 0]);
        list.free();
      }),
      { numRuns: 300 },
    );
  }));
