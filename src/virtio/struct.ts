/**
 * Wire structures as tables: the layout of a header or of a config space, written once, from which
 * encoding, decoding, sizes and TypeScript types come. All numbers are little-endian.
 */
import { assert } from '../errors.js';

const INTEGER_SIZES = { u8: 1, u16: 2, u32: 4, u64: 8, i32: 4 } as const;

/** The type of one field: an integer, or a number of raw bytes. */
export type FieldType = keyof typeof INTEGER_SIZES | { readonly bytes: number };

/** Field names and types, in the order in which they lie in memory, without gaps. */
export type FieldTable = Readonly<Record<string, FieldType>>;

/** The JavaScript value of a structure: numbers, and bytes for raw fields. */
export type StructValue<T extends FieldTable> = {
  -readonly [K in keyof T]: T[K] extends { readonly bytes: number } ? Uint8Array : number;
};

/** A wire structure that can be encoded and decoded. */
export interface Struct<T> {
  /** Size in bytes. */
  readonly size: number;
  /** Offset of each field in bytes. */
  readonly offsets: Readonly<Record<keyof T & string, number>>;
  /** Decodes the first `size` bytes; 64-bit numbers are exact below 2^53. */
  decode(bytes: Uint8Array): T;
  /** Encodes a value; fields that are left out are zero. */
  encode(value: Partial<T>): Uint8Array;
}

function sizeOf(type: FieldType): number {
  return typeof type === 'string' ? INTEGER_SIZES[type] : type.bytes;
}

function readField(view: DataView, at: number, type: FieldType): number | Uint8Array {
  if (typeof type !== 'string') {
    return new Uint8Array(view.buffer, view.byteOffset + at, type.bytes).slice();
  }
  if (type === 'u8') return view.getUint8(at);
  if (type === 'u16') return view.getUint16(at, true);
  if (type === 'u32') return view.getUint32(at, true);
  if (type === 'i32') return view.getInt32(at, true);
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;
}

function writeField(view: DataView, at: number, type: FieldType, value: number | Uint8Array): void {
  if (typeof type !== 'string') {
    const bytes = value as Uint8Array;
    assert(bytes.length <= type.bytes, `${bytes.length} bytes do not fit into ${type.bytes}`);
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(bytes, at);
    return;
  }
  const number = value as number;
  if (type === 'u8') view.setUint8(at, number);
  else if (type === 'u16') view.setUint16(at, number, true);
  else if (type === 'u32') view.setUint32(at, number, true);
  else if (type === 'i32') view.setInt32(at, number, true);
  else {
    view.setUint32(at, number >>> 0, true);
    view.setUint32(at + 4, number / 4294967296, true);
  }
}

/** Makes a {@link Struct} from its field table. */
export function defineStruct<const T extends FieldTable>(fields: T): Struct<StructValue<T>> {
  const names = Object.keys(fields) as (keyof T & string)[];
  const offsets = {} as Record<keyof T & string, number>;
  let size = 0;
  for (const name of names) {
    offsets[name] = size;
    size += sizeOf(fields[name]!);
  }
  return {
    size,
    offsets,
    decode(bytes) {
      assert(bytes.length >= size, `a structure of ${size} bytes was decoded from ${bytes.length}`);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const value: Record<string, number | Uint8Array> = {};
      for (const name of names) value[name] = readField(view, offsets[name], fields[name]!);
      return value as StructValue<T>;
    },
    encode(value) {
      const bytes = new Uint8Array(size);
      const view = new DataView(bytes.buffer);
      for (const name of names) {
        const field = value[name];
        if (field !== undefined) writeField(view, offsets[name], fields[name]!, field);
      }
      return bytes;
    },
  };
}
