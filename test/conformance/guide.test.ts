/**
 * The code in the guide works: each block that names a file is written to a folder, compiled as a
 * project of its own against the built package, and run.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const page = readFileSync(join(root, 'docs/guide/write-a-device.md'), 'utf8');
// Inside of the package, so that it finds itself by its name, as a dependency would be found;
// and in a folder that git and the tidy rules leave out.
const area = join(root, 'coverage');
let folder = '';

/** Blocks whose first line is a comment with the name of a file. */
function blocksOf(text: string): Map<string, string> {
  const blocks = [...text.matchAll(/^```ts\n\/\/ ([\w.-]+\.ts)\n([\s\S]*?)^```$/gm)];
  return new Map(blocks.map(([, name, code]) => [name!, code!]));
}

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    // A test runner that finds itself in another one reports to it, and not to us.
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, NODE_OPTIONS: undefined },
  });
  expect(`${stdout}${stderr}\nstatus ${status}`).toMatch(/status 0$/);
  return stdout;
}

beforeAll(() => {
  if (!existsSync(join(root, 'dist/testing/index.js'))) {
    throw new Error('build first: npm run build');
  }
  mkdirSync(area, { recursive: true });
  folder = mkdtempSync(join(area, 'guide-'));
  for (const [name, code] of blocksOf(page)) writeFileSync(join(folder, name), code);
  const [, config] = /^```json\n([\s\S]*?"compilerOptions"[\s\S]*?)^```$/m.exec(page)!;
  writeFileSync(join(folder, 'tsconfig.json'), config!);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('every block of TypeScript names its file', () => {
  const names = [...blocksOf(page).keys()];
  expect(names).toEqual(['wire.ts', 'button.ts', 'button.test.ts', 'serve.ts']);
  expect(page.match(/^```ts$/gm)).toHaveLength(names.length);
});

test('it compiles', () => {
  run(process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '--project', folder);
  expect(existsSync(join(folder, 'button.js'))).toBe(true);
});

test('its tests pass', () => {
  const report = run(process.execPath, '--test', join(folder, 'button.test.js'));
  expect(report).toMatch(/pass 8\b/);
});

test('its server comes up, listens and ends', async () => {
  const socket = join(folder, 'button.sock');
  const child = spawn(process.execPath, [join(folder, 'serve.js'), socket]);
  let output = '';
  child.stderr.on('data', (chunk) => {
    output += chunk;
  });
  const ended = new Promise((resolve) => {
    child.once('exit', resolve);
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
  while (!output.includes('ready on') && child.exitCode === null && !child.killed) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(output).toBe(`ready on ${socket}\n`);
  expect(existsSync(socket)).toBe(true);
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  clearTimeout(timer);
  expect(existsSync(socket)).toBe(false);
});
