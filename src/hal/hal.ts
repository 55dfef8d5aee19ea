/**
 * A HAL: devices brought up together, watched, and taken down in order.
 *
 *   device process ─ vhost-user ─ adapter ─ transport ─ presentation
 *   (DeviceUnit)                  └──────── HalDevice ─────────┘
 */
import type { Server } from 'node:net';
import { VloError } from '../errors.js';
import { becomeIoFlusher } from '../native/index.js';
import type { DeviceConfig, HalConfig } from './config-model.js';
import { serveControl } from './control.js';
import { DeviceUnit, type UnitDevice } from './device-unit.js';
import { HalDevice } from './hal-device.js';
import { RunDirectory } from './run-directory.js';
import type { HalStatus } from './status.js';

export interface HalOptions {
  readonly runDirectory: string;
  readonly log: (line: string) => void;
}

export class Hal {
  /** Resolves when the HAL is down. */
  readonly ended: Promise<void>;
  private readonly config: HalConfig;
  private readonly runDirectory: RunDirectory;
  private readonly log: (line: string) => void;
  private readonly units: DeviceUnit[] = [];
  private readonly devices: HalDevice[] = [];
  private control: Server | null = null;
  private downOnce: Promise<void> | null = null;
  private resolveEnded!: () => void;
  private statusTimer: NodeJS.Immediate | null = null;

  private constructor(config: HalConfig, runDirectory: RunDirectory, options: HalOptions) {
    this.config = config;
    this.runDirectory = runDirectory;
    this.log = options.log;
    this.ended = new Promise((resolve) => {
      this.resolveEnded = resolve;
    });
  }

  /**
   * Takes the run directory, takes away what a dead HAL left in it, and starts all devices.
   * {@link ready} is next.
   * @throws VloError VLO_HAL_RUNNING, VLO_RUN_DIR
   */
  static async up(config: HalConfig, options: HalOptions): Promise<Hal> {
    const runDirectory = RunDirectory.open(options.runDirectory);
    const hal = new Hal(config, runDirectory, options);
    try {
      await runDirectory.cleanUp(
        config.devices.map((device) => device.name),
        options.log,
      );
      becomeIoFlusher();
      hal.control = await serveControl(runDirectory.controlSocket, async (request) => {
        if (request.command === 'status') return hal.status();
        if (request.command === 'restart') return hal.restart(request.name);
        return hal.down();
      });
      for (const group of groupDevices(config.devices)) hal.addUnit(group);
      hal.changed();
    } catch (error) {
      await hal.down();
      throw error;
    }
    return hal;
  }

  private addUnit(configs: readonly DeviceConfig[]): void {
    const isForeign = configs[0]!.source.kind === 'backend';
    const members: UnitDevice[] = configs.map((config) => ({
      config,
      socket:
        config.source.kind === 'backend'
          ? config.source.socket
          : this.runDirectory.socket(config.name),
    }));
    let unit: DeviceUnit | null = null;
    const devices = members.map(
      ({ config, socket }) =>
        new HalDevice(config, {
          socket,
          folder: this.runDirectory.makeFolder(config.name),
          unit: () => unit,
          log: (line) => this.log(`${config.name}: ${line}`),
          onChange: () => this.changed(),
        }),
    );
    this.devices.push(...devices);
    if (isForeign) {
      for (const device of devices) device.serving();
      return;
    }
    unit = new DeviceUnit(members, {
      log: this.log,
      onServing: () => {
        for (const device of devices) device.serving();
      },
      onDeath: () => this.changed(),
      onGivenUp: (error) => {
        this.log(`${error.code}: ${error.message}`);
        for (const device of devices) device.givenUp(error);
      },
    });
    this.units.push(unit);
    unit.start();
  }

  /**
   * Resolves when every device is ready or has failed for good.
   * @throws VloError the first failure; the others go on
   */
  async ready(): Promise<void> {
    const results = await Promise.allSettled(this.devices.map((device) => device.firstReady));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  status(): HalStatus {
    return {
      format: 1,
      pid: process.pid,
      runDirectory: this.runDirectory.path,
      config: this.config.file,
      devices: this.devices.map((device) => device.status()),
    };
  }

  /**
   * Has the process of a device replaced; requests wait meanwhile.
   * @throws VloError VLO_NAME_UNKNOWN
   */
  async restart(name: string): Promise<void> {
    const device = this.devices.find((candidate) => candidate.name === name);
    if (device === undefined) {
      const names = this.devices.map((candidate) => candidate.name).join(', ');
      throw new VloError('VLO_NAME_UNKNOWN', `there is no device '${name}'; there are ${names}`);
    }
    await device.restart();
  }

  /** Writes the status soon, once for all changes of this moment. */
  private changed(): void {
    if (this.downOnce !== null) return;
    this.statusTimer ??= setImmediate(() => {
      this.statusTimer = null;
      if (this.downOnce === null) this.writeStatus();
    });
  }

  private writeStatus(): void {
    try {
      this.runDirectory.writeStatus(this.status());
    } catch (error) {
      // A disk that is full is no reason to let devices die.
      const { code } = error as NodeJS.ErrnoException;
      this.log(`the status cannot be written to '${this.runDirectory.path}' (${code})`);
    }
  }

  /** Takes everything down: presentations first, then the processes, the last device first. */
  down(): Promise<void> {
    this.downOnce ??= this.takeDown();
    return this.downOnce;
  }

  private async takeDown(): Promise<void> {
    for (const device of this.devices.toReversed()) await device.close();
    await Promise.all(this.units.map((unit) => unit.stop()));
    await Promise.all(this.devices.map((device) => device.settled()));
    for (const device of this.devices) this.runDirectory.removeFolder(device.name);
    this.control?.close();
    this.runDirectory.close();
    this.resolveEnded();
  }
}

/** Devices that share a process: those of a group; every other one has its own. */
function groupDevices(devices: readonly DeviceConfig[]): DeviceConfig[][] {
  const units: DeviceConfig[][] = [];
  const groups = new Map<string, DeviceConfig[]>();
  for (const device of devices) {
    const known = device.group === null ? undefined : groups.get(device.group);
    if (known !== undefined) {
      known.push(device);
      continue;
    }
    const unit = [device];
    if (device.group !== null) groups.set(device.group, unit);
    units.push(unit);
  }
  return units;
}
