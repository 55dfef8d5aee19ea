/**
 * Programs in C that jobs need in the guest, and plugins that they need in QEMU: lab/native, and
 * kernel/selftests.
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
} from 'node:fs';
import { basename, join } from 'node:path';
import { ARCHITECTURES, LAB, LabError, needParts, PROJECT, part, progress } from './places.mjs';

const SOURCE = join(PROJECT, 'lab/native');
const FLAGS = ['-O2', '-Wall', '-Wextra', '-Werror'];
/** The guest's C library may be another than the build tree's. */
const PROGRAM_FLAGS = ['-static', '-pthread'];
const PLUGIN_FLAGS = ['-shared', '-fPIC', '-fvisibility=hidden'];

/** Where the programs are that do not lie in lab/native, and the headers that they need besides. */
const SELFTESTS = join(PROJECT, 'kernel/selftests');
const ELSEWHERE = {
  virtio_loopback: { folder: SELFTESTS, headers: [join(PROJECT, 'kernel/virtio_loopback.h')] },
};

/** The paths of `NAME.c` and of all headers that it may include. */
function sourcesOf(name) {
  const { folder, headers } = ELSEWHERE[name] ?? { folder: SOURCE, headers: [] };
  const isWanted = (file) => file === `${name}.c` || /\.h$/.test(file);
  const files = readdirSync(folder).filter(isWanted);
  return [...files.map((file) => join(folder, file)), ...headers];
}

/** Compiles `NAME.c`, if this source was not compiled so before; returns the path of the result. */
function compile(kernel, compiler, name, flags) {
  needParts([kernel.tree]);
  const hash = createHash('sha256').update([compiler, name, ...flags].join(' '));
  const sources = sourcesOf(name);
  for (const path of sources) hash.update(readFileSync(path));
  const target = join(LAB, 'native', hash.digest('hex').slice(0, 24));
  if (existsSync(target)) return target;
  mkdirSync(join(LAB, 'native'), { recursive: true });
  const scratch = mkdtempSync(join(LAB, 'native/build-'));
  try {
    for (const path of sources) cpSync(path, join(scratch, basename(path)));
    const tree = part(kernel.tree, 'tree');
    const command = [compiler, ...FLAGS, ...flags, '-o', 'done', `${name}.c`];
    const chroot = join(PROJECT, 'lab/chroot.sh');
    const { status } = spawnSync('bash', [chroot, tree, scratch, scratch, ...command], {
      stdio: ['ignore', process.stderr, 'inherit'],
    });
    if (status !== 0) throw new LabError(`${name}.c does not build`);
    renameSync(join(scratch, 'done'), target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  progress(`${name} built with ${compiler}`);
  return target;
}

/** A program for the guest. @param {import('./module.mjs').Kernel} kernel @param {string} name */
const buildProgram = (kernel, name) =>
  compile(kernel, `${ARCHITECTURES[kernel.arch].make.cross}gcc`, name, PROGRAM_FLAGS);

/** A plugin for QEMU. @param {import('./module.mjs').Kernel} kernel @param {string} name */
export const buildPlugin = (kernel, name) => compile(kernel, 'gcc', name, PLUGIN_FLAGS);

/** The jobs that find programs beside our module. */
const PROGRAMS_OF = {
  instructions: ['copies', 'ublk-server'],
  selftests: ['virtio_loopback'],
};

/** Puts the programs of a job where the guest finds them. */
export function putPrograms(kernel, job, folder) {
  for (const name of PROGRAMS_OF[job] ?? []) {
    copyFileSync(buildProgram(kernel, name), join(folder, name));
  }
}
