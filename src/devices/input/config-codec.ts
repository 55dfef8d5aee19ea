/** The config space of the input device: bitmaps, and the answers to the driver's selections. */
import type { AxisRange, InputDescription } from './backend.js';
import { ANSWER_SIZE_MAX, InputAbs, InputIds, SELECT } from './wire.js';

/** Longest text in bytes: Linux's driver keeps 64, and does not end a longer one. */
const TEXT_SIZE_MAX = 63;
const NOTHING = new Uint8Array(0);

/** A bitmap with these bits set, no longer than it has to be. */
export function bitmapOf(bits: readonly number[]): Uint8Array {
  if (bits.length === 0) return NOTHING;
  const bytes = new Uint8Array((Math.max(...bits) >> 3) + 1);
  for (const bit of bits) bytes[bit >> 3]! |= 1 << (bit & 7);
  return bytes;
}

/** A bitmap without the zeros at its end. */
export function trimBitmap(bytes: Uint8Array): Uint8Array {
  let size = Math.min(bytes.length, ANSWER_SIZE_MAX);
  while (size > 0 && bytes[size - 1] === 0) size -= 1;
  return bytes.slice(0, size);
}

/** True when a bit is set. */
export const hasBit = (bytes: Uint8Array | undefined, bit: number): boolean =>
  bytes !== undefined && ((bytes[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0;

/** The bits that are set. */
export const bitsOf = (bytes: Uint8Array = NOTHING): number[] =>
  Array.from({ length: bytes.length * 8 }, (_, bit) => bit).filter((bit) => hasBit(bytes, bit));

function textOf(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  let size = Math.min(bytes.length, TEXT_SIZE_MAX);
  // Not in the middle of a character.
  while (size > 0 && size < bytes.length && (bytes[size]! & 0xc0) === 0x80) size -= 1;
  return bytes.subarray(0, size);
}

/** What the driver gets for a selection; empty for one that there is nothing for. */
export function answerTo(of: InputDescription, select: number, subsel: number): Uint8Array {
  if (select === SELECT.EV_BITS) return of.codes.get(subsel) ?? NOTHING;
  if (select === SELECT.ABS_INFO) {
    const axis = of.axes.get(subsel);
    return axis === undefined ? NOTHING : encodeAxis(axis);
  }
  if (subsel !== 0) return NOTHING;
  if (select === SELECT.ID_NAME) return textOf(of.name);
  if (select === SELECT.ID_SERIAL) return textOf(of.serial);
  if (select === SELECT.ID_DEVIDS) return InputIds.encode({ ...of.ids });
  return select === SELECT.PROP_BITS ? of.properties : NOTHING;
}

function encodeAxis({ min, max, fuzz, flat, res }: AxisRange): Uint8Array {
  const unsigned = (value: number): number => value >>> 0;
  return InputAbs.encode({
    min: unsigned(min),
    max: unsigned(max),
    fuzz: unsigned(fuzz),
    flat: unsigned(flat),
    res: unsigned(res),
  });
}
