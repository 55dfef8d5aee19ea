/** Where things lie, the architectures and kernels, and the parts that lab/setup.sh builds. */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
export const LAB = process.env.VLO_LAB || '/var/cache/virtio-loopback/lab';

/** What differs between the architectures; `make` is the kernel's name of it. */
export const ARCHITECTURES = {
  'x86-64': {
    make: { arch: 'x86', cross: 'x86_64-linux-gnu-' },
    cpu: 'x64',
    qemu: ['qemu-system-x86_64', '-M', 'q35', '-cpu', 'max'],
    console: 'ttyS0',
  },
  arm64: {
    make: { arch: 'arm64', cross: 'aarch64-linux-gnu-' },
    cpu: 'arm64',
    qemu: ['qemu-system-aarch64', '-M', 'virt,gic-version=3', '-cpu', 'max,pauth-impdef=on'],
    console: 'ttyAMA0',
  },
  riscv64: {
    make: { arch: 'riscv', cross: 'riscv64-linux-gnu-' },
    cpu: 'riscv64',
    qemu: ['qemu-system-riscv64', '-M', 'virt', '-cpu', 'max'],
    console: 'ttyS0',
  },
};

/** The lab can not do what was asked; the message says why. */
export class LabError extends Error {}

/** Debian does not have what was asked for, or does not have it for this architecture. */
export class NotThereError extends LabError {}
/** The status of lab/setup.sh for that. */
const STATUS_NOT_THERE = 3;

/** @param {string} line */
export const progress = (line) => process.stderr.write(`lab: ${line}\n`);

/** Seconds since a time of `performance.now()`, for people. @param {number} started */
export const secondsSince = (started) => `${((performance.now() - started) / 1000).toFixed(1)} s`;

/** The path of something in a part. @param {string} name @param {...string} path */
export const part = (name, ...path) => join(LAB, name, ...path);

/** Builds the parts that are missing. @param {readonly string[]} names */
export function needParts(names) {
  const setup = spawnSync(join(PROJECT, 'lab/setup.sh'), names, {
    env: { ...process.env, VLO_LAB: LAB },
    stdio: ['ignore', process.stderr, 'pipe'],
    encoding: 'utf8',
  });
  process.stderr.write(setup.stderr);
  if (setup.status === STATUS_NOT_THERE) {
    throw new NotThereError(setup.stderr.trim().split('\n').at(-1).replace('lab setup: ', ''));
  }
  if (setup.status !== 0) throw new LabError('lab/setup.sh failed');
}

/**
 * The packages that the project uses, for another architecture than this machine's: koffi's binary
 * differs. Returns the folder `node_modules`.
 * @param {string} arch
 */
export function needPackages(arch) {
  const files = ['package.json', 'package-lock.json'];
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(join(PROJECT, file)));
  const folder = join(LAB, `packages-${arch}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(folder)) return join(folder, 'node_modules');
  const started = performance.now();
  mkdirSync(LAB, { recursive: true });
  const scratch = mkdtempSync(join(LAB, 'packages-'));
  try {
    for (const file of files) cpSync(join(PROJECT, file), join(scratch, file));
    const { cpu } = ARCHITECTURES[arch];
    const platform = ['--os=linux', `--cpu=${cpu}`, '--libc=glibc'];
    const npm = ['ci', '--silent', '--omit=dev', '--ignore-scripts', ...platform];
    const { status } = spawnSync('npm', npm, { cwd: scratch, stdio: ['ignore', 2, 2] });
    if (status !== 0) throw new LabError(`npm ${npm.join(' ')} failed`);
    if (!existsSync(join(scratch, `node_modules/@koromix/koffi-linux-${cpu}`))) {
      throw new LabError(`npm brought no koffi for ${arch}`);
    }
    // Of two runs at the same time, one is the first, and both have the same.
    if (!existsSync(folder)) renameSync(scratch, folder);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  progress(`packages for ${arch} in ${secondsSince(started)}`);
  return join(folder, 'node_modules');
}
