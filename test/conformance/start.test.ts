/** The README's first command: serves a disk that it creates, says how to use it, cleans up. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { BlkDriver } from '../../src/devices/index.js';

const SCRIPT = fileURLToPath(new URL('../../scripts/start.mjs', import.meta.url));

test('npm start serves a disk, and leaves nothing behind when it is ended', async () => {
  const child = spawn(process.execPath, [SCRIPT], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  child.stdout.on('data', (bytes) => {
    out += String(bytes);
  });
  const ended = new Promise((resolve) => child.on('close', resolve));
  await expect.poll(() => out, { timeout: 10_000 }).toContain('Ctrl-C ends it');
  for (const program of ['qemu-img bench', 'qemu-system-x86_64', 'linux.uml']) {
    expect(out).toContain(program);
  }
  const path = /is served at (\S+)/.exec(out)![1]!;
  const driver = await BlkDriver.connect({ path });
  const bytes = new Uint8Array(512).fill(1);
  await driver.read(64 * 1024 * 1024 - 512, bytes);
  expect(bytes.every((byte) => byte === 0)).toBe(true);
  await driver.close();
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  expect(existsSync(dirname(path))).toBe(false);
});
