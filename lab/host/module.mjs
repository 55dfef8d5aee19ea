/** Builds the kernel module, and checks its source, in the lab's build tree. */

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
} from 'node:fs';
import { join } from 'node:path';
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

function sourceFiles() {
  return readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
    .filter((path) => isSource(path.split('/').at(-1)))
    .sort();
}

/**
 * What a kernel for the guest consists of.
 * @typedef {{ arch: string, version: string, release: string, image: string, modules: string,
 *   initramfs: string, build: string, patience?: number }} Kernel
 */

/** A command in the build tree; returns its status and all that it printed. */
function inTree(version, kernel, module, command) {
  const tree = part(`build-${version}`, 'tree');
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

/** Copies the module's source to a new folder of the cache. */
function scratchCopy() {
  mkdirSync(join(LAB, 'modules'), { recursive: true });
  const scratch = mkdtempSync(join(LAB, 'modules', 'build-'));
  for (const path of sourceFiles()) cpSync(join(SOURCE, path), join(scratch, path));
  return scratch;
}

/** The compiler's and modpost's; that there is no vmlinux to take types from is none. */
const isWarning = (line) =>
  /\bwarning:|\bWARNING:|\berror:/i.test(line) && !/vmlinux|compiler differs/.test(line);

/**
 * Builds the module for a kernel, if this source was not built for it before, and returns the path
 * of the result. Fails on any warning.
 * @param {Kernel} kernel
 */
export function buildModule(kernel) {
  if (!hasModule()) throw new LabError('there is no kernel/Kbuild in this checkout');
  needParts([`build-${kernel.version}`]);
  const hash = createHash('sha256').update(`${kernel.arch} ${kernel.release} ${kernel.build}\0`);
  for (const path of sourceFiles())
    hash.update(`${path}\0`).update(readFileSync(join(SOURCE, path)));
  const target = join(LAB, 'modules', `${hash.digest('hex').slice(0, 24)}.ko`);
  if (existsSync(target)) return target;
  const started = performance.now();
  const scratch = scratchCopy();
  try {
    const command = [...makeCommand(kernel), 'modules'];
    const { status, output } = inTree(kernel.version, kernel.build, scratch, command);
    const warnings = output.split('\n').filter(isWarning);
    if (status !== 0 || warnings.length > 0 || !existsSync(join(scratch, MODULE))) {
      process.stderr.write(output);
      const reason = status === 0 ? `${warnings.length} warnings` : 'make failed';
      throw new LabError(`the module does not build for ${kernel.arch}: ${reason}`);
    }
    copyFileSync(join(scratch, MODULE), join(scratch, 'done'));
    renameSync(join(scratch, 'done'), target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  progress(`module for ${kernel.release} (${kernel.arch}) built in ${secondsSince(started)}`);
  return target;
}

/** checkpatch's rule is for drivers in the kernel's own tree; ours serves several kernels. */
const CHECKPATCH_IGNORE = 'LINUX_VERSION_CODE';

/** Runs checkpatch and sparse over the module; returns the complaints, none when it is clean. */
export function lintModule(kernel) {
  if (!hasModule()) throw new LabError('there is no kernel/Kbuild in this checkout');
  needParts([`build-${kernel.version}`, 'source']);
  const scratch = scratchCopy();
  try {
    const files = sourceFiles().filter((path) => /\.[ch]$/.test(path));
    const checkpatch = inTree(kernel.version, part('source', 'tree'), scratch, [
      'perl',
      '/mnt/kernel/scripts/checkpatch.pl',
      '--no-tree',
      '--strict',
      '--terse',
      '--no-summary',
      '--show-types',
      `--ignore=${CHECKPATCH_IGNORE}`,
      '--max-line-length=100',
      '--file',
      ...files,
    ]);
    const sparse = inTree(kernel.version, kernel.build, scratch, [
      ...makeCommand(kernel).filter((word) => word !== 'KCFLAGS=-Werror'),
      // Not C=2: Debian's headers lack the script that judges the checker.
      'KBUILD_CHECKSRC=2',
      'modules',
    ]);
    const isChecked = sparse.status === 0 && /^ +CHECK +virtio_loopback\.c$/m.test(sparse.output);
    if (!isChecked) process.stderr.write(sparse.output);
    return [
      ...checkpatch.output.split('\n').filter((line) => line !== ''),
      // Sparse also complains about the kernel's own headers, which are not ours to change.
      ...sparse.output.split('\n').filter((line) => /virtio_loopback.*(warning|error):/.test(line)),
      ...(isChecked ? [] : ['sparse did not run']),
      ...(checkpatch.status === 0 || checkpatch.output.trim() !== '' ? [] : ['checkpatch failed']),
    ];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
