import { describe, expect, test } from 'vitest';
import { checkBenchOptions } from './options.js';
import { interleave, TRANSPORTS, WORKLOADS } from './plan.js';
import { parseResult, readResult } from './result.js';
import { failuresOf } from './run.js';
import { judge, summarize } from './summary.js';
import { resultOf, rowOf, sampleOf, TRACE } from './test-utils.js';

const given = {
  ...{ rounds: '5', seconds: '3', size: '64MiB', queues: '1', device: 'ours', dir: '/dev/shm' },
  trace: true,
};

describe('options', () => {
  test('the defaults', () => {
    expect(checkBenchOptions(given)).toEqual({
      ...{ rounds: 5, seconds: 3, size: 2 ** 26, queues: 1, device: 'ours', dir: '/dev/shm' },
      ...{ transports: TRANSPORTS, workloads: WORKLOADS, trace: true },
    });
  });

  test('lists keep the order of the plan', () => {
    const { transports, workloads } = checkBenchOptions({
      ...{ ...given, transports: 'vduse, loopback-bounce', workloads: 'rng,randread-4k-1' },
    });
    expect(transports.map(({ id }) => id)).toEqual(['loopback-bounce', 'vduse']);
    expect(workloads.map(({ id }) => id)).toEqual(['randread-4k-1', 'rng']);
  });

  test.each([
    ['rounds', '0'],
    ['rounds', '1.5'],
    ['seconds', '0.1'],
    ['seconds', '1e9'],
    ['seconds', ''],
    ['size', '64'],
    ['size', '65537KiB'],
    ['size', 'many'],
    ['queues', '65'],
    ['device', 'theirs'],
    ['transports', 'vduse,virtio'],
    ['workloads', ''],
  ])('--%s %s is refused', (name, text) => {
    expect(() => checkBenchOptions({ ...given, [name]: text })).toThrow(`--${name}`);
  });
});

test('rounds are interleaved', () => {
  const steps = interleave(WORKLOADS.slice(0, 2), 2, ['a', 'b']);
  const text = steps.map(({ workload, round, subject }) => {
    return `${WORKLOADS.indexOf(workload)}${round}${subject}`;
  });
  expect(text.join(' ')).toBe('00a 00b 01a 01b 10a 10b 11a 11b');
});

describe('figures', () => {
  test('counts are for one request', () => {
    const summary = summarize([sampleOf(100, 2), sampleOf(200, 3), sampleOf(300, 4)], TRACE);
    expect(summary.iops).toEqual({ median: 200, min: 100, max: 300 });
    expect(summary.contextSwitches).toEqual({ median: 3, min: 2, max: 4 });
    expect(summary.cpuDevice.median).toBe(10);
    expect(summary.adapterWakeUps.median).toBe(0);
    expect(summary.irqWork.median).toBe(1);
    expect(summary.timer.median).toBe(2);
    expect(summary.interrupts.median).toBe(1);
    expect(summary.wakeUps.median).toBe(2);
    expect(summary.deviceCalls.median).toBe(2);
    expect(summary.deviceClockCalls.median).toBe(5);
    expect(summary.adapterCalls.median).toBe(0);
  });

  test('what was not counted is not there', () => {
    const sample = sampleOf(100);
    const counts = { ...sample.window.counts, device: null, adapter: null };
    const summary = summarize([{ ...sample, window: { ...sample.window, counts } }], null);
    expect(Object.keys(summary)).not.toEqual(
      expect.arrayContaining(['cpuDevice', 'adapterWakeUps', 'wakeUps', 'deviceCalls']),
    );
  });

  test('bars', () => {
    const verdicts = judge(resultOf());
    const of = (metric: string, transport: string) =>
      verdicts.find((verdict) => verdict.metric === metric && verdict.transport === transport);
    expect(of('iops', 'loopback-bounce')).toMatchObject({
      value: 1.4,
      isMet: true,
      isAimMet: true,
    });
    expect(of('bytesPerSecond', 'loopback-direct')).toMatchObject({ isMet: true, isAimMet: false });
    expect(of('contextSwitches', 'loopback-bounce')).toMatchObject({ value: 1, isMet: false });
    expect(of('wakeUps', 'loopback-direct')).toMatchObject({ value: 2, isMet: true });
    expect(of('adapterWakeUps', 'loopback-bounce')).toMatchObject({ value: 0, isMet: true });
    expect(judge(resultOf({ rows: [rowOf('randread-4k-1', 'vduse', 5)] }))).toEqual([]);
  });
});

describe('the file', () => {
  test('what is written is read again', () => {
    const result = resultOf();
    expect(parseResult(JSON.stringify(result), 'a.json')).toEqual(result);
  });

  test.each([
    ['no JSON', '{', 'not JSON'],
    ['another kind', '{"kind":"else"}', 'kind'],
    ['another version', JSON.stringify({ ...resultOf(), version: 2 }), 'version'],
    ['a field of another type', JSON.stringify({ ...resultOf(), seconds: 'x' }), 'seconds'],
    ['no object', '[]', 'no such result'],
  ])('%s', (_name, text, message) => {
    expect(() => parseResult(text, 'a.json')).toThrow(message);
  });

  test('a file that is not there', () => {
    expect(() => readResult('/nowhere/a.json')).toThrow(
      "'/nowhere/a.json' cannot be read (ENOENT)",
    );
  });

  test('failures are told, what was skipped is none', () => {
    const result = resultOf();
    const [row] = result.rows;
    expect(failuresOf(result)).toEqual([]);
    const failed = { ...row, state: 'failed', reason: 'it broke' } as const;
    expect(failuresOf(resultOf({ rows: [failed] }))).toEqual([
      'randread-4k-1 on loopback-bounce: it broke',
    ]);
  });
});
