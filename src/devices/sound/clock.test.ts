/** The clock of a stream, by a clock that the test moves. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Request, ServedQueue } from '../../kit/index.js';
import type { ChainWriter } from '../../virtio/index.js';
import type { PcmPort } from './backend.js';
import { ALL_FORMATS, ALL_RATES, FORMATS } from './format.js';
import { PcmStream } from './stream.js';
import { SND_D } from './wire.js';

const PERIOD_MS = 10;
const PERIOD = 1920;
const OFFER = { formats: ALL_FORMATS, rates: ALL_RATES, channelsMin: 1, channelsMax: 2 };
const PARAMS = {
  format: FORMATS.find(({ name }) => name === 'S16_LE')!,
  ...{ rate: 48000, channels: 2, periodBytes: PERIOD, bufferBytes: 4 * PERIOD },
};

/** Times at which messages ended, and at which the stream ran dry. */
let ends: number[];
let xruns: number[];
let stream: PcmStream;
let startedAt: number;

const now = (): number => performance.now() - startedAt;
const queue = { complete: () => void ends.push(now()) } as unknown as ServedQueue;
const port: PcmPort = {
  play: (reader) => {
    const size = reader.remaining;
    reader.skip(size);
    return size;
  },
  record: () => 0,
  close: () => {},
};

function place(size = PERIOD): void {
  const reader = {
    remaining: size,
    skip(count: number) {
      this.remaining -= count;
    },
  };
  const status = { writeU32: () => {} } as unknown as ChainWriter;
  stream.place({ reader, writer: { remaining: 0 } } as unknown as Request, queue, status);
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  [ends, xruns] = [[], []];
  startedAt = performance.now();
  const events = { xrun: () => void xruns.push(now()), health: () => {} };
  stream = new PcmStream(0, SND_D.OUTPUT, OFFER, events);
  stream.set(PARAMS, 0);
  stream.prepare(port);
});
afterEach(() => {
  stream.reset();
  vi.useRealTimers();
});

test('periods end when they should, to the millisecond', () => {
  for (let i = 0; i < 4; i += 1) place();
  stream.start();
  vi.advanceTimersByTime(4 * PERIOD_MS);
  expect(ends).toEqual([10, 20, 30, 40]);
});

test('periods of no whole number of milliseconds do not drift', () => {
  stream.set({ ...PARAMS, rate: 44100, periodBytes: 441 * 4 + 4, bufferBytes: 4 * 1768 }, 0);
  stream.prepare(port);
  for (let i = 0; i < 4; i += 1) place(1768);
  stream.start();
  const count = 1000;
  for (let i = 0; i < count; i += 1) {
    vi.advanceTimersToNextTimer();
    while (ends.length === i) vi.advanceTimersToNextTimer();
    place(1768);
  }
  const wanted = (count * 442 * 1000) / 44100;
  expect(ends[count - 1]).toBeGreaterThanOrEqual(wanted - 0.001);
  expect(ends[count - 1]).toBeLessThan(wanted + 1.001);
  expect(xruns).toEqual([]);
});

test('late by less than a period: the clock runs on', () => {
  place();
  stream.start();
  vi.advanceTimersByTime(18);
  place();
  vi.advanceTimersByTime(2);
  expect(ends).toEqual([10, 20]);
  expect(xruns).toEqual([]);
});

test('late by a period or more: an xrun, once, and a new begin', () => {
  place();
  stream.start();
  vi.advanceTimersByTime(55);
  expect(xruns).toEqual([20]);
  place();
  place();
  vi.advanceTimersByTime(25);
  expect(ends).toEqual([10, 65, 75]);
  vi.advanceTimersByTime(20);
  expect(xruns).toEqual([20, 85]);
  expect(stream.counters).toEqual({ periods: 3, xruns: 2, errors: 0 });
});

test('a process that stood still for long does not play all at once', () => {
  for (let i = 0; i < 8; i += 1) place();
  stream.start();
  vi.advanceTimersByTime(10);
  // A clock that jumps, without the timers that would have run meanwhile.
  const real = performance.now.bind(performance);
  const jump = vi.spyOn(performance, 'now').mockImplementation(() => real() + 500);
  vi.advanceTimersByTime(10);
  expect(xruns).toHaveLength(1);
  vi.advanceTimersByTime(100);
  jump.mockRestore();
  expect(ends.slice(1).map((end) => Math.round(end - 520))).toEqual([0, 10, 20, 30, 40, 50, 60]);
});

test('a pause holds the rest back', () => {
  place();
  stream.start();
  vi.advanceTimersByTime(4);
  stream.stop();
  vi.advanceTimersByTime(100);
  stream.start();
  vi.advanceTimersByTime(6);
  expect(ends).toEqual([110]);
});

test('a last piece is as long as it is', () => {
  place();
  place(PERIOD / 2);
  stream.start();
  vi.advanceTimersByTime(20);
  expect(ends).toEqual([10, 15]);
});

test('a process that stood still for less than the buffer goes on in time, without a gap', () => {
  const large = { ...PARAMS, bufferBytes: 50 * PERIOD };
  stream.set(large, 0);
  stream.prepare(port);
  for (let i = 0; i < 50; i += 1) place();
  stream.start();
  vi.advanceTimersByTime(10);
  // 200 ms without a timer, which a buffer of 500 ms covers.
  const real = performance.now.bind(performance);
  const jump = vi.spyOn(performance, 'now').mockImplementation(() => real() + 200);
  vi.advanceTimersByTime(10);
  expect(ends).toHaveLength(22); // By the clock, and not one more.
  vi.advanceTimersByTime(30);
  expect(ends).toHaveLength(25);
  jump.mockRestore();
  expect(xruns).toEqual([]);
});
