import { closeSync, openSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { NativeBuffer } from './buffer.js';
import { libc } from './libc.js';
import { Mapping, mappingCounts, WINDOW_SIZE } from './mapping.js';
import { createMemfd, sealAgainstShrinking } from './memfd.js';
import { collectGarbage, eventually, expectNoLeaks } from './test-utils.js';

/** The line of the process's memory map that starts at an address, or undefined. */
function mapLine(address: number): string | undefined {
  const start = `${address.toString(16)}-`;
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .find((line) => line.startsWith(start));
}

test('two mappings of a memory file see each other', () =>
  expectNoLeaks(() => {
    const fd = createMemfd('mapping-test', 8192);
    const first = Mapping.shared(fd.number, 8192);
    const second = Mapping.shared(fd.number, 4096, { offset: 4096 });
    fd.close();
    first.bytes(4096, 4)[2] = 0x77;
    expect([...second.bytes(0, 4)]).toEqual([0, 0, 0x77, 0]);
    first.retire();
    second.retire();
    second.retire();
    expect(first.address).toBe(0);
  }));

test('the size of a memory file is sealed', () =>
  expectNoLeaks(() => {
    const fd = createMemfd('seal-test', 8192);
    expect(libc.ftruncate(fd.number, 4096)).toBeLessThan(0);
    expect(libc.ftruncate(fd.number, 16384)).toBeLessThan(0);
    expect(sealAgainstShrinking(fd.number)).toBe(true);
    fd.close();
  }));

test('a file of a peer is sealed where it can be', () => {
  const allowed = libc.memfdCreate('peer', 3);
  expect(sealAgainstShrinking(allowed)).toBe(true);
  libc.ftruncate(allowed, 4096);
  expect(libc.ftruncate(allowed, 0)).toBeLessThan(0);
  closeSync(allowed);
  const forbidden = libc.memfdCreate('peer', 1); // Without MFD_ALLOW_SEALING.
  expect(sealAgainstShrinking(forbidden)).toBe(false);
  closeSync(forbidden);
  const path = join(tmpdir(), `seal-${process.pid}`);
  writeFileSync(path, 'x');
  const plain = openSync(path, 'r+');
  unlinkSync(path);
  expect(typeof sealAgainstShrinking(plain)).toBe('boolean');
  closeSync(plain);
});

test('a stale view reads zeros, the file is untouched, and the range goes with the view', async () => {
  const fd = createMemfd('retire-test', 12288);
  const keeper = Mapping.shared(fd.number, 12288);
  const mapping = Mapping.shared(fd.number, 12288);
  const { address } = mapping;
  const before = mappingCounts();
  let view: Uint8Array | null = mapping.bytes(4096, 16);
  view.fill(9);
  expect(mapLine(address)).toContain('retire-test');
  mapping.retire();
  expect(mapLine(address)).not.toContain('retire-test');
  expect([...view]).toEqual(Array(16).fill(0));
  view.fill(7); // Writing is safe too, and reaches nobody.
  expect(keeper.bytes(4096, 1)[0]).toBe(9);
  expect(mappingCounts()).toEqual({ live: before.live - 1, retired: before.retired + 1 });
  collectGarbage();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(mapLine(address)).toBeDefined(); // The view is still held.
  expect(view[0]).toBe(7);
  view = null;
  await eventually(() => mappingCounts().retired <= before.retired);
  keeper.retire();
  fd.close();
});

test('a mapping without views is unmapped at once', () => {
  const fd = createMemfd('unmap-test', 4096);
  const { retired } = mappingCounts();
  const mapping = Mapping.shared(fd.number, 4096);
  const { address } = mapping;
  mapping.retire();
  expect(mapLine(address) ?? '').not.toContain('unmap-test');
  expect(mappingCounts().retired).toBe(retired);
  expect(() => mapping.bytes(0, 1)).toThrow('bug');
  fd.close();
});

test('thousands of buffers leave nothing behind', async () => {
  const before = mappingCounts();
  for (let i = 0; i < 2000; i += 1) new NativeBuffer(100).free();
  await eventually(() => mappingCounts().retired <= before.retired);
  expect(mappingCounts().live).toBe(before.live);
});

test('a file shorter than the range is refused, as access would end the process', () =>
  expectNoLeaks(() => {
    const fd = createMemfd('short-test', 4096);
    const short = expect.objectContaining({ code: 'VLO_PROTOCOL' });
    expect(() => Mapping.shared(fd.number, 4097)).toThrow(short);
    expect(() => Mapping.shared(fd.number, 4096, { offset: 4096 })).toThrow(short);
    fd.close();
  }));

test('failures of the kernel are coded', () =>
  expectNoLeaks(() => {
    const fd = createMemfd('error-test', 8192);
    const invalid = expect.objectContaining({ code: 'VLO_SYSTEM', syscall: 'mmap' });
    expect(() => Mapping.shared(fd.number, 4096, { offset: 1 })).toThrow(invalid);
    expect(() => Mapping.anonymous(2 ** 52)).toThrow(expect.objectContaining({ errno: 'ENOMEM' }));
    expect(() => createMemfd('error-test', -1)).toThrow('ftruncate');
    fd.close();
  }));

test('a read-only mapping follows its file', () =>
  expectNoLeaks(() => {
    const fd = createMemfd('read-only-test', 4096);
    const writer = Mapping.shared(fd.number, 4096);
    const reader = Mapping.shared(fd.number, 4096, { readOnly: true });
    writer.bytes(0, 1)[0] = 5;
    expect(reader.readOnly).toBe(true);
    expect(reader.bytes(0, 1)[0]).toBe(5);
    writer.retire();
    reader.retire();
    fd.close();
  }));

test('ranges over the end of a window', () =>
  expectNoLeaks(() => {
    const size = 2 * WINDOW_SIZE + 10;
    const fd = createMemfd('window-test', size);
    const mapping = Mapping.shared(fd.number, size);
    for (const end of [WINDOW_SIZE / 2, WINDOW_SIZE, 2 * WINDOW_SIZE, size]) {
      mapping.bytes(end - 8, 8).set([1, 2, 3, 4, 5, 6, 7, 8]);
      expect(mapping.bytes(end - 5, 1)[0]).toBe(4);
    }
    expect(() => mapping.bytes(size - 1, 2)).toThrow('bug');
    expect(() => mapping.bytes(-1, 2)).toThrow('bug');
    mapping.retire();
    fd.close();
  }));
