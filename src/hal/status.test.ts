/** The table of `vlo status`. */
import { expect, test } from 'vitest';
import { type DeviceStatus, formatDuration, formatStatus, type HalStatus } from './status.js';

const DISK: DeviceStatus = {
  ...{ name: 'disk0', type: 'blk', transport: 'user', state: 'ready', note: null },
  backEnd: {
    kind: 'own',
    socket: '/run/vlo/disk0.sock',
    process: { pid: 4711, startTicks: 99 },
    group: null,
  },
  presentation: '/run/vlo/disk0/disk',
  ...{ queues: 1, requests: 123_456, errors: 0, bytesRead: 1, bytesWritten: 2, restarts: 3 },
  uptimeMs: 190_000,
};

function halOf(...devices: DeviceStatus[]): HalStatus {
  return { format: 1, pid: 1, runDirectory: '/run/vlo', config: 'hal.yaml', devices };
}

const rows = (...devices: DeviceStatus[]): string[] => formatStatus(halOf(...devices)).split('\n');

test.each([
  [0, '0s'],
  [999, '0s'],
  [59_999, '59s'],
  [60_000, '1m00s'],
  [190_000, '3m10s'],
  [3_599_999, '59m59s'],
  [3_600_000, '1h00m'],
  [7_500_000, '2h05m'],
  [86_399_999, '23h59m'],
  [86_400_000, '1d00h'],
  [356_400_000, '4d03h'],
])('%i ms are %s', (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});

test('columns stand below their titles, numbers to the right', () => {
  const other: DeviceStatus = {
    ...DISK,
    ...{ name: 'a-rather-long-name', requests: 7, presentation: null },
  };
  const [head, ...lines] = rows(DISK, other);
  expect(lines).toHaveLength(2);
  for (const [name, text] of [
    ['STATE', 'ready'],
    ['BACK END', 'own (pid 4711)'],
  ] as const) {
    for (const line of lines) expect(line.indexOf(text)).toBe(head!.indexOf(name));
  }
  const end = head!.indexOf('REQUESTS') + 'REQUESTS'.length;
  expect(lines[0]!.slice(0, end)).toMatch(/ 123456$/);
  expect(lines[1]!.slice(0, end)).toMatch(/ 7$/);
  expect(lines[0]).toMatch(/ 3 {3}3m10s {2}\/run\/vlo\/disk0\/disk$/);
  expect(lines[1]).toMatch(/ -$/);
});

test('no line ends in blanks', () => {
  for (const line of rows(DISK, { ...DISK, presentation: '/a' })) expect(line).toBe(line.trimEnd());
});

test('the back end says who runs it', () => {
  const texts = (backEnd: Partial<DeviceStatus['backEnd']>): string =>
    rows({ ...DISK, backEnd: { ...DISK.backEnd, ...backEnd } })[1]!;
  expect(texts({ kind: 'command' })).toContain('  command (pid 4711)  ');
  expect(texts({ kind: 'backend', process: null })).toContain('  /run/vlo/disk0.sock  ');
  expect(texts({ group: 'small' })).toContain('  group small (pid 4711)  ');
  expect(texts({ process: null })).toMatch(/ {2}own {2,}1 /);
});

test('notes follow the table, and a device that is not attached has no transport', () => {
  const lines = rows({ ...DISK, state: 'failed', transport: null, note: 'VLO_DEVICE_START: x' });
  expect(lines[1]).toMatch(/failed {2}- /);
  expect(lines.slice(2)).toEqual(['disk0: VLO_DEVICE_START: x']);
});
