/**
 * Payload layouts as data: the fields of a payload, from which sizes, types, codec, samples for
 * fuzzing and the reference page are made.
 *
 * All numbers are little-endian: the protocol has them in the machine's own order, and all our
 * hosts are little-endian. Padding is written as zero and not looked at when read: peers send what
 * their memory held.
 */
import { assert, VloError } from '../errors.js';

/**
 * The type of a field.
 *
 * - `u8`, `u16`, `u32`: a number.
 * - `u64`: an address, an offset or a size; a number, refused from 2^53 on.
 * - `word`: 64 bits of which each may matter, as a bigint.
 * - `bytes`: that many raw bytes; `pad`: that many bytes which mean nothing.
 * - `numbers`: that many `u64` in a row.
 * - `list`: a 32-bit count, 32 bits of padding, then at most `max` records. The peer may send more
 *   room than it counts, in whole records (User-Mode Linux does, and the specification's picture
 *   shows all eight regions): what lies beyond the count is left alone.
 * - `sized`: the rest of the payload; the field named there says how many of these bytes are used.
 * - `raw`: the rest of the payload, at most that many bytes, opaque to us.
 */
export type FieldType =
  | 'u8'
  | 'u16'
  | 'u32'
  | 'u64'
  | 'word'
  | { readonly bytes: number }
  | { readonly pad: number }
  | { readonly numbers: number }
  | { readonly list: FieldTable; readonly max: number }
  | { readonly sized: string; readonly max: number }
  | { readonly raw: number };

/** Field names and types in the order of the wire, without gaps. */
export type FieldTable = { readonly [name: string]: FieldType };

type FieldValue<F> = F extends 'word'
  ? bigint
  : F extends string
    ? number
    : F extends { readonly list: infer T extends FieldTable }
      ? LayoutValue<T>[]
      : F extends { readonly numbers: number }
        ? number[]
        : Uint8Array;

/** The JavaScript value of a payload; padding is left out. */
export type LayoutValue<T extends FieldTable> = {
  -readonly [K in keyof T as T[K] extends { readonly pad: number } ? never : K]: FieldValue<T[K]>;
};

/** A payload's layout. */
export interface Layout<T extends FieldTable = FieldTable> {
  readonly fields: T;
  /** Smallest size in bytes; for a layout of fixed size, the size. */
  readonly sizeMin: number;
  readonly sizeMax: number;
  /** Sizes between the two differ from the smallest by multiples of this. */
  readonly sizeStep: number;
  /** Shorter sizes that are taken too; fields beyond the end read as zero. */
  readonly shorter: readonly number[];
}

/** Bytes of each integer type. */
export const INTEGER_BYTES = { u8: 1, u16: 2, u32: 4, u64: 8, word: 8 } as const;
const LIST_HEADER_BYTES = 8;
const WORD_MAX = (1n << 64n) - 1n;

/** Bytes that a field takes at least, at most, and in which steps. */
function extent(type: FieldType): { min: number; max: number; step: number } {
  const fixed = (size: number) => ({ min: size, max: size, step: 1 });
  if (typeof type === 'string') return fixed(INTEGER_BYTES[type]);
  if ('bytes' in type) return fixed(type.bytes);
  if ('pad' in type) return fixed(type.pad);
  if ('numbers' in type) return fixed(type.numbers * 8);
  if ('sized' in type) return { min: 0, max: type.max, step: 1 };
  if ('raw' in type) return { min: 0, max: type.raw, step: 1 };
  const step = defineLayout(type.list).sizeMin;
  return { min: LIST_HEADER_BYTES, max: LIST_HEADER_BYTES + type.max * step, step };
}

/** Makes a {@link Layout}. A field of variable size must be the last one. */
export function defineLayout<const T extends FieldTable>(
  fields: T,
  shorter: readonly number[] = [],
): Layout<T> {
  let [sizeMin, sizeMax, sizeStep] = [0, 0, 1];
  for (const type of Object.values(fields)) {
    assert(sizeMin === sizeMax, 'a field follows one of variable size');
    const { min, max, step } = extent(type);
    sizeMin += min;
    sizeMax += max;
    sizeStep = step;
  }
  return { fields, sizeMin, sizeMax, sizeStep, shorter };
}

