/**
 * What the demonstration stands on: a HAL with a disk and an entropy source in a temporary folder.
 *
 * Where there is no FUSE the disk has no file, and a back end serves one driver at a time: then the
 * HAL keeps the entropy source alone, and the disk's process has the demonstration's own driver.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlkDriver } from '../devices/index.js';
import { parseConfig, prepareImages } from './config.js';
import { demoFailed } from './demo-program.js';
import { DeviceUnit } from './device-unit.js';
import { Hal } from './hal.js';
import { isSameProcess, type ProcessIdentity } from './process-identity.js';
import type { DeviceStatus } from './status.js';

export const DISK_MIB = 128;
const DISK_LINE = `  disk0: { type: blk, image: disk.img, size: ${DISK_MIB}MiB }\n`;
const RNG_LINE = '  rng0: { type: rng }\n';
/** Time in milliseconds until a process that was killed has to be replaced. */
const REPLACED_MS_MAX = 10_000;
const LOOK_MS = 5;

/** What went through a layer. */
export interface LayerCounts {
  readonly name: string;
  readonly requests: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly errors: number | null;
  readonly restarts: number | null;
}

/** A disk without a file: a process, and a driver in this one. */
interface OwnDisk {
  readonly unit: DeviceUnit;
  readonly driver: BlkDriver;
  readonly socket: string;
}

export class DemoStand {
  /** Why the disk has no file; null when it has one. */
  note: string | null = null;
  kills = 0;
  readonly folder: string;
  private readonly log: (line: string) => void;
  private hal: Hal | null = null;
  private ownUnit: DeviceUnit | null = null;
  private own: OwnDisk | null = null;
  private readonly processes: ProcessIdentity[] = [];
  private readonly driverCounts = { requests: 0, bytesRead: 0, bytesWritten: 0 };

  constructor(folder: string, log: (line: string) => void) {
    this.folder = folder;
    this.log = log;
  }

  /** Brings all up. Whatever happens, {@link down} is next. */
  async up(): Promise<void> {
    await this.upHal(DISK_LINE + RNG_LINE);
    const { presentation, note } = this.device('disk0');
    if (presentation !== null) return;
    this.note = note;
    await this.hal!.down();
    await this.upHal(RNG_LINE);
    await this.upOwnDisk();
  }

  private parse(lines: string) {
    const config = parseConfig(`devices:\n${lines}`, join(this.folder, 'hal.yaml'));
    prepareImages(config);
    return config;
  }

  private async upHal(lines: string): Promise<void> {
    const options = { runDirectory: join(this.folder, 'run'), log: this.log };
    this.hal = await Hal.up(this.parse(lines), options);
    await this.hal.ready();
    this.remember();
  }

  private async upOwnDisk(): Promise<void> {
    const socket = join(this.folder, 'disk0.sock');
    const [config] = this.parse(DISK_LINE).devices;
    const unit = await new Promise<DeviceUnit>((resolve, reject) => {
      this.ownUnit = new DeviceUnit([{ config: config!, socket }], {
        log: this.log,
        onServing: () => resolve(this.ownUnit!),
        onDeath: () => {},
        onGivenUp: reject,
      });
      this.ownUnit.start();
    });
    const reconnect = { limitMs: REPLACED_MS_MAX };
    const driver = await BlkDriver.connect({ path: socket, reconnect, log: this.log });
    this.own = { unit, driver, socket };
    this.remember();
  }

  private device(name: string): DeviceStatus {
    return this.hal!.status().devices.find((device) => device.name === name)!;
  }

  get image(): string {
    return join(this.folder, 'disk.img');
  }

  /** What applications open; null without FUSE. */
  get diskPath(): string | null {
    return this.own === null ? this.device('disk0').presentation : null;
  }

  /** The driver of a disk that has no file; its calls are counted by {@link count}. */
  get driver(): BlkDriver | null {
    return this.own?.driver ?? null;
  }

  get randomPath(): string {
    return this.device('rng0').presentation!;
  }

