/**
 * npm run lab: boots a guest with a real kernel in QEMU and runs a job in it. See lab/README.md for
 * the jobs and how it works, and --help.
 */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  buildDebugKernel,
  customKernel,
  DEBUG_PATIENCE,
  debugKernel,
  isDebug,
  MATRIX,
  packagedKernel,
  readKernels,
} from './host/kernels.mjs';
import { isMatrixGood, matrixTable, runMatrix } from './host/matrix.mjs';
import { buildModule, lintModule } from './host/module.mjs';
import { ARCHITECTURES, LabError, needParts, PROJECT, progress } from './host/places.mjs';
import { addToReport } from './host/report.mjs';
import { runJob } from './host/run.mjs';

const JOBS = readdirSync(join(PROJECT, 'lab/jobs'))
  .filter((name) => name.endsWith('.mjs'))
  .map((name) => name.replace(/\.mjs$/, ''))
  .sort();

const USAGE = `Usage: npm run lab -- <job> [options] [-- the job's own arguments]

Jobs: ${JOBS.join(', ')}
  shell   an interactive shell in the guest; with --command <line>, that line instead
And without a guest:
  build   only build the kernel module
  lint    checkpatch --strict, sparse and kernel-doc over the kernel module
  setup   only build what a run needs
  debug-kernel  only build the kernel of --kernel debug, or of --kernel debug-kcsan
                (10 to 30 minutes, once)

  --arch <name>          x86-64, arm64, riscv64, some of these with commas between them, or all
                         (default: x86-64)
  --kernel <name>        one or more of these, with commas between them (default: newest)
                           newest            Debian sid's
                           ${MATRIX.filter((name) => !name.endsWith('-rt')).join(', ')}
                           NAME-rt           the real-time kernel of one of these
                           all               all the numbers, with and without -rt
                           debug             has KASAN, lockdep and kmemleak, for x86-64
                           debug-kcsan       has KCSAN, which finds data races, for x86-64
                         With more than one kernel or architecture the job runs on one after the
                         other; a table ends the output, and status 1 says that one failed
  --timeout <seconds>    end the guest after that (default: 900, debug: 4500, --icount: 7200;
                         0: never, as for shell)
  --memory <MiB>         (default: 2048)
  --cpus <count>         (default: 2)
  --icount               the guest's clock counts instructions and not time: figures do not depend
                         on what else this machine does. Slow (default for: instructions, latency)
  --cpu-model <model>    processor, as QEMU's -cpu names it (default: max; with --icount the same
                         without instructions that copy memory, as each byte would count as one)
  --results <folder>     where console, output and results go (default: in the cache)
  --report <file>        add the outcome to a JSON report, as vitest writes them
  --disks                the guest has NVMe disks instead of folders over 9p: it can be suspended
  --no-module            do not build kernel/
  --kernel-image <file>  a kernel of your own, with
  --modules-dir <folder>   its modules: <folder>/<release>
  --kernel-build <folder>  its built tree, for the module (default: none, --no-module)
  --help

Needs Debian or Ubuntu on x86-64, and root. Status 0 when all checks passed and the guest's kernel
had nothing to complain of; 1 when not; 2 for a mistake in these options.
`;

const TIMEOUT = 900;
/** Of the host's time: the guest has a time of its own. */
const TIMEOUT_ICOUNT = 7200;
/** The jobs that count instructions. */
const ICOUNT_JOBS = ['instructions', 'latency'];
const STATUS_FAILED = 1;
const STATUS_USAGE = 2;

class UsageError extends Error {}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      tokens: true,
      allowNegative: true,
      options: {
        arch: { type: 'string', default: 'x86-64' },
        kernel: { type: 'string', default: 'newest' },
        timeout: { type: 'string' },
        memory: { type: 'string', default: '2048' },
        cpus: { type: 'string', default: '2' },
        icount: { type: 'boolean' },
        'cpu-model': { type: 'string' },
        results: { type: 'string' },
        report: { type: 'string' },
        command: { type: 'string' },
        disks: { type: 'boolean', default: false },
        module: { type: 'boolean', default: true },
        'kernel-image': { type: 'string' },
        'modules-dir': { type: 'string' },
        'kernel-build': { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error.message);
  }
}

function wholeNumber(name, text, least) {
  if (!/^\d+$/.test(text) || Number(text) < least) {
    throw new UsageError(`--${name}: give a number from ${least} on`);
  }
  return Number(text);
}

function timeoutFor(kernel, { job, timeout, icount }) {
  if (timeout !== undefined) return timeout;
  if (job === 'shell') return 0;
  if (icount) return TIMEOUT_ICOUNT;
  return isDebug(kernel) ? TIMEOUT * DEBUG_PATIENCE : TIMEOUT;
}

