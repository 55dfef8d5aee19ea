/**
 * The demonstration as root: ext4 on a loop device on the disk's file.
 *
 * The loop device goes past the page cache of that file where it can: then what is verified comes
 * from the disk and not from memory.
 */
import { mkdir, open, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { demoFailed, mustRun, runProgram } from './demo-program.js';
import { backingFile, type LayerCounts } from './demo-stand.js';
import { checkFile, type DemoFile, forEachFile } from './demo-tree.js';
import { CAPABILITY, findProgram, hasCapability, type Machine } from './doctor-machine.js';

const PROGRAMS = ['mkfs.ext4', 'losetup', 'mount', 'umount', 'e2fsck'] as const;
type ProgramPaths = Record<(typeof PROGRAMS)[number], string>;

/** Of so many files, one is synchronised: requests are on their way all the time. */
const SYNC_EACH = 8;
const SECTOR_SIZE = 512;
/** Time in milliseconds until a loop device that was dropped has to be free. */
const FREE_MS_MAX = 3000;

/** The programs, or why there can be no file system. */
function findPrograms(machine: Machine): ProgramPaths | string {
  if (!hasCapability(machine, CAPABILITY.sysAdmin)) return 'mounting needs root';
  if (!machine.exists('/dev/loop-control')) return 'there are no loop devices (modprobe loop)';
  const paths = PROGRAMS.map((name) => [name, findProgram(machine, name)] as const);
  const missing = paths.filter(([, path]) => path === null).map(([name]) => name);
  if (missing.length > 0) return `${missing.join(', ')} missing (packages e2fsprogs, mount)`;
  return Object.fromEntries(paths) as ProgramPaths;
}

export class DemoFileSystem {
  /** The loop device, as `/dev/loop0`. */
  loop: string | null = null;
  isDirect = true;
  private readonly programs: ProgramPaths;
  private readonly disk: string;
  private readonly point: string;
  private readonly check: () => void;
  private isMounted = false;
  private statBefore: readonly number[] = [];
  private readonly counts = { requests: 0, bytesRead: 0, bytesWritten: 0 };
  private lastLoop = '';

  private constructor(programs: ProgramPaths, disk: string, point: string, check: () => void) {
    this.programs = programs;
    this.disk = disk;
    this.point = point;
    this.check = check;
  }

  /**
   * Null with the reason where this machine does not allow it.
   * @param check throws when the demonstration was interrupted
   */
  static plan(
    machine: Machine,
    disk: string,
    point: string,
    check: () => void,
  ): DemoFileSystem | string {
    const programs = findPrograms(machine);
    return typeof programs === 'string'
      ? programs
      : new DemoFileSystem(programs, disk, point, check);
  }

  /**
   * Makes the file system and mounts it.
   * @returns null, or why this machine does not allow it
   */
  async create(): Promise<string | null> {
    await mustRun(this.programs['mkfs.ext4'], ['-q', '-F', '-L', 'vlo-demo', this.disk]);
    await mkdir(this.point);
    const reason = (await this.attach()) ?? (await this.mount('rw,noatime'));
    if (reason !== null) await this.leave();
    return reason;
  }

  /** Verifies from here on: nothing more is written. */
  async reopen(): Promise<void> {
    const reason = (await this.attach()) ?? (await this.mount('ro'));
    if (reason !== null) throw demoFailed(reason);
  }

  private async attach(): Promise<string | null> {
    this.check();
    const find = ['--find', '--show'];
    let run = await runProgram(this.programs.losetup, [...find, '--direct-io=on', this.disk]);
    this.loop = loopIn(run.output);
    this.isDirect = run.status === 0;
    if (!this.isDirect) {
      await this.detach();
      run = await runProgram(this.programs.losetup, [...find, this.disk]);
      this.loop = loopIn(run.output);
    }
    if (run.status !== 0 || this.loop === null) return run.complaint;
    this.lastLoop = this.loop;
    this.statBefore = await this.stat();
    return null;
  }

  private async mount(options: string): Promise<string | null> {
    this.check();
    // Set first: after an interruption it may be mounted although nobody waited for it.
    this.isMounted = true;
    const args = ['-t', 'ext4', '-o', `${options},nosuid,nodev`, this.loop!, this.point];
    const { status, complaint } = await runProgram(this.programs.mount, args);
    this.isMounted = status === 0;
    if (this.isMounted) return null;
    const known = await readFile('/proc/filesystems', 'utf8').catch(() => '');
    // Where the kernel can do it, it has to work.
    if (/\bext4$/m.test(known) && /superblock|I\/O|structure/i.test(complaint)) {
      throw demoFailed(complaint);
    }
    return complaint;
  }

  /** Requests and sectors of the loop device, as the kernel counts them. */
  private async stat(): Promise<readonly number[]> {
    const text = await readFile(`/sys/block/${basename(this.lastLoop)}/stat`, 'utf8').catch(
      () => '',
    );
    return text.trim().split(/\s+/).map(Number);
  }

  private async countRequests(): Promise<void> {
    const now = await this.stat();
    const since = (field: number): number => (now[field] ?? 0) - (this.statBefore[field] ?? 0);
    this.counts.requests += since(0) + since(4) + since(11) + since(15);
    this.counts.bytesRead += since(2) * SECTOR_SIZE;
    this.counts.bytesWritten += since(6) * SECTOR_SIZE;
  }

  layer(): LayerCounts {
    return { ...this.counts, name: `ext4 on ${this.lastLoop}`, errors: null, restarts: null };
  }

  async write(files: readonly DemoFile[], atHalf: () => void): Promise<void> {
    const folders = new Set(files.map(({ path }) => join(this.point, dirname(path))));
    for (const folder of folders) await mkdir(folder, { recursive: true });
    let count = 0;
    const writeOne = async ({ path, bytes }: DemoFile): Promise<void> => {
      this.check();
      const isSynchronised = count % SYNC_EACH === 0;
      count += 1;
      const handle = await open(join(this.point, path), 'wx');
      try {
        await handle.writeFile(bytes);
        if (isSynchronised) await handle.sync();
      } finally {
        await handle.close();
      }
    };
    await forEachFile(files, writeOne, atHalf);
  }

  async verify(files: readonly DemoFile[], atHalf: () => void): Promise<void> {
    const checkOne = async (file: DemoFile): Promise<void> => {
      this.check();
      checkFile(file, await readFile(join(this.point, file.path)));
    };
    await forEachFile(files, checkOne, atHalf);
  }

  /** Has the file system looked at by its own program; it changes nothing. */
  async examine(): Promise<void> {
    this.check();
    await mustRun(this.programs.e2fsck, ['-f', '-n', this.disk]);
  }

  /** Unmounts and drops the loop device. Idempotent. @throws VloError VLO_DEMO_FAILED */
  async leave(): Promise<void> {
    if (this.isMounted) {
      let { status, complaint } = await runProgram(this.programs.umount, [this.point]);
      if (status !== 0 && !(await isMountPoint(this.point))) status = 0;
      if (status !== 0) {
        await runProgram(this.programs.umount, ['-l', this.point]);
        await this.detach();
        throw demoFailed(complaint);
      }
      this.isMounted = false;
    }
    if (this.loop !== null) await this.countRequests();
    await this.detach();
  }

  private async detach(): Promise<void> {
    const { loop } = this;
    if (loop === null) return;
    this.loop = null;
    const { complaint } = await runProgram(this.programs.losetup, ['-d', loop]);
    // Whoever looks at new devices may still have it open: it goes a moment later.
    const end = Date.now() + FREE_MS_MAX;
    while ((await backingFile(basename(loop)))?.startsWith(this.disk) === true) {
      if (Date.now() > end) throw demoFailed(`${loop} is not free: ${complaint}`);
      await sleep(10);
    }
  }
}

function loopIn(output: string): string | null {
  return /\/dev\/loop\d+/.exec(output)?.[0] ?? null;
}

async function isMountPoint(path: string): Promise<boolean> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').some((line) => line.split(' ')[4] === path);
}
