/**
 * The run directory: where a HAL keeps its sockets, its presentations and its status.
 *
 *   RUN/lock           held as long as the HAL lives; the kernel lets it go however it ends
 *   RUN/control.sock   commands of `vlo status`, `down`, `restart`
 *   RUN/status.json    what is up, and which processes belong to it
 *   RUN/disk0.sock     the socket of a device
 *   RUN/disk0/         its presentation
 *
 * Whoever gets the lock knows that no other HAL lives, and takes away what a dead one left.
 */
import {
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  type Stats,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { VloError } from '../errors.js';
import { fuseMountsBelow, unmountFuse } from '../fuse/index.js';
import { SOCKET_PATH_MAX, tryLock } from '../native/index.js';
import { endProcess, isSameProcess } from './process-identity.js';
import type { DeviceStatus, HalStatus } from './status.js';

/** Where a HAL is, when nothing else is said. @throws VloError VLO_RUN_DIR */
export function defaultRunDirectory(): string {
  if (process.geteuid?.() === 0) return '/run/vlo';
  const base = process.env.XDG_RUNTIME_DIR;
  if (base !== undefined && base !== '') return join(base, 'vlo');
  throw new VloError('VLO_RUN_DIR', 'XDG_RUNTIME_DIR is not set: choose a folder with --run-dir');
}

const CONTROL = 'control.sock';
const STATUS = 'status.json';

/** Socket on which the HAL of a run directory takes commands. */
export function controlSocket(runDir: string): string {
  return join(runDir, CONTROL);
}

export class RunDirectory {
  readonly path: string;
  private readonly lock: number;

  private constructor(path: string, lock: number) {
    this.path = path;
    this.lock = lock;
  }

  /**
   * Makes the folder if it is not there, and takes it for this process.
   * @throws VloError VLO_HAL_RUNNING when another HAL has it; VLO_RUN_DIR when it cannot be used
   */
  static open(path: string): RunDirectory {
    const absolute = resolve(path);
    let lock: number;
    try {
      mkdirSync(absolute, { recursive: true, mode: 0o755 });
      lock = openSync(join(absolute, 'lock'), 'a', 0o600);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new VloError(
        'VLO_RUN_DIR',
        `the run directory '${absolute}' cannot be used (${code}): choose one with --run-dir`,
      );
    }
    if (tryLock(lock)) return new RunDirectory(absolute, lock);
    closeSync(lock);
    throw new VloError(
      'VLO_HAL_RUNNING',
      `another 'vlo up' uses '${absolute}': end it with 'vlo down', or choose --run-dir`,
    );
  }

  get controlSocket(): string {
    return controlSocket(this.path);
  }

  /** The socket of a device. @throws VloError VLO_RUN_DIR when its path is too long */
  socket(name: string): string {
    const path = join(this.path, `${name}.sock`);
    if (Buffer.byteLength(path) <= SOCKET_PATH_MAX) return path;
    throw new VloError(
      'VLO_RUN_DIR',
      `the socket path '${path}' has more than ${SOCKET_PATH_MAX} bytes: choose a shorter --run-dir`,
    );
  }

  /** Makes the folder of a device's presentation. @throws VloError VLO_RUN_DIR */
  makeFolder(name: string): string {
    const path = join(this.path, name);
    try {
      mkdirSync(path, { recursive: true, mode: 0o755 });
      return path;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new VloError(
        'VLO_RUN_DIR',
        `the folder '${path}' of a presentation cannot be made (${code}): remove what is there, ` +
          'or choose another --run-dir',
      );
    }
  }

  /** Takes the folder of a presentation away, if nothing is in it. */
  removeFolder(name: string): void {
    try {
      rmdirSync(join(this.path, name));
    } catch {
      // Somebody put something into it: theirs to remove.
    }
  }

  /** Whoever reads the status finds it whole at any time. */
  writeStatus(status: HalStatus): void {
    const path = join(this.path, STATUS);
    writeFileSync(`${path}.new`, `${JSON.stringify(status, null, 2)}\n`, { mode: 0o644 });
    renameSync(`${path}.new`, path);
  }

  /**
   * Takes away what a HAL left that was killed: mounts, processes, sockets, folders. Only what
   * belongs to its devices, or has the name of one that comes up now, is touched: others may keep
   * things in this folder too.
   */
  async cleanUp(names: readonly string[], log: (line: string) => void): Promise<void> {
    const left = this.leftDevices();
    const all = new Set([...names, ...left.map(({ name }) => name)]);
    const folders = new Set([...all].map((name) => join(this.path, name)));
    for (const mountPoint of fuseMountsBelow(this.path)) {
      if (!folders.has(mountPoint)) continue;
      log(`removing the mount '${mountPoint}', left by a HAL that was killed`);
      await unmountFuse(mountPoint, true);
    }
    for (const { backEnd } of left) {
      const identity = backEnd.process;
      if (identity === null || !isSameProcess(identity)) continue;
      log(`ending process ${identity.pid}, left by a HAL that was killed`);
      await endProcess(identity);
    }
    for (const name of all) this.cleanDevice(name);
    for (const name of [STATUS, `${STATUS}.new`]) rmSync(join(this.path, name), { force: true });
    removeIf(this.controlSocket, (file) => file.isSocket());
  }

  private cleanDevice(name: string): void {
    removeIf(join(this.path, `${name}.sock`), (file) => file.isSocket());
    removeIf(join(this.path, name, 'random'), (file) => file.isFIFO());
    this.removeFolder(name);
  }

  /** Devices of the last status. */
  private leftDevices(): DeviceStatus[] {
    try {
      const path = join(this.path, STATUS);
      // In a folder that others may write to, a status that is not ours must not end processes.
      if (lstatSync(path).uid !== process.geteuid!()) return [];
      const status = JSON.parse(readFileSync(path, 'utf8')) as HalStatus;
      return status.devices.filter(
        ({ name, backEnd }) => /^[\w-]+$/.test(name) && backEnd.process !== undefined,
      );
    } catch {
      return []; // No status, or none that can be read: nothing is known.
    }
  }

  /** Lets the folder go; it stays, with nothing of ours in it but the lock's file. */
  close(): void {
    rmSync(join(this.path, STATUS), { force: true });
    rmSync(this.controlSocket, { force: true });
    closeSync(this.lock);
  }
}

function removeIf(path: string, isOurs: (file: Stats) => boolean): void {
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (file !== undefined && isOurs(file)) unlinkSync(path);
}
