/** The kernels that a guest can boot. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LAB, LabError, needParts, PROJECT, part } from './places.mjs';

/**
 * How many times as long as on real hardware things may take: all is emulated, and the machine may
 * have other work.
 */
const PATIENCE = 3;
/** The same for the debug kernel. */
export const DEBUG_PATIENCE = 5;

/** A kernel of Debian's. @returns {import('./module.mjs').Kernel} */
export function packagedKernel(arch, version) {
  const name = `kernel-${arch}-${version}`;
  // The initramfs has busybox from the root.
  needParts([`root-${arch}`, name]);
  return {
    arch,
    version,
    release: readFileSync(part(name, 'release'), 'utf8').trim(),
    image: part(name, 'vmlinuz'),
    modules: part(name, 'lib/modules'),
    initramfs: part(name, 'initramfs.gz'),
    build: part(name),
    patience: PATIENCE,
  };
}

/** The kernel of lab/debug-kernel.sh, which is built when it is missing. */
export function debugKernel(arch) {
  if (arch !== 'x86-64') throw new LabError('the debug kernel is for x86-64 only');
  buildDebugKernel();
  const [release] = readdirSync(part('debug', 'modules'));
  return {
    arch,
    // It is built with the same compiler.
    version: 'newest',
    release,
    image: part('debug', 'bzImage'),
    modules: part('debug', 'modules'),
    initramfs: part('debug', 'initramfs.gz'),
    build: part('debug', 'build'),
    patience: DEBUG_PATIENCE,
  };
}

/** Does nothing when it is there. */
export function buildDebugKernel() {
  const { status } = spawnSync(join(PROJECT, 'lab/debug-kernel.sh'), {
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
    version: 'newest',
    release: releases[0],
    image: resolve(image),
    modules: resolve(modules),
    initramfs,
    build: build === undefined ? '' : resolve(build),
    patience: PATIENCE,
  };
}
