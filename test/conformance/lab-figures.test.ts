/** How the lab compares counts of instructions with the stored ones. */
import { expect, test } from 'vitest';
import {
  BASE,
  differences,
  judgeCounts,
  OURS,
} from '../../lab/jobs/support/instruction-figures.mjs';

const counts = (ours: number, base: number) => ({ [OURS]: ours, [BASE]: base });
const STORED = counts(1000, 1200);

test('environments are compared by name', () => {
  const stored = { Linux: '7.2.13', fio: 'fio-3.41', QEMU: '10.0.2' };
  expect(differences({ ...stored }, stored)).toEqual([]);
  expect(differences({ ...stored, fio: 'fio-3.42' }, stored)).toEqual([
    'fio is fio-3.42, was fio-3.41',
  ]);
  expect(differences({ Linux: '7.2.13', fio: 'fio-3.41' }, stored)).toEqual([
    'QEMU is not there, was 10.0.2',
  ]);
});

test('in the same environment a count may differ by 2 %', () => {
  expect(judgeCounts(counts(1019, 1200), STORED, true)).toContain('1019 instructions');
  expect(judgeCounts(counts(981, 1200), STORED, true)).toContain('-1.90 %');
  expect(() => judgeCounts(counts(1021, 1200), STORED, true)).toThrow('at most 2 %');
  expect(() => judgeCounts(counts(979, 1200), STORED, true)).toThrow('--store');
});

test('a count that moves together with that of native VDUSE is judged by the ratio', () => {
  expect(judgeCounts(counts(1100, 1320), STORED, true)).toContain('+10.00 %, so ratios: 1.200x');
  expect(() => judgeCounts(counts(1100, 1230), STORED, true)).toThrow('1.118x');
});

test('in another environment the ratio may be less by 6 %, and any amount more', () => {
  expect(judgeCounts(counts(2000, 2280), STORED, false)).toContain('1.140x');
  expect(judgeCounts(counts(1000, 1800), STORED, false)).toContain('+50.00 %');
  expect(() => judgeCounts(counts(1000, 1120), STORED, false)).toThrow('at least -6.00 %');
});

test('a workload that was not measured is a failure', () => {
  for (const isSame of [true, false]) {
    expect(() => judgeCounts(counts(Number.NaN, 1200), STORED, isSame)).toThrow('NaN');
    expect(() => judgeCounts(counts(1000, Number.NaN), STORED, isSame)).toThrow('NaN');
  }
});
