/** kernel/syzkaller describes the interface of the kernel module: all of it, with its layout. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { FIELDS, VLO, VLO_IOCTL } from '../../src/transports/loopback/uapi.js';
import { defineStruct, type FieldTable } from '../../src/virtio/index.js';

const KERNEL = fileURLToPath(new URL('../../kernel', import.meta.url));
const HEADER = readFileSync(join(KERNEL, 'virtio_loopback.h'), 'utf8');
const TEXT = readFileSync(join(KERNEL, 'syzkaller/virtio_loopback.txt'), 'utf8');
const CONSTS = readFileSync(join(KERNEL, 'syzkaller/virtio_loopback.txt.const'), 'utf8');

const NUMBERS: Readonly<Record<string, number>> = { ...VLO, ...VLO_IOCTL };

/** A number, or the name of one. */
function numberOf(word: string): number {
  const number = /^\d+$/.test(word) ? Number(word) : NUMBERS[word.replace(/^VLO_/, '')];
  if (number === undefined) throw new Error(`the number ${word} is not known`);
  return number;
}

/** Bytes of a field's type. */
function sizeOf(type: string): number {
  const array = /^(?:array|string)\[(.*), (\w+)\]$/.exec(type);
  if (array !== null) return (type[0] === 's' ? 1 : sizeOf(array[1]!)) * numberOf(array[2]!);
  const resource = new RegExp(`^resource ${type.replaceAll('[', '\\[')}\\[(\\w+)\\]`, 'm');
  const base = resource.exec(TEXT)?.[1] ?? type;
  if (base === 'fd' || base === 'fd_event') return 4;
  const bits = /^(?:(?:const|flags)\[\w+, )?int(8|16|32|64)\b/.exec(base)?.[1];
  if (bits === undefined) throw new Error(`the type ${type} is not known`);
  return Number(bits) / 8;
}

/** The structures: name of each field with its size. */
function structures(): Map<string, { name: string; size: number }[]> {
  const blocks = TEXT.matchAll(/^vlo_(\w+) \{\n((?:\t.*\n)+)\}$/gm);
  return new Map(
    [...blocks].map(([, name, body]) => {
      const fields = body!.trimEnd().split('\n');
      const parts = fields.map((field) => /^\t(\w+)\t+([^\t]+)(?:\t\(\w+\))?$/.exec(field)!);
      return [name!, parts.map(([, key, type]) => ({ name: key!, size: sizeOf(type!) }))];
    }),
  );
}

const snakeCase = (name: string): string =>
  name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The same from the tables. */
function fieldsOf(table: FieldTable): { name: string; size: number }[] {
  const { size, offsets } = defineStruct(table);
  const entries = Object.entries<number>(offsets);
  return entries.map(([name, offset], index) => ({
    name: snakeCase(name),
    size: (entries[index + 1]?.[1] ?? size) - offset,
  }));
}

test('each structure is described, field by field', () => {
  const described = structures();
  expect([...described.keys()].toSorted()).toEqual(Object.keys(FIELDS).toSorted());
  for (const [name, table] of Object.entries<FieldTable>(FIELDS)) {
    expect({ name, fields: described.get(name) }).toEqual({ name, fields: fieldsOf(table) });
  }
});

test('each ioctl is described, with its argument', () => {
  const directions = { _IOW: 'in', _IOR: 'out', _IOWR: 'inout' };
  const macros = [
    ...HEADER.matchAll(/^#define (VLO_\w+)\s+(_IOW?R?)\('v', 0x\w+(?:, (?:struct )?(\w+))?\)/gm),
  ];
  const wanted = macros.map(([, name, macro, argument]) => {
    const type = argument === '__u32' ? 'vlo_sequence' : argument;
    const pointer = `, arg ptr[${directions[macro as keyof typeof directions]}, ${type}]`;
    return `ioctl$${name}(fd fd_vlo, cmd const[${name}]${type === undefined ? '' : pointer})`;
  });
  expect(wanted).toHaveLength(Object.keys(VLO_IOCTL).length);
  expect(TEXT.split('\n').filter((line) => line.startsWith('ioctl$'))).toEqual(wanted);
});

test('each flag is in a set of flags', () => {
  const sets = TEXT.split('\n').filter((line) => /^vlo_\w+ = /.test(line));
  const flags = Object.keys(VLO).filter((name) => /^[FQS]_/.test(name));
  expect(flags.length).toBeGreaterThan(5);
  for (const flag of flags) expect(sets.join('\n')).toMatch(new RegExp(`\\bVLO_${flag}\\b`));
});

test('the file of numbers has those that the description names, and no others', () => {
  const named = [...new Set(TEXT.match(/\bVLO_\w+\b/g))].toSorted();
  const lines = [...CONSTS.matchAll(/^(VLO_\w+) = (\d+)$/gm)];
  const wanted = named.map((name) => `${name} = ${numberOf(name)}`);
  expect(lines.map(([line]) => line).toSorted()).toEqual(wanted.toSorted());
});
