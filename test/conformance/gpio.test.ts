/** The example of GPIO lines, used through `vlo gpio` as its comments say. */
import { copyFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { sayToLines } from '../../src/devices/index.js';
import { HalFolder } from './vlo-process.js';

let hal: HalFolder;
beforeEach(() => {
  hal = new HalFolder();
});
afterEach(() => hal.remove());

const gpio = (...words: string[]) => hal.run('gpio', ...words, '--run-dir', hal.runDir);

async function say(command: string): Promise<void> {
  for await (const _ of sayToLines(hal.file('lines.sock'), command)) return;
}

test('hal-gpio.yaml comes up, and its lines are used; a restart is not noticed', async () => {
  const example = fileURLToPath(new URL('../../examples/hal-gpio.yaml', import.meta.url));
  copyFileSync(example, hal.file('hal.yaml'));
  const up = await hal.up();
  expect((await hal.device('panel0')).presentation).toBe(hal.file('run', 'panel0', 'lines'));
  expect(await gpio('set', 'led=1', '3=0')).toEqual({ status: 0, out: '', err: '' });
  expect((await gpio('get', 'led', 'button', '--json')).out).toBe('{"values":[1,0]}\n');
  const info = await gpio('info', '--name', 'panel0');
  expect(info.out.split('\n').slice(0, 2)).toEqual([
    '  0 "led"                out   1',
    '  1 "button"             none  0',
  ]);
  const watch = hal.start('gpio', 'watch', 'button', '--count', '4', '--run-dir', hal.runDir);
  await expect
    .poll(async () => (await gpio('info')).out, { timeout: 20_000 })
    .toContain('"button"             in    0 both');
  await say('set button=1');
  await expect.poll(() => watch.stdout).toBe('rising  1 "button"\n');
  await say('set button=0');
  await expect.poll(() => watch.stdout).toBe('rising  1 "button"\nfalling 1 "button"\n');
  expect((await hal.ask('restart', 'panel0')).status).toBe(0);
  // The new process is told of the output and of the watch.
  await expect.poll(async () => (await gpio('get', 'led')).out, { timeout: 20_000 }).toBe('1\n');
  await say('set button=1');
  await expect.poll(() => watch.stdout.match(/rising/g)).toHaveLength(2);
  await say('set button=0');
  expect(await watch.ended).toBe(0);
  expect(watch.stdout.match(/falling/g)).toHaveLength(2);
  expect(await gpio('get', 'lamp')).toMatchObject({
    status: 2,
    err: expect.stringContaining("vlo: VLO_REQUEST_INVALID: there is no line 'lamp'"),
  });
  const missing = await gpio('info', '--name', 'panel7');
  expect(missing.err).toContain('vlo: VLO_NAME_UNKNOWN: which GPIO device is meant?');
  expect(await up.stop()).toBe(0);
  expect((await gpio('info')).err).toContain('VLO_HAL_NOT_RUNNING');
}, 90_000);

test('a back end that nobody attached is used directly; what is set is held', async () => {
  const socket = hal.file('gpio.sock');
  const server = hal.start('serve', 'gpio', '-s', socket, '-l', 's2', '--control', 'lines.sock');
  await server.says('ready on');
  const holder = hal.start('gpio', 'set', '1=1', '--backend', socket);
  await holder.says('held until Ctrl-C');
  const values = async (): Promise<unknown> => {
    for await (const reply of sayToLines(hal.file('lines.sock'), 'get 1')) return reply.values;
    return null;
  };
  expect(await values()).toEqual([1]);
  expect(await holder.stop()).toBe(0);
  await expect.poll(values).toEqual([0]);
  const usage = await hal.run('gpio', 'watch', '0', '--count', '0', '--backend', socket);
  expect(usage.err).toContain('VLO_USAGE: --count');
  const edge = await hal.run('gpio', 'watch', '0', '--edge', 'up', '--backend', socket);
  expect(edge.err).toContain('VLO_USAGE: --edge takes rising, falling, both');
  expect((await hal.run('gpio', 'info', '--backend', hal.file('none'))).err).toContain('VLO_');
}, 60_000);
