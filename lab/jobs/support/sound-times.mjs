/** When a sound card takes periods, seen from outside: the writes of aplay, by strace. */

import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './programs.mjs';

/** Fewer periods than that tell nothing. */
const PERIODS_MIN = 100;
const ATTEMPTS = 3;

/**
 * Times in ms at which aplay's writes of one period each were taken, once its buffer was full. It
 * gives up where the kernel plays nothing for longer than its buffer lasts, as every card of a busy
 * emulated machine may, the kernel's own too: what was played until then is a measurement as well.
 */
export async function frameTimes(device, format) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const times = await timesOfOne(device, format);
    if (times.length >= PERIODS_MIN) return times;
  }
  throw new Error(`${device}: aplay gave up ${ATTEMPTS} times before ${PERIODS_MIN} periods`);
}

async function timesOfOne(device, { rate, periodSize, seconds }) {
  const log = join(mkdtempSync('/tmp/times-'), 'log');
  const command = [
    ...['strace', '-ttt', '-T', '-e', 'trace=ioctl', '-o', log],
    ...['aplay', '-q', '-D', device, '-f', 'S16_LE', '-r', `${rate}`, '-c', '2', '-t', 'raw'],
    ...['-d', `${seconds}`, `--period-size=${periodSize}`, `--buffer-size=${periodSize * 8}`],
    '/dev/zero',
  ];
  await run(command, { status: null });
  const times = [];
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const [, begin, duration] = /^(\d+\.\d+) ioctl\(.*WRITEI.*<(\d+\.\d+)>$/.exec(line) ?? [];
    if (begin !== undefined) times.push((Number(begin) + Number(duration)) * 1000);
  }
  // The first ones fill the buffer.
  return times.slice(12);
}

/** How far the intervals are from what they should be: standard deviation and worst, in ms. */
export function spread(times, periodMs) {
  const misses = times.slice(1).map((time, index) => time - times[index] - periodMs);
  const square = misses.reduce((sum, miss) => sum + miss * miss, 0) / misses.length;
  const worst = Math.max(...misses.map(Math.abs));
  return { deviation: Math.sqrt(square), worst, count: times.length };
}