/** Whether a payload of `size` bytes can have this layout. */
export function sizeFits(layout: Layout, size: number): boolean {
  if (layout.shorter.includes(size)) return true;
  if (size < layout.sizeMin || size > layout.sizeMax) return false;
  return (size - layout.sizeMin) % layout.sizeStep === 0;
}

/** The sizes of a layout in words: `8`, `8 + n x 32, n <= 8`, `12 to 4108`. */
export function describeSizes({ sizeMin, sizeMax, sizeStep, shorter }: Layout): string {
  const main =
    sizeMin === sizeMax
      ? `${sizeMin}`
      : sizeStep === 1
        ? `${sizeMin} to ${sizeMax}`
        : `${sizeMin} + n x ${sizeStep}, n <= ${(sizeMax - sizeMin) / sizeStep}`;
  return [main, ...shorter].join(' or ');
}

function fail(label: string, problem: string): never {
  throw new VloError('VLO_PROTOCOL', `${label}: ${problem}`);
}

/** Reads the fields of one payload or record one after the other. */
class Reader {
  readonly #view: DataView;
  readonly #label: string;
  #at = 0;

  constructor(bytes: Uint8Array, label: string) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#label = label;
  }

  fields(table: FieldTable, prefix = ''): Record<string, unknown> {
    const value: Record<string, unknown> = {};
    for (const [name, type] of Object.entries(table)) {
      if (typeof type === 'string') value[name] = this.#integer(type, prefix + name);
      else if ('pad' in type) this.#at += type.pad;
      else if ('bytes' in type) value[name] = this.#bytes(type.bytes);
      else if ('numbers' in type) value[name] = this.#numbers(type.numbers, prefix + name);
      else if ('list' in type) value[name] = this.#list(type.list, type.max, name);
      else value[name] = this.#rest(name, 'sized' in type ? (value[type.sized] as number) : 0);
    }
    return value;
  }

  #integer(type: keyof typeof INTEGER_BYTES, name: string): number | bigint {
    const at = this.#at;
    this.#at += INTEGER_BYTES[type];
    // A shorter form of the payload ends before this field.
    if (this.#at > this.#view.byteLength) return type === 'word' ? 0n : 0;
    if (type === 'u8') return this.#view.getUint8(at);
    if (type === 'u16') return this.#view.getUint16(at, true);
    if (type === 'u32') return this.#view.getUint32(at, true);
    const word = this.#view.getBigUint64(at, true);
    if (type === 'word') return word;
    if (word > BigInt(Number.MAX_SAFE_INTEGER)) {
      fail(this.#label, `${name} is 0x${word.toString(16)}; below 2^53 is supported`);
    }
    return Number(word);
  }

  #numbers(count: number, name: string): number[] {
    return Array.from({ length: count }, (_, index) =>
      Number(this.#integer('u64', `${name}[${index}]`)),
    );
  }

  #bytes(size: number): Uint8Array {
    const { buffer, byteOffset } = this.#view;
    this.#at += size;
    return new Uint8Array(buffer, byteOffset + this.#at - size, size).slice();
  }

  #list(table: FieldTable, max: number, name: string): Record<string, unknown>[] {
    const count = this.#view.getUint32(this.#at, true);
    this.#at += LIST_HEADER_BYTES;
    const room = (this.#view.byteLength - this.#at) / defineLayout(table).sizeMin;
    if (count > max) fail(this.#label, `${name} counts ${count}; at most ${max} are allowed`);
    if (count > room) fail(this.#label, `${name} counts ${count}; the payload holds ${room}`);
    return Array.from({ length: count }, (_, index) => this.fields(table, `${name}[${index}].`));
  }

  #rest(name: string, used: number): Uint8Array {
    const size = this.#view.byteLength - this.#at;
    if (used > size) fail(this.#label, `size is ${used}; ${name} holds ${size} bytes`);
    return this.#bytes(size);
  }
}

/**
 * Decodes a payload.
 * @param label name of the message, for errors
 * @throws VloError VLO_PROTOCOL if the size does not fit the layout, or a field has no legal value
 */
export function decodeLayout<T extends FieldTable>(
  layout: Layout<T>,
  bytes: Uint8Array,
  label: string,
): LayoutValue<T> {
  if (!sizeFits(layout, bytes.length)) {
    fail(label, `size is ${bytes.length}; expected ${describeSizes(layout)} bytes`);
  }
  return new Reader(bytes, label).fields(layout.fields) as LayoutValue<T>;
}

function writeInteger(view: DataView, at: number, type: string, value: unknown, name: string) {
  if (type === 'word') {
    assert(typeof value === 'bigint' && value >= 0n && value <= WORD_MAX, `${name}: ${value}`);
    return view.setBigUint64(at, value, true);
  }
  const number = value as number;
  const max = { u8: 0xff, u16: 0xffff, u32: 0xffffffff }[type] ?? Number.MAX_SAFE_INTEGER;
  assert(Number.isInteger(number) && number >= 0 && number <= max, `${name}: ${number}`);
  if (type === 'u8') view.setUint8(at, number);
  else if (type === 'u16') view.setUint16(at, number, true);
  else if (type === 'u32') view.setUint32(at, number, true);
  else view.setBigUint64(at, BigInt(number), true);
}

/** Encodes fields from `at` on; returns where they end. */
function writeFields(
  bytes: Uint8Array,
  start: number,
  table: FieldTable,
  value: Readonly<Record<string, unknown>>,
): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start;
  for (const [name, type] of Object.entries(table)) {
    if (typeof type === 'string') {
      writeInteger(view, at, type, value[name], name);
      at += INTEGER_BYTES[type];
    } else if ('pad' in type) {
      at += type.pad;
    } else if ('numbers' in type) {
      const numbers = value[name] as number[];
      assert(numbers.length === type.numbers, `${name}: ${numbers.length} numbers`);
      for (const number of numbers) {
        writeInteger(view, at, 'u64', number, name);
        at += 8;
      }
    } else if ('list' in type) {
      const items = value[name] as Record<string, unknown>[];
      assert(items.length <= type.max, `${name}: ${items.length} records`);
      view.setUint32(at, items.length, true);
      at += LIST_HEADER_BYTES;
      for (const item of items) at = writeFields(bytes, at, type.list, item);
    } else {
      const data = value[name] as Uint8Array;
      const used = 'sized' in type ? (value[type.sized] as number) : 0;
      assert(used <= data.length, `${name}: ${data.length} bytes, of which ${used} are used`);
      bytes.set(data, at);
      at += data.length;
    }
  }
  return at;
}

/** Bytes that a value takes beyond the smallest size of its layout. */
function variableBytes(layout: Layout, value: Readonly<Record<string, unknown>>): number {
  let size = 0;
  for (const [name, type] of Object.entries(layout.fields)) {
    if (typeof type === 'string') continue;
    if ('list' in type) size += (value[name] as unknown[]).length * layout.sizeStep;
    if ('sized' in type || 'raw' in type) size += (value[name] as Uint8Array).length;
    if ('bytes' in type) assert((value[name] as Uint8Array).length === type.bytes, `${name}: size`);
  }
  return size;
}

/** Encodes a payload; padding is zero. A value that does not fit its field is our own bug. */
export function encodeLayout<T extends FieldTable>(
  layout: Layout<T>,
  value: LayoutValue<T>,
): Uint8Array {
  const record = value as Readonly<Record<string, unknown>>;
  const size = layout.sizeMin + variableBytes(layout, record);
  assert(sizeFits(layout, size), `a payload of ${size} bytes is too long`);
  const bytes = new Uint8Array(size);
  writeFields(bytes, 0, layout.fields, record);
  return bytes;
}
