/**
 * The evaluation: `vlo bench transports` on this guest. Its JSON and its report stay with the run's
 * results. Arguments after -- go to the command: `npm run lab -- evaluate -- --rounds 3`.
 */

import { existsSync, readFileSync } from 'node:fs';
import { check, fact, print, skip } from './support/checks.mjs';
import { run, start } from './support/programs.mjs';
import { ARCH, insertModule, KERNEL, MODULE, modprobe, RUN } from './support/system.mjs';

const NAME = `transports-${ARCH}-${KERNEL}`;
const JSON_FILE = `${RUN}/${NAME}.json`;
const HTML_FILE = `${RUN}/${NAME}.html`;
/** The lab ends a job that takes too long before this does. */
const LIMIT_MS = 6 * 3600 * 1000;

/** True when the kernel has a module, or has it built in. */
async function hasModule(name) {
  const { status } = await run(['modprobe', '-n', name], { status: null });
  return status === 0;
}

/** Loads what a transport needs; says so where this kernel comes without it. */
async function load(...names) {
  for (const name of names) {
    if (!(await hasModule(name))) skip(`this kernel has no ${name}`);
    await modprobe(name);
  }
}

/** Lines of a program as they come, and its status at the end. */
async function follow(command) {
  const program = start(command);
  program.child.stderr.on('data', (text) => process.stdout.write(text));
  program.child.stdout.on('data', (text) => process.stdout.write(text));
  return program.ended;
}

function report() {
  const { rows } = JSON.parse(readFileSync(JSON_FILE, 'utf8'));
  const measured = rows.filter(({ state }) => state === 'measured');
  for (const { workload, transport, summary } of measured) {
    const { iops, bytesPerSecond } = summary;
    fact(`${workload} ${transport}`, iops?.median ?? bytesPerSecond?.median);
  }
  if (measured.length === 0) throw new Error('nothing was measured');
  return `${measured.length} of ${rows.length} measured; ${NAME}.json and .html are in the results`;
}

export default async function evaluate(words) {
  await check('null_blk loads', async () => {
    await load('configfs');
    await run(['modprobe', 'null_blk', 'nr_devices=0']);
    if (!existsSync('/sys/kernel/config/nullb')) {
      await run(['mount', '-t', 'configfs', 'none', '/sys/kernel/config']);
    }
  });
  await check('the drivers load', () => load('virtio_blk', 'virtio_rng'));
  await check('our module loads', async () => {
    if (!existsSync(MODULE)) skip('the host built no module');
    await insertModule();
  });
  await check('VDUSE loads', () => load('vduse', 'virtio_vdpa'));
  const command = ['node', 'dist/bin/vlo.js', 'bench', 'transports', ...words];
  const output = ['--json', JSON_FILE, '--html', HTML_FILE];
  await check(
    'vlo bench transports',
    async () => {
      const status = await follow([...command, ...output]);
      if (existsSync(JSON_FILE)) print(report());
      if (status !== 0) throw new Error(`status ${status}`);
    },
    { timeout: LIMIT_MS },
  );
}
