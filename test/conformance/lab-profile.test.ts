/** The lab's tables of where instructions are spent: lab/host/profile.mjs. */
import { expect, test } from 'vitest';
import { attribute, Maps, parseCounts, Symbols } from '../../lab/host/profile.mjs';

const KALLSYMS = [
  'ffffffff81000000 T _text',
  'ffffffff81001000 T memcpy_orig',
  'ffffffff81002000 t submit_bio',
  'ffffffff81003000 D some_data',
  'ffffffffc0000000 t vlo_notify\t[virtio_loopback]',
  '',
].join('\n');

const FIO_MAPS = [
  '555555554000-555555600000 r-xp 00000000 00:1b 7 /usr/bin/fio',
  '7ffff7fc0000-7ffff7fc2000 r-xp 00000000 00:00 0 [vdso]',
  '7ffff0000000-7ffff0001000 rwxp 00000000 00:00 0 ',
].join('\n');

const COUNTS = [
  'task 0 0 unknown',
  'task 1 40 fio',
  'task 2 30 qemu-storage-da',
  'task 3 31 kworker/0:1 x',
  'task 4 0 swapper/1',
  'block ffffffff81001008 1 100',
  'block ffffffff81002000 1 50',
  'block ffffffffc0000010 2 20',
  'block ffffffffc0000010 3 4',
  'block ffffffff81002004 4 6',
  'block ffffffff81002004 0 2',
  'block 555555554010 1 30',
  'block 7ffff0000800 1 8',
  'block 555555554010 2 10',
  'end',
  '',
].join('\n');

const symbols = new Symbols(KALLSYMS);

test('an address belongs to the function before it', () => {
  expect(symbols.at(0xffffffff81001fffn).name).toBe('memcpy_orig');
  expect(symbols.at(0xffffffff81002000n).name).toBe('submit_bio');
  expect(symbols.at(0xffffffff81003010n).name).toBe('submit_bio');
  expect(symbols.at(0xffffffffc0000010n)).toMatchObject({ module: 'virtio_loopback' });
  expect(symbols.at(0xffffffff80000000n).name).toBe('unknown');
});

test('an address belongs to the file that is mapped there', () => {
  const maps = new Maps(FIO_MAPS);
  expect(maps.at(0x555555554010n)).toBe('fio');
  expect(maps.at(0x7ffff7fc0000n)).toBe('[vdso]');
  expect(maps.at(0x7ffff0000800n)).toBe('code made at run time');
  expect(maps.at(0x1000n)).toBeUndefined();
});

test('code that two processes share is found by the map of either', () => {
  const counts = parseCounts('task 1 30 device\nblock 555555554010 1 6\nblock 10 1 2\nend\n');
  const processes = { device: 30, fio: 40 };
  const maps = { device: '555555554000-555555600000 rw-p 00000000 00:00 0', fio: FIO_MAPS };
  expect(attribute(counts, symbols, { requests: 2, processes, maps }).files).toEqual({
    'device: fio': 3,
    'device: code made at run time': 1,
  });
});

test('counts that are not complete are refused', () => {
  expect(() => parseCounts('task 0 0 unknown\nblock 1 0 1\n')).toThrow('not complete');
});

test('instructions of a request by task, part, function and file', () => {
  const profile = attribute(parseCounts(COUNTS), symbols, {
    requests: 2,
    processes: { fio: 40, device: 30, adapter: null },
    maps: { fio: FIO_MAPS },
  });
  expect(profile.total).toBe(115);
  expect(profile.tasks).toEqual({
    'fio, kernel': 75,
    'fio, user': 19,
    'device, kernel': 10,
    'device, user': 5,
    'idle task, kernel': 3,
    'kernel worker, kernel': 2,
    'other, kernel': 1,
  });
  expect(profile.parts).toEqual({
    'copying and clearing': 50,
    'block layer': 29,
    'user space of fio': 19,
    virtio_loopback: 12,
    'user space of device': 5,
  });
  expect(profile.functions).toEqual({
    memcpy_orig: 50,
    submit_bio: 29,
    'vlo_notify [virtio_loopback]': 12,
  });
  expect(profile.files).toEqual({
    'fio: fio': 15,
    'device: programs': 5,
    'fio: code made at run time': 4,
  });
});
