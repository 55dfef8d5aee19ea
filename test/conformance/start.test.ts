/** The README's first command: the demonstration, then how to go on. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { Program } from './vlo-process.js';

const SCRIPT = fileURLToPath(new URL('../../scripts/start.mjs', import.meta.url));

test('npm start runs the demonstration, and says how to go on', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-start-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const { TMPDIR } = process.env;
  process.env.TMPDIR = folder;
  const program = new Program(SCRIPT, [], folder);
  if (TMPDIR === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = TMPDIR;
  expect([await program.ended, program.stderr]).toEqual([0, '']);
  const [demo, next] = program.stdout.split('\nHow to go on\n');
  expect(demo).toContain('\nverified: ');
  for (const line of ['vlo up', 'vlo serve blk', 'qemu-img bench', 'qemu-system-', 'linux.uml']) {
    expect(next).toContain(line);
  }
  expect(Math.max(...program.stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(
    80,
  );
  expect(readdirSync(folder)).toEqual([]);
});
