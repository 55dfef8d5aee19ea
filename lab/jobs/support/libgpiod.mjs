/** Lines of a GPIO chip as libgpiod's tools see them. */

import { setTimeout as sleep } from 'node:timers/promises';
import { run, start, waitFor } from './programs.mjs';

/** Long enough for an edge to pass all of the way, and for its interrupt to be unmasked again. */
export const EDGE_MS = 150;

/** What libgpiod's gpioinfo says of a line. */
export async function info(chip, line) {
  const { stdout } = await run(['gpioinfo', '-c', chip, `${line}`]);
  return stdout;
}

export const get = async (chip, line) => {
  const { stdout } = await run(['gpioget', '--numeric', '-c', chip, `${line}`]);
  return Number(stdout);
};

export function expectEqual(seen, wanted, what) {
  const [a, b] = [seen, wanted].map((value) => JSON.stringify(value));
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

/** gpiomon on a line, watching; its edges so far as 1 (rising) and 2. */
export async function monitor(chip, line, count, edges = 'both') {
  const program = start([
    ...['gpiomon', '-c', chip, '--edges', edges, '--num-events', `${count}`],
    ...['--format', '%e', `${line}`],
  ]);
  await waitFor(
    async () => {
      if (program.status !== null) throw new Error(`gpiomon ended: ${program.stderr}`);
      return /edges=/.test(await info(chip, line));
    },
    'edge detection of gpiomon',
    30_000,
  );
  return program;
}

export async function edgesOf(program) {
  await Promise.race([program.ended, sleep(20_000)]);
  if (program.status === null) throw new Error(`gpiomon waits on; it saw '${program.stdout}'`);
  return program.stdout.trim().split(/\s+/).map(Number);
}

/** Drives a line up and down, slowly, while gpiomon watches it. */
export async function watchEdges(chip, line, edges, wanted, drive) {
  const program = await monitor(chip, line, wanted.length, edges);
  await sleep(EDGE_MS);
  for (const value of [1, 0, 1, 0]) {
    await drive(value);
    await sleep(EDGE_MS);
  }
  expectEqual(await edgesOf(program), wanted, `${edges} edges`);
}

/** Options of a device process that simulates a chip. */
export const SIMULATED = ['--device-list', 's8', '--names', 'led,button,,in'];

/**
 * The tools on such a chip.
 * @param {string} chip `gpiochip1`, for example
 * @param {{ say: (command: string) => Promise<any> }} control its other side
 */
export async function useSimulatedChip(chip, control) {
  const { stdout: list } = await run(['gpiodetect']);
  if (!new RegExp(`${chip} \\[.*\\] \\(8 lines\\)`).test(list)) throw new Error(list);
  for (const [line, name] of [
    [0, '"led"'],
    [1, '"button"'],
    [2, 'unnamed'],
    [3, '"in"'],
  ]) {
    const row = await info(chip, line);
    if (!row.includes(name)) throw new Error(`line ${line} is '${row}'`);
  }
  const holder = start(['gpioset', '-c', chip, 'led=1']);
  await waitFor(async () => (await control.say('get led')).values[0] === 1, 'lit LED', 20_000);
  if (!/output/.test(await info(chip, 0))) throw new Error('the LED is no output');
  await holder.stop();
  const [led] = (await control.say('info')).lines;
  expectEqual(led.direction, 'none', 'direction after gpioset');
  await control.say('set button=1');
  expectEqual(await get(chip, 'button'), 1, 'button');
  await control.say('set button=0');
  expectEqual(await get(chip, 'button'), 0, 'button');
  const drive = (value) => control.say(`set button=${value}`);
  await watchEdges(chip, 'button', 'both', [1, 2, 1, 2], drive);
  await watchEdges(chip, 'button', 'rising', [1, 1], drive);
  await watchEdges(chip, 'button', 'falling', [2, 2], drive);
  await control.say('wire led in');
  const program = await monitor(chip, 'in', 5);
  await run(['gpioset', '-c', chip, '-t', '200ms,200ms,200ms,200ms,0', 'led=1']);
  const edges = await edgesOf(program);
  expectEqual(edges, [1, 2, 1, 2, 1], 'edges over a wire');
  return `${chip}: names, set, get, edges of all kinds`;
}
