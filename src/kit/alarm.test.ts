import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Alarm } from './alarm.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('an alarm rings once, and can be set anew or cleared', () => {
  let count = 0;
  const alarm = new Alarm(() => {
    count += 1;
  });
  alarm.set(10.2);
  expect(alarm.isSet).toBe(true);
  vi.advanceTimersByTime(10);
  expect(count).toBe(0); // Never too early.
  vi.advanceTimersByTime(1);
  expect(count).toBe(1);
  expect(alarm.isSet).toBe(false);
  alarm.set(10);
  vi.advanceTimersByTime(9);
  alarm.set(10);
  vi.advanceTimersByTime(9);
  expect(count).toBe(1);
  alarm.clear();
  alarm.clear();
  vi.advanceTimersByTime(100);
  expect([count, alarm.isSet]).toEqual([1, false]);
});

test('an alarm keeps no process alive', () => {
  vi.useRealTimers();
  const alarm = new Alarm(() => {});
  const before = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  alarm.set(60_000);
  const after = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  alarm.clear();
  expect(after).toBe(before);
});

test('an alarm may be set again when it rings', () => {
  let count = 0;
  const alarm: Alarm = new Alarm(() => {
    count += 1;
    if (count < 3) alarm.set(5);
  });
  alarm.set(5);
  vi.advanceTimersByTime(100);
  expect([count, alarm.isSet]).toEqual([3, false]);
});