function kernelsOf({ kernel, 'kernel-image': image }) {
  if (image !== undefined) return ['custom'];
  const { kernels, unknown } = readKernels(kernel);
  if (unknown !== undefined) throw new UsageError(`--kernel: not ${unknown}`);
  return kernels;
}

function readOptions() {
  const { values, positionals, tokens } = parse();
  const terminator = tokens.find(({ kind }) => kind === 'option-terminator')?.index ?? Infinity;
  const own = tokens.filter(
    ({ kind, index }) => kind === 'positional' && index > terminator,
  ).length;
  const words = positionals.slice(0, positionals.length - own);
  const [job] = words;
  if (values.help) return { ...values, job };
  if (job === undefined) throw new UsageError('which job?');
  if (words.length > 1) throw new UsageError(`${words[1]}: arguments of the job go after --`);
  if (![...JOBS, 'shell', 'build', 'lint', 'setup', 'debug-kernel'].includes(job)) {
    throw new UsageError(`there is no job ${job}`);
  }
  const architectures = values.arch === 'all' ? Object.keys(ARCHITECTURES) : values.arch.split(',');
  const unknown = architectures.find((arch) => !(arch in ARCHITECTURES));
  if (unknown !== undefined) throw new UsageError(`--arch: not ${unknown}`);
  if ((values['kernel-image'] === undefined) !== (values['modules-dir'] === undefined)) {
    throw new UsageError('--kernel-image and --modules-dir go together');
  }
  const icount = values.icount ?? ICOUNT_JOBS.includes(job);
  return {
    ...values,
    job,
    icount,
    architectures,
    kernels: kernelsOf(values),
    arguments: positionals.slice(words.length),
    timeout: values.timeout === undefined ? undefined : wholeNumber('timeout', values.timeout, 0),
    memory: wholeNumber('memory', values.memory, 256),
    cpus: wholeNumber('cpus', values.cpus, 1),
  };
}

function kernelFor(name, arch, options) {
  if (options['kernel-image'] === undefined) {
    return isDebug(name) ? debugKernel(arch, name) : packagedKernel(arch, name);
  }
  return customKernel({
    arch,
    image: options['kernel-image'],
    modules: options['modules-dir'],
    build: options['kernel-build'],
  });
}

function lint(kernel) {
  const complaints = lintModule(kernel);
  for (const line of complaints) process.stdout.write(`${line}\n`);
  progress(`lint: ${complaints.length === 0 ? 'clean' : `${complaints.length} complaints`}`);
  return complaints.length === 0;
}

/** One kernel on one architecture; true when all is well. */
async function runOne(name, arch, options) {
  const kernel = kernelFor(name, arch, options);
  if (options.job === 'lint') return lint(kernel);
  if (options.job === 'build') {
    process.stdout.write(`${buildModule(kernel)}\n`);
    return true;
  }
  needParts(['qemu', `root-${arch}`]);
  if (options.job === 'setup') {
    needParts([kernel.tree]);
    return true;
  }
  return runJob(kernel, { ...options, timeout: timeoutFor(name, options) });
}

/** All kernels on all architectures; true when none failed. */
async function runAll({ kernels, architectures, ...options }) {
  const action = (name, arch) => runOne(name, arch, { ...options, kernels });
  const cells = await runMatrix(kernels, architectures, action);
  process.stdout.write(`\n${matrixTable(options.job, kernels, architectures, cells)}`);
  for (const { kernel, arch, outcome, why } of cells) {
    if (options.report === undefined || outcome !== 'FAIL' || why === '') continue;
    const title = `${options.job} on ${arch}, kernel ${kernel}: ${why}`;
    addToReport(options.report, { title, results: '', isClean: false, isGood: false });
  }
  return isMatrixGood(kernels, architectures, cells);
}

async function main() {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const { job, kernels, architectures } = options;
  if (job === 'debug-kernel') {
    buildDebugKernel(isDebug(kernels[0]) ? kernels[0] : 'debug');
    return 0;
  }
  const isSingle = kernels.length * architectures.length === 1;
  const isGood = await (isSingle ? runOne(kernels[0], architectures[0], options) : runAll(options));
  return isGood ? 0 : STATUS_FAILED;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (error instanceof UsageError) process.stderr.write(`lab: ${error.message}\n${USAGE}`);
  else process.stderr.write(`lab: ${error instanceof LabError ? error.message : error.stack}\n`);
  process.exitCode = error instanceof UsageError ? STATUS_USAGE : STATUS_FAILED;
}
