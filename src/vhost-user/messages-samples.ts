/** Legal payloads of every message, and where their fields lie: what a fuzzer starts from. */
import { fdRange } from './codec.js';
import type { FdRule, MessageSpec } from './messages.js';
import {
  encodeLayout,
  type FieldTable,
  type FieldType,
  INTEGER_BYTES,
  type Layout,
} from './messages-layout.js';

/** A legal payload, with the number of descriptors that has to come along. */
export interface Sample {
  readonly payload: Uint8Array;
  readonly fdCount: number;
}

/** An integer on the wire. */
export interface WireField {
  readonly name: string;
  /** Bytes from the start of the payload. */
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
}

type Extent = 'least' | 'small' | 'most';

const INTEGERS: Record<Extent, Record<keyof typeof INTEGER_BYTES, number | bigint>> = {
  least: { u8: 0, u16: 0, u32: 0, u64: 0, word: 0n },
  small: { u8: 1, u16: 1, u32: 1, u64: 0x1000, word: 1n },
  most: {
    u8: 0xff,
    u16: 0xffff,
    u32: 0xffffffff,
    u64: Number.MAX_SAFE_INTEGER,
    word: (1n << 64n) - 1n,
  },
};

function countOf(max: number, extent: Extent): number {
  return { least: 0, small: Math.min(1, max), most: max }[extent];
}

function sampleField(type: FieldType, extent: Extent): unknown {
  if (typeof type === 'string') return INTEGERS[extent][type];
  if ('bytes' in type) return new Uint8Array(type.bytes).fill(0xa5);
  if ('numbers' in type) return new Array(type.numbers).fill(INTEGERS[extent].u64);
  if ('list' in type) {
    return Array.from({ length: countOf(type.max, extent) }, () => sampleOf(type.list, extent));
  }
  if ('sized' in type) return new Uint8Array(countOf(type.max, extent)).fill(0x5a);
  if ('raw' in type) return new Uint8Array(countOf(type.raw, extent)).fill(0x5a);
  return undefined;
}

function sampleOf(table: FieldTable, extent: Extent): Record<string, unknown> {
  const value: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(table)) {
    value[name] = sampleField(type, extent);
    if (typeof type !== 'string' && 'sized' in type) {
      value[type.sized] = (value[name] as Uint8Array).length;
    }
  }
  return value;
}

function samplesOf(layout: Layout, rule: FdRule): Sample[] {
  return (['least', 'small', 'most'] as const).map((extent) => {
    const value = sampleOf(layout.fields, extent);
    return { payload: encodeLayout(layout, value as never), fdCount: fdRange(rule, value)[0] };
  });
}

/** Legal requests of one kind: the least one, a small one, and the most that fits. */
export function layoutSamples(spec: MessageSpec): Sample[] {
  return samplesOf(spec.request, spec.requestFds);
}

/** Legal replies to one kind of request. */
export function replySamples(spec: MessageSpec): Sample[] {
  return samplesOf(spec.reply, spec.replyFds);
}

/** The integers of a payload of `size` bytes: each is worth a mutation of its own. */
export function wireFields(layout: Layout, size: number): WireField[] {
  const found: WireField[] = [];
  let offset = 0;
  const add = (name: string, bytes: 1 | 2 | 4 | 8): void => {
    if (offset + bytes <= size) found.push({ name, offset, size: bytes });
    offset += bytes;
  };
  const visit = (table: FieldTable, prefix: string): void => {
    for (const [field, type] of Object.entries(table)) {
      const name = prefix + field;
      if (typeof type === 'string') add(name, INTEGER_BYTES[type]);
      else if ('bytes' in type) offset += type.bytes;
      else if ('pad' in type) offset += type.pad;
      else if ('numbers' in type) {
        for (let index = 0; index < type.numbers; index += 1) add(`${name}[${index}]`, 8);
      } else if ('list' in type) {
        add(`${name}.count`, 4);
        offset += 4;
        for (let index = 0; offset < size; index += 1) visit(type.list, `${name}[${index}].`);
      }
    }
  };
  visit(layout.fields, '');
  return found;
}