  get socket(): string {
    return this.own?.socket ?? this.device('disk0').backEnd.socket;
  }

  /** The disk's device process; null while it is being replaced. */
  get diskProcess(): ProcessIdentity | null {
    return this.own === null ? this.device('disk0').backEnd.process : this.own.unit.identity;
  }

  /** Kills the disk's device process, as `kill -9` does. */
  kill(): void {
    const identity = this.diskProcess;
    if (identity === null) throw demoFailed('the disk has no device process');
    process.kill(identity.pid, 'SIGKILL');
    this.kills += 1;
  }

  /** Waits until the process that was killed has been replaced. @throws VloError */
  async replaced(): Promise<void> {
    const end = Date.now() + REPLACED_MS_MAX;
    while (this.restarts !== this.kills || this.diskProcess === null || !this.isReady) {
      if (Date.now() > end) {
        throw demoFailed(`after ${this.kills} kills the disk had ${this.restarts} restarts`);
      }
      await sleep(LOOK_MS);
    }
    this.remember();
  }

  private get isReady(): boolean {
    return this.own === null ? this.device('disk0').state === 'ready' : true;
  }

  get restarts(): number {
    return this.own === null ? this.device('disk0').restarts : this.own.unit.restartCount;
  }

  /** Keeps the processes in mind, to see whether they are gone in the end. */
  private remember(): void {
    const others = this.hal!.status().devices.map(({ backEnd }) => backEnd.process);
    for (const identity of [...others, this.own?.unit.identity ?? null]) {
      if (identity !== null) this.processes.push(identity);
    }
  }

  /** Counts a request of the driver of a disk without a file. */
  count(bytesRead: number, bytesWritten: number): void {
    this.driverCounts.requests += 1;
    this.driverCounts.bytesRead += bytesRead;
    this.driverCounts.bytesWritten += bytesWritten;
  }

  layers(): LayerCounts[] {
    const kind = this.own === null ? 'file' : 'pipe';
    const shown = this.hal!.status().devices.map((device) => ({
      ...device,
      name: `${device.name}, its ${kind}`,
    }));
    if (this.own === null) return shown;
    const { restarts } = this;
    // A request that fails ends the demonstration.
    return [{ ...this.driverCounts, name: 'disk0, its driver', errors: 0, restarts }, ...shown];
  }

  /** Takes all down. Idempotent. */
  async down(): Promise<void> {
    if (this.hal !== null) this.remember();
    await this.own?.driver.close();
    await this.ownUnit?.stop();
    await this.hal?.down();
  }

  /** What is there that should not be, once all is down. */
  async leftovers(): Promise<string[]> {
    const alive = this.processes.filter(isSameProcess).map(({ pid }) => `process ${pid}`);
    const names = await readdir(this.folder, { recursive: true, withFileTypes: true });
    const sockets = names
      .filter((entry) => entry.isSocket() || entry.isFIFO())
      .map(({ name }) => `'${name}'`);
    return [...alive, ...(await mountsBelow(this.folder)), ...sockets, ...(await this.loops())];
  }

  /** Loop devices on files of the folder. */
  private async loops(): Promise<string[]> {
    const names = await readdir('/sys/block').catch(() => []);
    const found: string[] = [];
    for (const name of names.filter((candidate) => candidate.startsWith('loop'))) {
      const file = await backingFile(name);
      if (file?.startsWith(`${this.folder}/`) === true) found.push(`/dev/${name}`);
    }
    return found;
  }
}

/** The file behind a loop device, by its name as `loop0`; null where there is none. */
export async function backingFile(name: string): Promise<string | null> {
  const path = `/sys/block/${name}/loop/backing_file`;
  return (await readFile(path, 'utf8').catch(() => null))?.trimEnd() ?? null;
}

/** Mount points in a folder. */
async function mountsBelow(folder: string): Promise<string[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  const points = text.split('\n').map((line) => line.split(' ')[4] ?? '');
  return points.filter((point) => point.startsWith(`${folder}/`)).map((p) => `mount '${p}'`);
}
