/** One run of a job: the folder that the guest sees, the guest, and the verdict. */

import {
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { driversFor, lackOf } from '../jobs/support/drivers.mjs';
import { clockFor } from './clock.mjs';
import { needsDisks } from './disks.mjs';
import { qemuVersion, readIfThere, runGuest } from './guest.mjs';
import { findFaults, findLeaks, mergeLogs } from './kernel-log.mjs';
import { Machine } from './machine.mjs';
import { buildDriver, buildModule, hasModule } from './module.mjs';
import { putPrograms } from './native.mjs';
import {
  ARCHITECTURES,
  LAB,
  NotThereError,
  needPackages,
  PROJECT,
  progress,
  secondsSince,
} from './places.mjs';
import { preparePlugin, readProfiles, storeFigures } from './profile.mjs';
import { addToReport } from './report.mjs';

/** What the guest gets no copy of. */
const LEFT_OUT = new Set(['.git', 'node_modules', 'coverage', 'docs', 'bench/results']);
const RUNS_KEPT = 40;
/** A run that may still be going on is not removed. */
const RUN_OLD_MS = 24 * 3600 * 1000;
const CONSOLE_TAIL = 25;
/**
 * With --icount the clock jumps ahead while all processors wait for the host: whatever waits for a
 * file that the host has not given yet sees much time pass.
 */
const ICOUNT_PATIENCE = 10;

/** For bash, whatever it holds. @param {string} word */
const quote = (word) => `'${word.replaceAll("'", "'\\''")}'`;

function removeOldRuns(runs) {
  const old = readdirSync(runs).sort().slice(0, -RUNS_KEPT);
  for (const name of old) {
    if (Date.now() - statSync(join(runs, name)).mtimeMs < RUN_OLD_MS) continue;
    rmSync(join(runs, name), { recursive: true, force: true });
  }
}

function newRunFolder(kernel, { job, results, kernels }) {
  if (results !== undefined) {
    const suffix = kernels.length > 1 ? `-${kernel.version}` : '';
    const folder = resolve(results, `${job}-${kernel.arch}${suffix}`);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    return folder;
  }
  const runs = join(LAB, 'runs');
  const time = new Date().toISOString().replace(/[:.]/g, '-');
  const folder = join(runs, `${time}-${job}-${kernel.arch}-${kernel.version}-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  removeOldRuns(runs);
  return folder;
}

/** The checkout as it is now: what happens to it during the run does not reach the guest. */
function copyProject(target) {
  mkdirSync(join(target, 'node_modules'), { recursive: true });
  for (const name of readdirSync(PROJECT)) {
    if (LEFT_OUT.has(name)) continue;
    const filter = (path) => !LEFT_OUT.has(path.slice(PROJECT.length + 1));
    cpSync(join(PROJECT, name), join(target, name), { recursive: true, filter });
  }
}

/** The processor of the guest. */
const modelFor = ({ arch }, { icount, 'cpu-model': model }) =>
  model ?? ARCHITECTURES[arch][icount ? 'countedModel' : 'model'];

/** What the guest runs: see lab/guest-init. */
function startScript(kernel, options) {
  const { job, command, arguments: words, timeout, icount } = options;
  const { rows, columns } = process.stdout;
  const environment = {
    VLO_LAB_ARCH: kernel.arch,
    VLO_LAB_KERNEL: kernel.release,
    VLO_LAB_JOB: job,
    // The guest's time has nothing to do with the host's where it counts instructions.
    VLO_LAB_TIMEOUT: `${icount ? 0 : timeout}`,
    VLO_LAB_PATIENCE: `${icount ? kernel.patience * ICOUNT_PATIENCE : kernel.patience}`,
    VLO_LAB_ICOUNT: icount ? '1' : '',
    VLO_LAB_CPU_MODEL: modelFor(kernel, options),
    VLO_LAB_QEMU: qemuVersion(kernel.arch),
    // Emulated, most of a program's start is compiling JavaScript.
    NODE_COMPILE_CACHE: '/tmp/node-compile-cache',
    TERM: process.env.TERM ?? 'linux',
  };
  const lines = Object.entries(environment).map(([name, text]) => `export ${name}=${quote(text)}`);
  if (job !== 'shell') {
    lines.push(`exec node lab/jobs/support/main.mjs ${[job, ...words].map(quote).join(' ')}`);
  } else if (command !== undefined) {
    lines.push(`exec bash -c ${quote(command)} </dev/null`);
  } else {
    // The terminal of the host, as QEMU sets it, begins each line at the left already.
    lines.push(`stty sane -onlcr rows ${rows || 24} cols ${columns || 80}`);
    lines.push('echo "This checkout is here; the module: insmod /lab/run/virtio_loopback.ko"');
    lines.push('bash -i', 'exit 0');
  }
  return `${lines.join('\n')}\n`;
}

function reportFaults(faults) {
  for (const { story } of faults.slice(0, 1)) {
    process.stdout.write(`FAIL kernel log:\n${story.map((line) => `     ${line}\n`).join('')}`);
  }
  for (const { line } of faults.slice(1)) process.stdout.write(`FAIL kernel log: ${line}\n`);
}

/** Counts of the checks, as a job's results have them. */
function countChecks(text) {
  if (text === '') return '';
  const { checks } = JSON.parse(text);
  const count = (outcome) => checks.filter((check) => check.outcome === outcome).length;
  const words = [`${count('ok')} ok`];
  if (count('failed') > 0) words.push(`${count('failed')} failed`);
  if (count('skipped') > 0) words.push(`${count('skipped')} skipped`);
  return words.join(', ');
}

/** The guest, and the device processes that it has on the host: how they ended. */
async function runMachine(job, guest) {
  const machine = await Machine.start(job, guest.run);
  try {
    const tooEarly = await runGuest({ ...guest, machine });
    return { tooEarly, complaints: await machine.end() };
  } finally {
    await machine.end();
  }
}

/** Looks at what the guest left behind; true when all is well. */
function judge(run, kernel, { job, report }, { tooEarly, complaints }, started) {
  const console = readIfThere(join(run, 'console.log'));
  const log = mergeLogs(console, readIfThere(join(run, 'guest/kernel.log')));
  writeFileSync(join(run, 'kernel.log'), `${log}\n`);
  const faults = [...findFaults(log), ...findLeaks(readIfThere(join(run, 'guest/kmemleak.txt')))];
  const status = readIfThere(join(run, 'guest/status')).trim();
  reportFaults(faults);
  if (tooEarly !== null || status === '') {
    process.stdout.write(`FAIL guest: ${tooEarly ?? 'it ended before the job did'}\n`);
  }
  for (const complaint of complaints) process.stdout.write(`FAIL device: ${complaint}\n`);
  // The story of a fault has told what happened already.
  if (status === '' && faults.length === 0) {
    const tail = console.trimEnd().split(/\r?\n/).slice(-CONSOLE_TAIL);
    process.stdout.write(`     the console's last lines:\n     ${tail.join('\n     ')}\n`);
  }
  const results = readIfThere(join(run, 'guest/results.json'));
  const isQuiet = faults.length === 0 && complaints.length === 0;
  const isGood = tooEarly === null && status === '0' && isQuiet;
  const facts = [
    countChecks(results),
    status === '0' || status === '' ? '' : `status ${status}`,
    faults.length === 0 ? 'kernel log clean' : `${faults.length} faults in the kernel log`,
    secondsSince(started),
  ].filter((fact) => fact !== '');
  const title = `${job} on ${kernel.arch}, Linux ${kernel.release}`;
  if (report !== undefined) {
    addToReport(report, { title, results, isClean: faults.length === 0, isGood });
  }
  progress(`${title}: ${isGood ? 'passed' : 'FAILED'} (${facts.join('; ')}); ${run}`);
  return isGood;
}

/**
 * Runs a job in a guest; true when all is well.
 * @param {import('./module.mjs').Kernel} kernel
 */
export async function runJob(kernel, options) {
  const lack = lackOf(options.job, kernel.release);
  if (lack !== null) throw new NotThereError(lack);
  const packages = needPackages(kernel.arch);
  const module = options.module && kernel.build !== '' && hasModule() ? buildModule(kernel) : null;
  const drivers = driversFor(options.job, kernel.release).map((name) => [
    name,
    buildDriver(kernel, name),
  ]);
  const run = newRunFolder(kernel, options);
  const started = performance.now();
  mkdirSync(join(run, 'guest'));
  try {
    copyProject(join(run, 'project'));
    if (module !== null) copyFileSync(module, join(run, 'guest/virtio_loopback.ko'));
    for (const [name, path] of drivers) copyFileSync(path, join(run, `guest/${name}.ko`));
    putPrograms(kernel, options.job, join(run, 'guest'));
    writeFileSync(join(run, 'guest/start'), startScript(kernel, options));
    const isShell = options.job === 'shell' && options.command === undefined;
    const interactive = isShell && process.stdin.isTTY === true;
    if (isShell && !interactive) progress('no terminal: the shell reads nothing; use --command');
    const { memory, cpus, timeout, icount } = options;
    const guest = {
      ...{ kernel, run, packages, memory, cpus, timeout, interactive },
      ...{ clock: clockFor(icount), model: modelFor(kernel, options) },
      plugins: preparePlugin(kernel, options, join(run, 'guest')),
      disks: needsDisks(options.job) || options.disks,
    };
    const outcome = await runMachine(options.job, guest);
    process.stdout.write(readProfiles(join(run, 'guest')));
    storeFigures(join(run, 'guest'));
    return judge(run, kernel, options, outcome, started);
  } finally {
    rmSync(join(run, 'project'), { recursive: true, force: true });
  }
}
