/**
 * Builds the kernel module, and drivers that Debian's kernels lack, and checks the module's source,
 * in the lab's build tree.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DRIVERS } from '../jobs/support/drivers.mjs';
import {
  ARCHITECTURES,
  LAB,
  LabError,
  needParts,
  PROJECT,
  part,
  progress,
  secondsSince,
} from './places.mjs';

const SOURCE = join(PROJECT, 'kernel');
const MODULE = 'virtio_loopback.ko';
const OUTPUT_MAX = 64 * 1024 * 1024;

/** True when there is a kernel module in this checkout. */
export const hasModule = () => existsSync(join(SOURCE, 'Kbuild'));

const isSource = (name) => /\.[ch]$|^Kbuild$|^Makefile$/.test(name);

const sourceFiles = () => readdirSync(SOURCE).filter(isSource).sort();

/** Programs that test the module from outside. */
const selftestFiles = () =>
  readdirSync(join(SOURCE, 'selftests'))
    .filter((name) => /\.[ch]$/.test(name))
    .map((name) => join('selftests', name));

/**
 * What a kernel for the guest consists of. `version` is what `--kernel` calls it, `tree` the part
 * with its compilers and `source` that with its drivers' source.
 * @typedef {{ arch: string, version: string, tree: string, source: string, release: string,
 *   image: string, modules: string, initramfs: string, build: string, patience: number }} Kernel
 */

/** A command in a build tree; returns its status and all that it printed. */
function inTree(name, kernel, module, command) {
  const tree = part(name, 'tree');
  const { status, stdout } = spawnSync(
    'bash',
    ['-c', 'exec "$@" 2>&1', '-', join(PROJECT, 'lab/chroot.sh'), tree, kernel, module, ...command],
    { encoding: 'utf8', maxBuffer: OUTPUT_MAX },
  );
  return { status, output: stdout };
}

/** @param {Kernel} kernel */
function makeCommand({ arch, release, build }) {
  const { make } = ARCHITECTURES[arch];
  const isHeaders = existsSync(join(build, 'headers'));
  return [
    'make',
    '-C',
    isHeaders ? `/usr/src/linux-headers-${release}` : '/mnt/kernel',
    'M=/mnt/module',
    `ARCH=${make.arch}`,
    `CROSS_COMPILE=${make.cross}`,
    'KCFLAGS=-Werror',
  ];
}

/** A new folder in the cache, in which something is built. */
function makeScratch() {
  mkdirSync(join(LAB, 'modules'), { recursive: true });
  return mkdtempSync(join(LAB, 'modules', 'build-'));
}

/** Copies the module's source to a new folder of the cache. */
function scratchCopy() {
  const scratch = makeScratch();
  for (const path of sourceFiles()) cpSync(join(SOURCE, path), join(scratch, path));
  return scratch;
}

/** The compiler's and modpost's; that there is no vmlinux to take types from is none. */
const isWarning = (line) =>
  /\bwarning:|\bWARNING:|\berror:/i.test(line) && !/vmlinux|compiler differs/.test(line);

/** Where the module is kept that is made from these files for this kernel. */
function targetFor(kernel, files) {
  const hash = createHash('sha256').update(`${kernel.arch} ${kernel.release} ${kernel.build}\0`);
  for (const { path, content } of files) hash.update(`${path}\0`).update(content);
  return join(LAB, 'modules', `${hash.digest('hex').slice(0, 24)}.ko`);
}

