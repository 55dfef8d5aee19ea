/** The tables of VDUSE's interface, against the kernel's header, through the C compiler. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { defineStruct, type FieldTable } from '../../virtio/index.js';
import { FIELDS, VDUSE_IOCTL, VDUSE_NUMBER } from './uapi.js';

const run = promisify(execFile);

const snakeCase = (name: string): string =>
  name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Fields that stand for several of the header's, or for none. */
const isOwn = (field: string): boolean => ['reserved', 'padding', 'union', 'state'].includes(field);

/** What the tables say, one fact a line, in the words of C. */
function factsOfTables(): string[] {
  const structures = Object.entries<FieldTable>(FIELDS).flatMap(([name, fields]) => {
    const { size, offsets } = defineStruct(fields);
    const places = Object.entries(offsets)
      .filter(([field]) => !isOwn(field))
      .map(([field, offset]) => {
        return `offsetof(struct vduse_${snakeCase(name)}, ${snakeCase(field)}) ${offset}`;
      });
    return [`sizeof(struct vduse_${snakeCase(name)}) ${size}`, ...places];
  });
  const numbers = Object.entries(VDUSE_NUMBER).map(([name, value]) => `VDUSE_${name} ${value}`);
  const ioctls = Object.entries(VDUSE_IOCTL).map(([name, value]) => `VDUSE_${name} ${value}`);
  return [...structures, ...numbers, ...ioctls];
}

/** The same facts, as a program that prints what the compiler makes of them. */
function program(facts: readonly string[]): string {
  const lines = facts.map((fact) => {
    const expression = fact.slice(0, fact.lastIndexOf(' '));
    return `  printf("%s %lld\\n", "${expression}", (long long)(${expression}));`;
  });
  return `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/vduse.h>
int main(void)
{
${lines.join('\n')}
  return 0;
}
`;
}

test('the header says the same', async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-vduse-'));
  try {
    const facts = factsOfTables();
    expect(facts.length).toBeGreaterThan(50);
    const source = join(folder, 'facts.c');
    const binary = join(folder, 'facts');
    writeFileSync(source, program(facts));
    const error = await run('cc', ['-Wall', '-Werror', '-o', binary, source]).catch(
      (reason: { code?: string; stderr?: string }) => reason,
    );
    if ('code' in error && error.code === 'ENOENT') return context.skip('no C compiler (cc)');
    if (/vduse\.h: No such file/.test(error.stderr ?? '')) {
      return context.skip('the C compiler has no headers of Linux (linux-libc-dev)');
    }
    const { stdout } = await run(binary);
    expect(stdout.trimEnd().split('\n')).toEqual(facts);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('structures with what follows them have their sizes', () => {
  expect(defineStruct(FIELDS.devConfig).size).toBe(336);
  expect(defineStruct(FIELDS.devRequest).size).toBe(152);
  expect(defineStruct(FIELDS.devResponse).size).toBe(152);
});
