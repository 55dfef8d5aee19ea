/**
 * Disks in place of the folders that a guest mounts over 9p. Linux cannot suspend a guest with 9p
 * over virtio, so a job that suspends its guest gets everything on NVMe disks: one read-only ext4
 * image for each folder, and a writable one for the run's folder, which is read back at the end.
 */

import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { LAB, LabError, PROJECT } from './places.mjs';

/** The jobs whose guest has disks. */
const DISKS_OF = new Set(['suspend']);

/** Room for what the guest adds, in MiB. The image is sparse. */
const SPARE_MIB = { ro: 16, rw: 512 };
/** Ext4's own tables, as a share of the files' size. */
const OVERHEAD = 1.2;
const SPARE_INODES = 1024;
const E2FSCK_REPAIRED = 1;

/** @param {string} job */
export const needsDisks = (job) => DISKS_OF.has(job);

function run(command, ...words) {
  const { status, stdout, stderr, error } = spawnSync(command, words, { encoding: 'utf8' });
  if (error !== undefined) throw new LabError(`${command}: ${error.message}`);
  return { status, stdout, stderr };
}

function runWell(command, ...words) {
  const { status, stdout, stderr } = run(command, ...words);
  if (status !== 0) throw new LabError(`${command} ${words.join(' ')}: ${stderr.trim()}`);
  return stdout;
}

const diskUsage = (...words) => Number(runWell('du', ...words).split('\t')[0]);

/** Puts a folder's content into a new image. @param {'ro' | 'rw'} mode */
function makeImage(path, folder, mode) {
  const size = diskUsage('-s', '--block-size=1M', folder) * OVERHEAD + SPARE_MIB[mode];
  const inodes = diskUsage('-s', '--inodes', folder) + SPARE_INODES;
  runWell(
    'mke2fs',
    ...['-q', '-t', 'ext4', '-m', '0', '-N', `${inodes}`, '-d', folder],
    // Nothing writes to the others.
    ...(mode === 'ro' ? ['-O', '^has_journal'] : []),
    path,
    `${Math.ceil(size)}M`,
  );
}

/** The disks of one guest; the guest finds them by their serial numbers, which are their tags. */
export class Disks {
  #folder;
  /** @type {{ tag: string, mode: 'ro' | 'rw', image: string, path: string }[]} */
  #disks;

  /**
   * Makes the images, and an initramfs that mounts them.
   * @param {string} run the folder of the run
   * @param {import('./module.mjs').Kernel} kernel
   * @param {readonly { tag: string, path: string, mode: 'ro' | 'rw' }[]} shares
   */
  constructor(run, kernel, shares) {
    this.#folder = join(run, 'disks');
    mkdirSync(this.#folder);
    this.initramfs = join(this.#folder, 'initramfs.gz');
    const setup = ['--initramfs', kernel.arch, kernel.modules, this.initramfs, 'disks'];
    runWell('env', `VLO_LAB=${LAB}`, join(PROJECT, 'lab/setup.sh'), ...setup);
    this.#disks = shares.map(({ tag, path, mode }) => {
      const image = join(this.#folder, `${tag}.img`);
      makeImage(image, path, mode);
      return { tag, mode, image, path };
    });
  }

  /** QEMU's words. */
  arguments() {
    return this.#disks.flatMap(({ tag, mode, image }) => [
      '-drive',
      `if=none,id=${tag},format=raw,file=${image},readonly=${mode === 'ro' ? 'on' : 'off'}`,
      ...['-device', `nvme,drive=${tag},serial=${tag}`],
    ]);
  }

  /** Brings back what the guest wrote, however it ended, and removes the images. */
  end() {
    try {
      for (const { mode, image, path } of this.#disks) if (mode === 'rw') readBack(image, path);
    } finally {
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }
}

function readBack(image, folder) {
  // A guest that crashed leaves a journal to replay.
  const { status, stdout } = run('e2fsck', '-fy', image);
  if (status > E2FSCK_REPAIRED) throw new LabError(`e2fsck ${image}: ${stdout}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  runWell('debugfs', '-R', `rdump / ${folder}`, image);
  rmSync(join(folder, 'lost+found'), { recursive: true, force: true });
}