/** Builds what lies in the folder, removes the folder, and leaves the result at `target`. */
function buildIn(scratch, kernel, name, target) {
  const started = performance.now();
  try {
    const command = [...makeCommand(kernel), 'modules'];
    const { status, output } = inTree(kernel.tree, kernel.build, scratch, command);
    const warnings = output.split('\n').filter(isWarning);
    if (status !== 0 || warnings.length > 0 || !existsSync(join(scratch, name))) {
      process.stderr.write(output);
      const reason = status === 0 ? `${warnings.length} warnings` : 'make failed';
      throw new LabError(`${name} does not build for ${kernel.arch}: ${reason}`);
    }
    copyFileSync(join(scratch, name), join(scratch, 'done'));
    renameSync(join(scratch, 'done'), target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  progress(`${name} for ${kernel.release} (${kernel.arch}) built in ${secondsSince(started)}`);
}

/**
 * Builds the module for a kernel, if this source was not built for it before, and returns the path
 * of the result. Fails on any warning.
 * @param {Kernel} kernel
 */
export function buildModule(kernel) {
  if (!hasModule()) throw new LabError('there is no kernel/Kbuild in this checkout');
  needParts([kernel.tree]);
  const files = sourceFiles().map((path) => ({ path, content: readFileSync(join(SOURCE, path)) }));
  const target = targetFor(kernel, files);
  if (!existsSync(target)) buildIn(scratchCopy(), kernel, MODULE, target);
  return target;
}

/** Builds a driver of the kernel's, unchanged. @param {Kernel} kernel @param {string} name */
export function buildDriver(kernel, name) {
  needParts([kernel.tree, kernel.source]);
  const path = `${name}.c`;
  const content = readFileSync(part(kernel.source, 'tree', DRIVERS[name].source));
  const target = targetFor(kernel, [{ path, content }]);
  if (existsSync(target)) return target;
  const scratch = makeScratch();
  writeFileSync(join(scratch, path), content);
  writeFileSync(join(scratch, 'Kbuild'), `obj-m := ${name}.o\n`);
  buildIn(scratch, kernel, `${name}.ko`, target);
  return target;
}

/** Rules for drivers in the newest kernel's own tree; ours serves several kernels. */
const CHECKPATCH_IGNORE = ['LINUX_VERSION_CODE', 'CONSTANT_COMPARISON', 'ALLOC_WITH_SIZEOF'];
/** Programs lack the kernel's macros; and a test's macros print what they are given. */
const SELFTEST_IGNORE = ['BIT_MACRO', 'MACRO_ARG_REUSE', 'MACRO_ARG_PRECEDENCE', 'VOLATILE'];
/** The macros for tracepoints are written as in include/trace/events. */
const TRACE_HEADER = 'trace.h';
const TRACE_IGNORE = ['PARENTHESIS_ALIGNMENT', 'OPEN_ENDED_LINE'];

/** What checkpatch says of some files, a line each. */
function checkpatch(kernel, scratch, files, ignored) {
  const { status, output } = inTree(kernel.tree, part('source', 'tree'), scratch, [
    'perl',
    '/mnt/kernel/scripts/checkpatch.pl',
    '--no-tree',
    '--strict',
    '--terse',
    '--no-summary',
    '--show-types',
    `--ignore=${ignored.join(',')}`,
    '--max-line-length=100',
    '--file',
    ...files,
  ]);
  const lines = output.split('\n').filter((line) => line !== '');
  return status === 0 || lines.length > 0 ? lines : ['checkpatch failed'];
}

/** What kernel-doc says of some files, a line each. */
function kernelDoc(scratch, files) {
  const { status, output } = inTree('docs', part('docs', 'kernel'), scratch, [
    ...['python3', '-B', '/mnt/kernel/tools/docs/kernel-doc', '-none', '-Wall'],
    ...files,
  ]);
  const lines = output.split('\n').filter((line) => line !== '');
  return status === 0 || lines.length > 0 ? lines : ['kernel-doc failed'];
}

/**
 * Runs checkpatch, sparse and kernel-doc over the module; returns the complaints, none when it is
 * clean.
 */
export function lintModule(kernel) {
  if (!hasModule()) throw new LabError('there is no kernel/Kbuild in this checkout');
  needParts([kernel.tree, 'source', 'docs']);
  const scratch = scratchCopy();
  for (const path of selftestFiles()) cpSync(join(SOURCE, path), join(scratch, path));
  try {
    const files = sourceFiles().filter((path) => /\.[ch]$/.test(path));
    const sparse = inTree(kernel.tree, kernel.build, scratch, [
      ...makeCommand(kernel).filter((word) => word !== 'KCFLAGS=-Werror'),
      // Not C=2: Debian's headers lack the script that judges the checker.
      'KBUILD_CHECKSRC=2',
      'modules',
    ]);
    // Kernels before 6.12 name the whole path.
    const checked = [...sparse.output.matchAll(/^ +CHECK +(?:\/mnt\/module\/)?(\S+)$/gm)];
    const isChecked = sparse.status === 0 && checked.some(([, path]) => files.includes(path));
    if (!isChecked) process.stderr.write(sparse.output);
    return [
      ...checkpatch(
        kernel,
        scratch,
        files.filter((path) => path !== TRACE_HEADER),
        CHECKPATCH_IGNORE,
      ),
      ...checkpatch(kernel, scratch, [TRACE_HEADER], [...CHECKPATCH_IGNORE, ...TRACE_IGNORE]),
      ...checkpatch(kernel, scratch, selftestFiles(), [...CHECKPATCH_IGNORE, ...SELFTEST_IGNORE]),
      ...kernelDoc(scratch, files),
      // Sparse also complains about the kernel's own headers, which are not ours to change.
      ...sparse.output.split('\n').filter((line) => {
        return /(warning|error):/.test(line) && files.some((path) => line.includes(path));
      }),
      ...(isChecked ? [] : ['sparse did not run']),
    ];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
