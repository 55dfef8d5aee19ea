import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseStrace } from './strace.js';
import { busiestThread, sortTrace } from './trace-pass.js';
import { parseHistogram, Tracer, totalOf } from './tracing.js';

const CALLS = `# event histogram
#
# trigger info: hist:keys=common_pid,id.syscall:vals=hitcount:sort=hitcount:size=4096 [active]
#

{ common_pid:        161, id: sys_getuid                    [102] } hitcount:          2
{ common_pid:        159, id: sys_io_uring_enter            [426] } hitcount:      62609
{ common_pid:        159, id: sys_close                     [  3] } hitcount:          4

Totals:
    Hits: 64401
    Entries: 146
    Dropped: 0
`;
const WAKE_UPS = `{ pid:        159 } hitcount:          7
{ pid:         54 } hitcount:         55
    Dropped: 0
`;
const STRACE = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.95    0.091508        2859        32        17 openat
 37.81    0.045338        2266        20           epoll_wait
  1.24    0.004474        2237         2         2 newfstatat
------ ----------- ----------- --------- --------- ----------------
100.00    0.254545        2424        54        19 total
`;

const thread = (id: number, name: string, count: number) => [id, new Map([[name, count]])] as const;

describe('histograms of the kernel', () => {
  test('system calls and wake-ups of threads', () => {
    const calls = parseHistogram(CALLS);
    expect([...calls.keys()]).toEqual([161, 159]);
    expect(Object.fromEntries(calls.get(159) ?? [])).toEqual({ io_uring_enter: 62609, close: 4 });
    expect(totalOf(parseHistogram(WAKE_UPS).get(54))).toBe(55);
    expect(totalOf(undefined)).toBe(0);
  });

  test('a histogram that lost events is no count', () => {
    expect(() => parseHistogram(CALLS.replace('Dropped: 0', 'Dropped: 3'))).toThrow(
      'dropped 3 events',
    );
  });

  test('where there is no tracing, there is no tracer', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vlo-tracing-'));
    expect(Tracer.open(folder)).toBeNull();
    rmSync(folder, { recursive: true });
  });
});

describe('whose counts they are', () => {
  const systemCalls = new Map([
    thread(10, 'read', 6),
    thread(11, 'write', 4),
    thread(20, 'poll', 1),
    thread(30, 'clock_nanosleep', 50),
    thread(31, 'io_uring_enter', 900),
  ]);
  const wakeUps = new Map([
    ...[thread(10, 'wakeup', 5), thread(20, 'wakeup', 1), thread(30, 'wakeup', 50)],
    ...[thread(31, 'wakeup', 8), thread(7, 'wakeup', 3), thread(8, 'wakeup', 2)],
  ]);
  const parts = { device: new Set([10, 11]), adapter: new Set([20]), program: [30, 31] };

  test('the working thread of the program is the busiest one', () => {
    expect(busiestThread(systemCalls, [30, 31])).toBe(31);
    expect(busiestThread(systemCalls, [])).toBeNull();
    const kind = (id: number): string => (id === 7 ? 'kworker' : 'other');
    expect(sortTrace({ systemCalls, wakeUps }, parts, kind)).toEqual({
      systemCalls: {
        device: { read: 6, write: 4 },
        adapter: { poll: 1 },
        program: { io_uring_enter: 900 },
      },
      wakeUps: { program: 8, device: 5, adapter: 1, kworker: 3, other: 52 },
    });
  });

  test('without a device process there are no calls of it', () => {
    const none = { device: new Set<number>(), adapter: new Set<number>(), program: [] };
    const sorted = sortTrace({ systemCalls, wakeUps }, none, () => 'other');
    expect(sorted.systemCalls).toEqual({ device: null, adapter: null, program: null });
  });
});

test('calls that strace counted', () => {
  const counts = Object.fromEntries(parseStrace(STRACE));
  expect(counts).toEqual({ openat: 32, epoll_wait: 20, newfstatat: 2 });
  expect(parseStrace('strace: attach: Operation not permitted')).toEqual(new Map());
});
