/** null_blk: a disk in the kernel's memory without any device behind it. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VloError } from '../errors.js';

const CONFIGFS = '/sys/kernel/config';
const MIB = 1024 ** 2;
const NODE_MS = 5000;

/** Why it cannot be had, with the command that helps; null: it can. */
export function whyNoNullBlock(): { reason: string; enable: string } | null {
  if (existsSync(join(CONFIGFS, 'nullb'))) return null;
  if (existsSync('/sys/module/null_blk') && !existsSync('/sys/module/configfs/refcnt')) {
    if (readdirSync(CONFIGFS).length === 0) {
      return { reason: 'configfs is not mounted', enable: `mount -t configfs none ${CONFIGFS}` };
    }
  }
  return {
    reason: 'the module null_blk is not loaded, or configfs is not mounted',
    enable: `modprobe null_blk nr_devices=0 && mount -t configfs none ${CONFIGFS}`,
  };
}

const disks = (): string[] => readdirSync('/sys/block');

/** A disk that is there until it is closed. */
export class NullBlock {
  /** As one would type it, to have the same disk. */
  readonly commands: readonly string[];
  node = '';
  private readonly folder: string;
  private readonly settings: readonly (readonly [string, string])[];

  constructor(name: string, size: number, queues: number) {
    this.folder = join(CONFIGFS, 'nullb', name);
    this.settings = [
      ['size', `${Math.ceil(size / MIB)}`],
      ['memory_backed', '1'],
      ['blocksize', '512'],
      ['submit_queues', `${queues}`],
      ['power', '1'],
    ];
    const writes = this.settings.map(([key, value]) => `echo ${value} > ${this.folder}/${key}`);
    this.commands = [`mkdir ${this.folder}`, ...writes];
  }

  /** @throws VloError VLO_BENCH_FAILED */
  async open(size: number): Promise<void> {
    const before = new Set(disks());
    try {
      mkdirSync(this.folder);
      for (const [key, value] of this.settings) writeFileSync(join(this.folder, key), value);
      const name = disks().find((disk) => !before.has(disk));
      if (name === undefined) {
        throw new VloError('VLO_BENCH_FAILED', 'null_blk made no disk');
      }
      this.node = `/dev/${name}`;
      for (let waited = 0; !existsSync(this.node) && waited < NODE_MS; waited += 20)
        await sleep(20);
      fill(this.node, size);
    } catch (error) {
      this.close();
      if (error instanceof VloError) throw error;
      throw new VloError('VLO_BENCH_FAILED', `null_blk: ${(error as Error).message}`);
    }
  }

  close(): void {
    try {
      rmdirSync(this.folder);
    } catch {
      // It was not made.
    }
  }

  get disk(): string {
    return basename(this.node);
  }
}

/** Writes all of a file or disk: what was never written is read without touching any memory. */
export function fill(path: string, size: number): void {
  const file = openSync(path, 'r+');
  try {
    const chunk = new Uint8Array(MIB).map((_, i) => (i * 167) & 0xff);
    for (let at = 0; at < size; at += MIB) {
      writeSync(file, chunk, 0, Math.min(MIB, size - at), at);
    }
  } finally {
    closeSync(file);
  }
}
