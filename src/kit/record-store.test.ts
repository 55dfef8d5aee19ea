import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RecordStore } from './index.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-records-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const silent = (): void => {};

test('records outlive who has written them', () => {
  const path = join(folder, 'state');
  const first = new RecordStore(path, 3, silent);
  const record = new Uint8Array(3);
  expect(first.load(0, record)).toBe(false);
  first.save(2, Uint8Array.of(7, 8, 9));
  first.close();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const second = new RecordStore(path, 3, silent);
  expect(second.load(2, record)).toBe(true);
  expect([...record]).toEqual([7, 8, 9]);
  expect(second.load(1, record)).toBe(true); // A hole is zeros.
  expect([...record]).toEqual([0, 0, 0]);
  second.close();
});

test('a record that is not whole is not there', () => {
  const path = join(folder, 'state');
  writeFileSync(path, Uint8Array.of(1, 2, 3, 4));
  const store = new RecordStore(path, 3, silent);
  expect(store.load(1, new Uint8Array(3))).toBe(false);
  store.close();
});

test('a file that cannot be opened, or written', () => {
  expect(() => new RecordStore(folder, 3, silent)).toThrow(/EISDIR/);
  const lines: string[] = [];
  const full = new RecordStore('/dev/full', 3, (line) => lines.push(line));
  for (let i = 0; i < 3; i += 1) full.save(0, new Uint8Array(3));
  full.close();
  expect(lines).toEqual(["'/dev/full' cannot be written (ENOSPC)"]);
});
