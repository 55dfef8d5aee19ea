/**
 * What the module's files share has a kernel-doc comment. That the comments are complete is checked
 * by kernel-doc itself: `npm run lab -- lint`.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const KERNEL = fileURLToPath(new URL('../../kernel', import.meta.url));
const read = (name: string): string => readFileSync(join(KERNEL, name), 'utf8');

/** Names that stand in `text` and have no kernel-doc comment of that kind in `documented`. */
function lacking(names: readonly string[], kind: string, documented: string): string[] {
  expect(names.length).toBeGreaterThan(0);
  const heading = (name: string): string =>
    ` * ${kind === '' ? `${name}()` : `${kind} ${name}`} - `;
  return names.filter((name) => !documented.includes(`/**\n${heading(name)}`));
}

const matches = (text: string, pattern: RegExp): string[] =>
  [...text.matchAll(pattern)].map((match) => match[1]!);

test.each(['virtio_loopback.h', 'vlo.h'])('each structure of %s is described', (file) => {
  const text = read(file);
  const structures = matches(text, /^struct (vlo_\w+) \{/gm);
  expect(structures.length).toBeGreaterThan(8);
  expect(lacking(structures, 'struct', text)).toEqual([]);
});

test('each ioctl is described', () => {
  const text = read('virtio_loopback.h');
  expect(lacking(matches(text, /^#define (VLO_\w+)\s+_IO/gm), 'define', text)).toEqual([]);
});

test('each function that files share is described where it is defined', () => {
  const sources = readdirSync(KERNEL).filter((name) => name.endsWith('.c'));
  const text = sources.map(read).join('\n');
  const prototypes = matches(read('vlo.h'), /^(?!static)\w[\w *]*?\*?(vlo_\w+)\([^;{]*\);/gm);
  expect(prototypes.length).toBeGreaterThan(50);
  expect(lacking(prototypes, '', text)).toEqual([]);
});
