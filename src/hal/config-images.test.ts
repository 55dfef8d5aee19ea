/** Files behind a list of devices: the list itself, and the images that it names. */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ConfigError, loadConfig, prepareImages } from './config.js';

function errorOf(action: () => unknown): ConfigError {
  try {
    action();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('no mistake was found');
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-config-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function load(devices: string): ReturnType<typeof loadConfig> {
  const path = join(folder, 'hal.yaml');
  writeFileSync(path, `devices:\n${devices}`);
  return loadConfig(path);
}

function refusals(devices: string): string[] {
  const config = load(devices);
  const error = errorOf(() => prepareImages(config));
  return error.problems.map((p) => `${p.line}:${p.column} ${p.code} ${p.message}`);
}

test('is not there, or is a folder', () => {
  for (const path of [join(folder, 'none.yaml'), folder, join(folder, 'a\0b')]) {
    expect(() => loadConfig(path)).toThrow(
      expect.objectContaining({ code: 'VLO_CONFIG_MISSING', exitStatus: 2 }),
    );
  }
});

test('is no text, or is endless', () => {
  const path = join(folder, 'hal.yaml');
  writeFileSync(path, Buffer.from([...Buffer.from('devices:\n  a: ö'), 0xff]));
  const [problem] = errorOf(() => loadConfig(path)).problems;
  expect(problem).toMatchObject({ code: 'VLO_CONFIG_SYNTAX', line: 2, column: 7 });
  expect(errorOf(() => loadConfig('/dev/zero')).message).toContain('longer than');
  // Fewer characters than bytes: what is cut off must not pass as the whole.
  writeFileSync(path, `devices:\n  a: { type: rng }\n#${'ö'.repeat(200_000)}`);
  expect(errorOf(() => loadConfig(path)).message).toContain('longer than');
});

test('a missing image is made without blocks; one that is there stays as it is', () => {
  writeFileSync(join(folder, 'old.img'), Buffer.alloc(1024, 7));
  const config = load(
    '  a: { type: blk, image: new.img, size: 1TiB }\n' +
      '  b: { type: blk, image: old.img }\n' +
      '  c: { type: rng }\n',
  );
  prepareImages(config);
  const made = statSync(join(folder, 'new.img'));
  expect(made.size).toBe(2 ** 40);
  expect(made.blocks).toBeLessThan(16);
  prepareImages(config);
  expect(statSync(join(folder, 'old.img')).size).toBe(1024);
});

test('readers of one missing image: it is made once', () => {
  const disk = 'type: blk, image: new.img, read-only: true';
  prepareImages(load(`  a: { ${disk}, size: 1K }\n  b: { ${disk} }\n`));
  expect(statSync(join(folder, 'new.img')).size).toBe(1024);
});

test('where anything is wrong, nothing is made', () => {
  for (const [name, size] of Object.entries({ small: 512, odd: 700, empty: 0 })) {
    writeFileSync(join(folder, `${name}.img`), '');
    truncateSync(join(folder, `${name}.img`), size);
  }
  mkdirSync(join(folder, 'sub'));
  const before = readdirSync(folder).length;
  const problems = refusals(
    [
      '  a: { type: blk, image: new.img, size: 1M }',
      '  b: { type: blk, image: none.img }',
      '  c: { type: blk, image: small.img, size: 1M }',
      '  d: { type: blk, image: odd.img }',
      '  e: { type: blk, image: empty.img }',
      '  f: { type: blk, image: sub }',
      '  g: { type: blk, image: /dev/null }',
      '  h: { type: blk, image: no/folder.img, size: 1M }',
      '  i: { type: blk, image: small.img/x, size: 1M }',
    ].join('\n'),
  );
  expect(problems.map((problem) => problem.split(' ', 2).join(' '))).toEqual([
    '3:26 VLO_IMAGE_MISSING',
    '4:43 VLO_IMAGE_SIZE',
    '5:26 VLO_IMAGE_SIZE',
    '6:26 VLO_IMAGE_SIZE',
    '7:26 VLO_IMAGE_TYPE',
    '8:26 VLO_IMAGE_TYPE',
    '9:26 VLO_IMAGE_ACCESS',
    '10:26 VLO_IMAGE_ACCESS',
  ]);
  expect(problems[0]).toContain('add `size: 64MiB`');
  expect(problems[1]).toContain('has 512 bytes, not 1048576');
  expect(readdirSync(folder)).toHaveLength(before + 1);
});

test('an image that cannot be made takes back the ones before it', () => {
  symlinkSync('nowhere/x.img', join(folder, 'dangling.img'));
  const problems = refusals(
    '  a: { type: blk, image: new.img, size: 1M }\n' +
      '  b: { type: blk, image: dangling.img, size: 1M }\n',
  );
  expect(problems[0]).toMatch(/^3:26 VLO_IMAGE_ACCESS .*cannot be made/);
  expect(readdirSync(folder).sort()).toEqual(['dangling.img', 'hal.yaml']);
});

test('a link does not hide that an image is shared', () => {
  writeFileSync(join(folder, 'x.img'), Buffer.alloc(512));
  symlinkSync('x.img', join(folder, 'y.img'));
  symlinkSync('.', join(folder, 'here'));
  const problems = refusals(
    [
      '  a: { type: blk, image: x.img }',
      '  b: { type: blk, image: y.img }',
      '  c: { type: blk, image: new.img, size: 512 }',
      '  d: { type: blk, image: here/new.img, size: 1K }',
    ].join('\n'),
  );
  expect(problems.map((problem) => problem.split(' ', 2).join(' '))).toEqual([
    '3:26 VLO_CONFIG_VALUE',
    '5:26 VLO_CONFIG_VALUE',
    '5:46 VLO_IMAGE_SIZE',
  ]);
});
