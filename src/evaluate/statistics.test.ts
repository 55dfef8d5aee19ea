import { describe, expect, test } from 'vitest';
import { median, ratio, spreadOf } from './statistics.js';

describe('statistics', () => {
  test('the median of an odd and of an even number of values', () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([7])).toBe(7);
    expect(median([])).toBeNaN();
  });

  test('values are not reordered, and compared as numbers', () => {
    const values = [100, 9, 20];
    expect(median(values)).toBe(20);
    expect(values).toEqual([100, 9, 20]);
  });

  test('the spread leaves out what is not known', () => {
    expect(spreadOf([3, null, 1, Number.NaN, 2])).toEqual({ median: 2, min: 1, max: 3 });
    expect(spreadOf([null, Number.NaN])).toBeNull();
    expect(spreadOf([])).toBeNull();
  });

  test('nothing is divided by nothing', () => {
    expect(ratio(6, 4)).toBe(1.5);
    expect(ratio(0, 4)).toBe(0);
    expect(ratio(6, 0)).toBeNull();
    expect(ratio(null, 4)).toBeNull();
    expect(ratio(undefined, 4)).toBeNull();
  });
});
