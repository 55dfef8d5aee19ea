/** A disk as applications see it, with all below it in this process, except for the kernel. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import type { MemoryDisk } from '../devices/blk/backend-null.js';
import { BlkDevice } from '../devices/blk/device.js';
import { BlkConfig } from '../devices/blk/wire.js';
import { BlkDriver, type BlkDriverOptions, blk } from '../devices/index.js';
import { FakeKernel } from '../fuse/test-utils.js';
import { type AnyDeviceDefinition, DeviceProcess, defineDevice } from '../kit/index.js';
import { BackEndServer } from '../vhost-user/index.js';
import { DISK_SLOT_SLACK, DiskFile } from './disk-file.js';
import { FileMount } from './file-mount.js';

/** A device, served on a socket. */
export class Served {
  readonly path: string;
  private readonly folder: string;
  private readonly device: DeviceProcess;
  private readonly server: BackEndServer;

  private constructor(folder: string, device: DeviceProcess) {
    this.folder = folder;
    this.path = join(folder, 's');
    this.device = device;
    this.server = new BackEndServer(device, { path: this.path });
    device.listener = this.server;
  }

  static async start(definition: AnyDeviceDefinition, options: object = {}): Promise<Served> {
    const device = await DeviceProcess.open(definition, options);
    const served = new Served(mkdtempSync(join(tmpdir(), 'vlo-present-')), device);
    await served.server.start();
    return served;
  }

  async close(): Promise<void> {
    await this.server.close();
    await this.device.close();
    rmSync(this.folder, { recursive: true });
  }
}

export interface StandOptions extends BlkDriverOptions {
  /** Fields of the config space that are other than the device has them. */
  readonly config?: Readonly<Record<string, number>>;
}

function diskDevice(disk: MemoryDisk, config: StandOptions['config']): AnyDeviceDefinition {
  return defineDevice({
    ...blk,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => {
      const device = new BlkDevice(disk, {
        queueCount: 2,
        serial: '',
        setConfig: (bytes) => host.setConfig(bytes),
        wake: () => host.wake(),
      }).open();
      const own = BlkConfig.decode(device.config!);
      return { ...device, config: BlkConfig.encode({ ...own, ...config }) };
    },
  });
}

const TRANSFER_MAX = 64 * 1024;

/** Kernel (a fake), mount, file, driver, device and disk. */
export class DiskStand {
  readonly disk: MemoryDisk;
  readonly kernel = new FakeKernel();
  readonly driver: BlkDriver;
  readonly file: DiskFile;
  readonly mount: FileMount;
  private readonly served: Served;

  private constructor(disk: MemoryDisk, served: Served, driver: BlkDriver) {
    this.disk = disk;
    this.served = served;
    this.driver = driver;
    this.file = new DiskFile(driver);
    this.mount = new FileMount(this.kernel.channel, this.file, TRANSFER_MAX);
    driver.loop.addSource(this.mount);
  }

  static async open(disk: MemoryDisk, { config, ...options }: StandOptions): Promise<DiskStand> {
    const served = await Served.start(diskDevice(disk, config));
    const driver = await BlkDriver.connect({
      path: served.path,
      slotSize: TRANSFER_MAX + DISK_SLOT_SLACK,
      ...options,
    });
    return new DiskStand(disk, served, driver);
  }

  async close(): Promise<void> {
    this.driver.loop.removeSource(this.mount);
    this.kernel.close();
    await this.driver.close();
    await this.served.close();
  }
}
