/** How the lab reads what the kernel module's own tests print. */
import { expect, test } from 'vitest';
import { readTap } from '../../lab/jobs/support/selftests.mjs';

const TAP = `TAP version 13
# RUN one
ok 1 one
# RUN two
# line 7: x is 1, expected 2
# line 8: y is 1, expected 2
not ok 2 two
# RUN three
# SKIP why
ok 3 three # SKIP
1..3
# Totals: pass:1 fail:1 skip:1
`;

test('results with what each said', () => {
  expect(readTap(TAP)).toEqual([
    { name: 'one', outcome: 'ok', words: '' },
    {
      name: 'two',
      outcome: 'failed',
      words: 'line 7: x is 1, expected 2; line 8: y is 1, expected 2',
    },
    { name: 'three', outcome: 'skipped', words: 'SKIP why' },
  ]);
});

test.each([
  ['no output', ''],
  ['no tests', 'TAP version 13\n1..0\n'],
  ['an end before the plan', TAP.slice(0, TAP.indexOf('1..3'))],
  ['fewer than the plan says', TAP.replace('ok 1 one\n', '')],
])('%s is an error', (_, tap) => {
  expect(() => readTap(tap)).toThrow(/and the plan is/);
});
