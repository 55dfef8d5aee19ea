/** The kernels that a guest can boot. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LAB, LabError, NotThereError, needParts, PROJECT, part } from './places.mjs';

/** Debian's kernels by the number of Linux, from the oldest; each also with "-rt". */
const NUMBERS = ['5.10', '6.1', '6.12', '7.2', '7.3'];
/** The number that `newest` had when this was written: while it has it, the two are one kernel. */
const NUMBER_OF_SID = '7.2';
const REALTIME = '-rt';

/** What `--kernel all` stands for. */
export const MATRIX = NUMBERS.flatMap((number) => [number, `${number}${REALTIME}`]);
/** The kernels of lab/debug-kernel.sh. */
const DEBUG = ['debug', 'debug-kcsan'];
const KERNELS = [...MATRIX, 'newest', `newest${REALTIME}`, ...DEBUG];

/** The build tree for a kernel of another suite than sid: "build-..." of lab/setup.sh. */
const TREES = { 7.2: '6.12', 7.3: '6.12' };

/**
 * How many times as long as on real hardware things may take: all is emulated, and the machine may
 * have other work.
 */
const PATIENCE = 3;
/** The same for a debug kernel. */
export const DEBUG_PATIENCE = 5;

/** True for a kernel of lab/debug-kernel.sh. @param {string} version */
export const isDebug = (version) => DEBUG.includes(version);

/**
 * The kernels of `--kernel`, or the one that there is not.
 * @param {string} text names with commas between them; `all` is the matrix
 * @returns {{ kernels: string[], unknown: string | undefined }}
 */
export function readKernels(text) {
  const names = text.split(',').flatMap((name) => (name === 'all' ? MATRIX : [name]));
  const kernels = [...new Set(names)];
  return { kernels, unknown: kernels.find((name) => !KERNELS.includes(name)) };
}

const releaseOf = (arch, version) =>
  readFileSync(part(`kernel-${arch}-${version}`, 'release'), 'utf8').trim();

/** The version in the names of the parts: that of sid, as long as sid has what was asked for. */
function versionOfParts(arch, version) {
  if (version.replace(REALTIME, '') !== NUMBER_OF_SID) return version;
  const newest = version.replace(NUMBER_OF_SID, 'newest');
  needParts([`root-${arch}`, `kernel-${arch}-${newest}`]);
  return releaseOf(arch, newest).startsWith(`${NUMBER_OF_SID}.`) ? newest : version;
}

/** A kernel of Debian's. @returns {import('./module.mjs').Kernel} */
export function packagedKernel(arch, asked) {
  const version = versionOfParts(arch, asked);
  const name = `kernel-${arch}-${version}`;
  // The initramfs has busybox from the root.
  needParts([`root-${arch}`, name]);
  const number = version.replace(REALTIME, '');
  return {
    arch,
    version: asked,
    tree: `build-${TREES[number] ?? number}`,
    source: number === 'newest' ? 'source' : `source-${number}`,
    release: releaseOf(arch, version),
    image: part(name, 'vmlinuz'),
    modules: part(name, 'lib/modules'),
    initramfs: part(name, 'initramfs.gz'),
    build: part(name),
    patience: PATIENCE,
  };
}

/** The kernel of lab/debug-kernel.sh, which is built when it is missing. */
export function debugKernel(arch, version) {
  if (arch !== 'x86-64') throw new NotThereError('the debug kernels are for x86-64 only');
  buildDebugKernel(version);
  const [release] = readdirSync(part(version, 'modules'));
  return {
    arch,
    version,
    // It is built with the same compiler and source.
    tree: 'build-newest',
    source: 'source',
    release,
    image: part(version, 'bzImage'),
    modules: part(version, 'modules'),
    initramfs: part(version, 'initramfs.gz'),
    build: part(version, 'build'),
    patience: DEBUG_PATIENCE,
  };
}

/** Does nothing when it is there. @param {string} version debug or debug-kcsan */
export function buildDebugKernel(version) {
  const { status } = spawnSync(join(PROJECT, 'lab/debug-kernel.sh'), [version], {
    env: { ...process.env, VLO_LAB: LAB },
    stdio: ['ignore', process.stderr, 'inherit'],
  });
  if (status !== 0) throw new LabError('lab/debug-kernel.sh failed');
}

/** A kernel that someone built. @returns {import('./module.mjs').Kernel} */
export function customKernel({ arch, image, modules, build }) {
  const releases = readdirSync(modules);
  if (releases.length !== 1) {
    throw new LabError(`--modules-dir: ${modules} has to hold one folder, named by the release`);
  }
  needParts([`root-${arch}`]);
  mkdirSync(LAB, { recursive: true });
  const scratch = mkdtempSync(join(LAB, 'initramfs-'));
  process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
  const initramfs = join(scratch, 'initramfs.gz');
  const setup = [join(PROJECT, 'lab/setup.sh'), '--initramfs', arch, resolve(modules), initramfs];
  const { status } = spawnSync('bash', setup, { stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new LabError('lab/setup.sh --initramfs failed');
  return {
    arch,
    version: 'custom',
    tree: 'build-newest',
    source: 'source',
    release: releases[0],
    image: resolve(image),
    modules: resolve(modules),
    initramfs,
    build: build === undefined ? '' : resolve(build),
    patience: PATIENCE,
  };
}
