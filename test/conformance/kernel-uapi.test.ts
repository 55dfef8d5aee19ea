/** The tables of the kernel module's interface, against its header, through the C compiler. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { FIELDS, VLO, VLO_IOCTL } from '../../src/transports/loopback/uapi.js';
import { defineStruct, type FieldTable } from '../../src/virtio/index.js';

const run = promisify(execFile);
const KERNEL = fileURLToPath(new URL('../../kernel', import.meta.url));

const snakeCase = (name: string): string =>
  name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** What the tables say, one fact a line, in the words of C. */
function factsOfTables(): string[] {
  const structures = Object.entries<FieldTable>(FIELDS).flatMap(([name, fields]) => {
    const { size, offsets } = defineStruct(fields);
    const places = Object.entries(offsets).map(([field, offset]) => {
      return `offsetof(struct vlo_${name}, ${snakeCase(field)}) ${offset}`;
    });
    return [`sizeof(struct vlo_${name}) ${size}`, ...places];
  });
  const numbers = Object.entries(VLO).map(([name, value]) => `VLO_${name} ${value}`);
  const ioctls = Object.entries(VLO_IOCTL).map(([name, value]) => `VLO_${name} ${value}`);
  return [...structures, ...numbers, ...ioctls];
}

/** The same facts, as a program that prints what the compiler makes of them. */
function program(facts: readonly string[]): string {
  const lines = facts.map((fact) => {
    const expression = fact.slice(0, fact.lastIndexOf(' '));
    return `  printf("%s %lu\\n", "${expression}", (unsigned long)(${expression}));`;
  });
  return `#include <stddef.h>
#include <stdio.h>
#include "virtio_loopback.h"
int main(void)
{
${lines.join('\n')}
  return 0;
}
`;
}

async function hasCompiler(): Promise<boolean> {
  return run('cc', ['--version']).then(
    () => true,
    () => false,
  );
}

test('the header says the same', async (context) => {
  if (!(await hasCompiler())) return context.skip('there is no C compiler (cc)');
  const folder = mkdtempSync(join(tmpdir(), 'vlo-uapi-'));
  try {
    const facts = factsOfTables();
    expect(facts.length).toBeGreaterThan(80);
    const source = join(folder, 'facts.c');
    const binary = join(folder, 'facts');
    const flags = ['-Wall', '-Werror', '-I', KERNEL, '-o', binary, source];
    writeFileSync(source, program(facts));
    const error = await run('cc', flags).catch((reason: { stderr: string }) => reason);
    if ('stderr' in error && /linux\/(types|ioctl)\.h: No such file/.test(error.stderr)) {
      return context.skip('the C compiler has no headers of Linux (linux-libc-dev)');
    }
    const { stdout } = await run(binary);
    expect(stdout.trimEnd().split('\n')).toEqual(facts);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every structure and ioctl of the header is in the tables', () => {
  const header = readFileSync(join(KERNEL, 'virtio_loopback.h'), 'utf8');
  const structures = [...header.matchAll(/^struct vlo_(\w+) \{/gm)].map((match) => match[1]);
  expect(structures.toSorted()).toEqual(Object.keys(FIELDS).toSorted());
  const ioctls = [...header.matchAll(/^#define VLO_(\w+)\s+_IO/gm)].map((match) => match[1]);
  expect(ioctls).toEqual(Object.keys(VLO_IOCTL));
  const numbers = [...header.matchAll(/^#define VLO_(\w+)\s+[(\d]/gm)].map((match) => match[1]);
  expect(numbers).toEqual(Object.keys(VLO));
});
