import { expect, test } from 'vitest';
import { LogLimit } from './log-limit.js';

test('a flood is cut, and says how much of it is missing', () => {
  const lines: string[] = [];
  let now = 0;
  const limit = new LogLimit(
    (line) => lines.push(line),
    () => now,
  );
  for (let i = 0; i < 1000; i += 1) limit.log(`${i}`);
  expect(lines).toHaveLength(201);
  expect(lines.at(-2)).toBe('199');
  expect(lines.at(-1)).toBe('more than 10 lines a second: some are left out');
  now += 50; // Half of a line.
  limit.log('not yet');
  now += 50;
  limit.log('again');
  expect(lines.slice(201)).toEqual(['801 lines were left out', 'again']);
});

test('lines that come at leisure are all there', () => {
  const lines: string[] = [];
  let now = 0;
  const limit = new LogLimit(
    (line) => lines.push(line),
    () => now,
  );
  for (let i = 0; i < 1000; i += 1) {
    limit.log(`${i}`);
    now += 100;
  }
  expect(lines).toHaveLength(1000);
});
