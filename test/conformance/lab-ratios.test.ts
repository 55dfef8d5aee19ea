/** How the lab compares a ratio of instructions with the stored one. */
import { expect, test } from 'vitest';
import { judgeRatio, nearestSeries, seriesOf } from '../../lab/jobs/support/instruction-ratios.mjs';

test.each([
  ['7.2.13+deb14-amd64', '7.2'],
  ['6.12.118+deb13-rt-amd64', '6.12'],
  ['5.10.0-35-amd64', '5.10'],
])('%s is of series %s', (release, series) => expect(seriesOf(release)).toBe(series));

test("a kernel's own series, or else the newest", () => {
  const stored = { 6.12: {}, 6.9: {}, 7.2: {}, '10.1': {} };
  expect(nearestSeries(stored, '6.9')).toBe('6.9');
  expect(nearestSeries(stored, '7.4')).toBe('10.1');
  expect(nearestSeries({}, '7.4')).toBeUndefined();
});

test('the same series may differ by 2 %', () => {
  expect(judgeRatio(1.019, 1, true)).toBe('1.019, stored 1: 1.90 %');
  expect(judgeRatio(0.981, 1, true)).toContain('-1.90 %');
  expect(() => judgeRatio(1.021, 1, true)).toThrow('more than 2 %');
  expect(() => judgeRatio(0.979, 1, true)).toThrow('--store');
});

test('another series may differ by more', () => {
  expect(judgeRatio(1.05, 1, false)).toContain('5.00 %');
  expect(() => judgeRatio(0.93, 1, false)).toThrow('more than 6 %');
});

test('a ratio that was not measured is a failure', () => {
  expect(() => judgeRatio(Number.NaN, 1, true)).toThrow('NaN');
});
