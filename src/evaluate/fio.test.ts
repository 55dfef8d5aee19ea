import { describe, expect, test } from 'vitest';
import { fioCommand, parseFio } from './fio.js';

const idle = { total_ios: 0, iops: 0, bw_bytes: 0, lat_ns: { min: 0, max: 0 } };

function output(job: object): string {
  const jobs = [{ jobname: 'x', error: 0, read: idle, write: idle, ...job }];
  return JSON.stringify({ 'fio version': 'fio-3.41', jobs, disk_util: [] });
}

const percentile = { '50.000000': 19072, '99.000000': 166912, '99.900000': 4489216 };
const busy = { total_ios: 45272, iops: 22624.687656, bw_bytes: 92672767, lat_ns: { percentile } };

describe('fio', () => {
  test('its JSON', () => {
    expect(parseFio(output({ read: busy }), 'randread')).toEqual({
      ...{ version: 'fio-3.41', requests: 45272, iops: 22624.687656, bytesPerSecond: 92672767 },
      latencyUs: { p50: 19.072, p99: 166.912, p999: 4489.216 },
    });
    expect(parseFio(output({ write: busy }), 'write').requests).toBe(45272);
  });

  test('warnings in front of it, and the latency of completion where that is all there is', () => {
    const { lat_ns, ...rest } = busy;
    const text = `fio: a warning\n${output({ read: { ...rest, clat_ns: lat_ns } })}`;
    expect(parseFio(text, 'read').latencyUs.p50).toBe(19.072);
  });

  test.each([
    ['no JSON', 'fio: engine libaio not loadable', 'wrote no result: fio: engine'],
    ['other JSON', '{"jobs":[]}', 'wrote no result'],
    ['an I/O error', output({ error: 5, read: busy }), 'errno 5'],
    ['nothing done', output({}), 'no request was finished'],
    ['no percentiles', output({ read: { ...busy, lat_ns: {} } }), 'no percentile 50.000000'],
  ])('%s', (_name, text, message) => {
    expect(() => parseFio(text, 'randread')).toThrow(message);
  });

  test('the command', () => {
    const command = fioCommand({
      ...{ node: '/dev/vda', engine: 'libaio', rampMs: 1000, runMs: 2500, output: '/tmp/f' },
      work: { kind: 'blk', rw: 'randread', blockSize: 4096, depth: 32 },
    });
    expect(command).toEqual(
      expect.arrayContaining([
        ...['fio', '--filename=/dev/vda', '--ioengine=libaio', '--direct=1', '--rw=randread'],
        ...['--bs=4096', '--iodepth=32', '--ramp_time=1000ms', '--runtime=2500ms', '--time_based'],
      ]),
    );
  });
});
