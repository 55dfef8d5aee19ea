/** When a process that died is started again. */
import { expect, test } from 'vitest';
import { RestartPolicy } from './restart-policy.js';

const SERVED = 1000;

/** Lets a process die whenever the policy has it started; how often, and until when. */
function dieUntilGivenUp(policy: RestartPolicy, startMs = 10): { count: number; atMs: number } {
  let atMs = startMs;
  for (let count = 1; count < 10_000; count += 1) {
    const delayMs = policy.died(atMs, 0);
    if (delayMs === null) return { count, atMs };
    atMs += delayMs + startMs;
  }
  return { count: Number.POSITIVE_INFINITY, atMs };
}

test('a process that served is started again at once', () => {
  const policy = new RestartPolicy({ limit: 3, withinMs: 60_000 });
  expect([1, 2, 3].map((at) => policy.died(at, SERVED))).toEqual([0, 0, 0]);
});

test('the death beyond the limit within the time is the last', () => {
  const policy = new RestartPolicy({ limit: 2, withinMs: 1000 });
  expect(policy.died(0, SERVED)).toBe(0);
  expect(policy.died(999, SERVED)).toBe(0);
  // The first is 1000 ms old and counts no more.
  expect(policy.died(1000, SERVED)).toBe(0);
  expect(policy.died(1001, SERVED)).toBeNull();
});

test('never: the first death is the last', () => {
  expect(new RestartPolicy({ limit: 0, withinMs: 60_000 }).died(0, SERVED)).toBeNull();
});

test('pauses grow while a process hardly serves, and are forgotten when it serves', () => {
  const policy = new RestartPolicy({ limit: 1_000_000, withinMs: 60_000 });
  const delays = [0, 1, 2, 3, 4, 5, 6, 7].map((at) => policy.died(at, 99));
  expect(delays).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  expect(policy.died(8, 100)).toBe(0);
  expect(policy.died(9, 0)).toBe(100);
});

test('what somebody asks for starts without a past', () => {
  const policy = new RestartPolicy({ limit: 1, withinMs: 60_000 });
  expect(policy.died(0, 0)).toBe(100);
  policy.forgive();
  expect(policy.died(1, 0)).toBe(100);
  expect(policy.died(2, 0)).toBeNull();
});

test.each([
  [20, 60_000],
  [5, 10_000],
  [1, 1000],
  [100, 60_000],
])('what never starts is given up: %i deaths in %i ms', (limit, withinMs) => {
  const { count, atMs } = dieUntilGivenUp(new RestartPolicy({ limit, withinMs }));
  expect(count).toBe(limit + 1);
  expect(atMs).toBeLessThan(withinMs);
});

test('a limit that no pauses can reach means for ever, slowly', () => {
  const policy = new RestartPolicy({ limit: 1_000_000, withinMs: 60_000 });
  expect(dieUntilGivenUp(policy).count).toBe(Number.POSITIVE_INFINITY);
});
