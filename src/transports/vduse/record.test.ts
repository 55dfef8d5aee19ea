/** What a successor finds. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createMemfd, Mapping } from '../../native/index.js';
import { DeviceRecord } from './record.js';

let folder: string;
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'vlo-record-')), 'records');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const NODE = 77;
const FACTS = {
  deviceId: 2,
  features: (1n << 32n) | 0x40n,
  queueSizes: [256, 64],
  config: Uint8Array.of(1, 2, 3),
};
const create = (): DeviceRecord => DeviceRecord.create('disk0', FACTS, folder, NODE);
const load = (node = NODE): DeviceRecord | null => DeviceRecord.load('disk0', folder, node);

test('a successor reads what the device was made with', () => {
  const record = create();
  expect(load()?.facts).toEqual(FACTS);
  record.setConfig(Uint8Array.of(9, 9, 9));
  expect(load()?.facts.config).toEqual(Uint8Array.of(9, 9, 9));
  expect(statSync(folder).mode & 0o777).toBe(0o700);
});

test('another device of the same name, no record, and a broken one, are none', () => {
  expect(load()).toBeNull();
  create();
  expect(load(NODE + 1)).toBeNull();
  for (const text of ['', '{', '{}', '{"node":77}']) {
    writeFileSync(join(folder, 'disk0.json'), text);
    expect(load()).toBeNull();
  }
});

test('in-flight memory is kept in a file, with what is in it', () => {
  const record = create();
  expect(load()?.openPast()).toBeNull();
  const memory = createMemfd('inflight', 8192);
  const mapping = Mapping.shared(memory.number, 8192);
  mapping.bytes(0, 8192).fill(5);
  const kept = record.keep(memory, 8192);
  const note = Uint8Array.of(7, 8);
  record.setPast({ memory: { fd: kept, note } });
  // What the back end writes from then on is in the file.
  const theirs = Mapping.shared(kept.number, 8192);
  theirs.bytes(0, 1)[0] = 6;
  const past = load()!.openPast()!;
  expect(past.memory!.note).toEqual(note);
  const found = Mapping.shared(past.memory!.fd.number, 8192);
  expect([...found.bytes(0, 3)]).toEqual([6, 5, 5]);
  for (const one of [mapping, theirs, found]) one.retire();
  for (const fd of [memory, kept, past.memory!.fd]) fd.close();
});

test('memory that only descriptors hold is not promised to a successor', () => {
  const record = create();
  const memory = createMemfd('inflight', 4096);
  record.setPast({ memory: { fd: memory, note: Uint8Array.of(1) } });
  expect(load()?.openPast()).toEqual({ memory: null });
  record.setPast(null);
  expect(load()?.openPast()).toBeNull();
  memory.close();
});

test('nothing is left of a device that was removed', () => {
  const record = create();
  const memory = createMemfd('inflight', 4096);
  const kept = record.keep(memory, 4096);
  record.remove();
  record.remove();
  expect(existsSync(folder) ? readdirSync(folder) : []).toEqual([]);
  for (const fd of [memory, kept]) fd.close();
});
