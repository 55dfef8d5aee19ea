/** The lab's judge of a guest's kernel log. */
import { describe, expect, test } from 'vitest';
import { findFaults, findLeaks, mergeLogs } from '../../lab/host/kernel-log.mjs';

const at = (seconds: number, text: string) => `[${seconds.toFixed(6).padStart(12)}] ${text}`;

describe('findFaults', () => {
  test.each([
    'WARNING: CPU: 0 PID: 1 at kernel/dma/debug.c:1 check_unmap',
    'BUG: kernel NULL pointer dereference, address: 0000000000000008',
    'BUG: KASAN: slab-use-after-free in vlo_call_wake+0x10/0x40',
    'WARNING: possible circular locking dependency detected',
    'inconsistent lock state',
    'INFO: task kworker/0:1:9 blocked for more than 60 seconds.',
    'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:',
    'watchdog: BUG: soft lockup - CPU#0 stuck for 26s!',
    'node[100]: segfault at 0 ip 0000000000000000 sp 00007ffd error 14',
    'refcount_t: underflow; use-after-free.',
    'BUG: sleeping function called from invalid context at mm/slab.h:1',
    'Out of memory: Killed process 100 (node)',
    'kmemleak: Kernel memory leak detector disabled',
  ])('%s', (text) => {
    const faults = findFaults([at(1, 'quiet'), at(2, text), at(3, 'more')].join('\n'));
    expect(faults.map(({ line }) => line)).toEqual([at(2, text)]);
    expect(faults[0]!.story).toEqual([at(2, text), at(3, 'more')]);
  });

  test.each([
    'virtio_blk virtio0: [vda] 131072 512-byte logical blocks (67.1 MB/64.0 MiB)',
    'I/O error, dev vda, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2',
    'clocksource: timekeeping watchdog on CPU1: Marking clocksource tsc as unstable',
    'kasan: KernelAddressSanitizer initialized',
    'KFENCE: initialized - using 2097152 bytes for 255 objects',
  ])('not: %s', (text) => expect(findFaults(at(1, text))).toEqual([]));

  test('of data races, only those that our module is part of', () => {
    const race = (frame: string) => [
      at(1, 'BUG: KCSAN: data-race in one / other'),
      at(1, ''),
      at(1, 'write to 0xffff8880 of 8 bytes by task 487 on cpu 0:'),
      at(1, ` ${frame}`),
      at(1, '='.repeat(66)),
    ];
    const theirs = race('tick_sched_timer+0x1d/0x30');
    const ours = race('vlo_kick+0x1d/0x30 [virtio_loopback]');
    expect(findFaults(theirs.join('\n'))).toEqual([]);
    // The end of a report ends the search for our module in it.
    expect(findFaults([...theirs, ...ours].join('\n'))).toEqual([{ line: ours[0], story: ours }]);
    expect(findFaults([...theirs, at(2, 'WARNING: something else')].join('\n'))).toHaveLength(1);
    // A guest may end in the middle of one.
    expect(findFaults(ours.slice(0, -1).join('\n'))).toHaveLength(1);
  });

  test('what follows a fault belongs to it, until it is told', () => {
    const story = Array.from({ length: 29 }, (_, i) => at(2, `WARNING: part ${i}`));
    const faults = findFaults(
      [at(1, 'BUG: first'), ...story, at(3, 'BUG: second'), ''].join('\r\n'),
    );
    expect(faults.map(({ line }) => line)).toEqual([at(1, 'BUG: first'), at(3, 'BUG: second')]);
  });
});

test('findLeaks: those with our module in them, or with code that is gone', () => {
  const leak = (frame: string) =>
    `unreferenced object 0xffff888 (size 64):\n  backtrace:\n${frame}\n`;
  const report = [
    leak('    vlo_create+0x20/0x400 [virtio_loopback]'),
    leak('    acpi_init+0x20/0x400'),
    leak('    0xffffffffc0001234'),
  ].join('');
  expect(findLeaks(report).map(({ story }) => story.at(-1)!.trim())).toEqual([
    'vlo_create+0x20/0x400 [virtio_loopback]',
    '0xffffffffc0001234',
  ]);
  expect(findLeaks('')).toEqual([]);
});

describe('mergeLogs', () => {
  const copy = [at(1, 'boot'), at(2, 'job'), ''].join('\n');

  test('the copy, then what the console had later', () => {
    const console = [at(2, 'job'), at(3, 'after'), 'no time'].join('\r\n');
    expect(mergeLogs(console, copy).split('\n')).toEqual([
      at(1, 'boot'),
      at(2, 'job'),
      at(3, 'after'),
    ]);
  });

  test('a guest that died left no copy', () => {
    expect(mergeLogs(at(3, 'Kernel panic'), '')).toBe(at(3, 'Kernel panic'));
  });
});
