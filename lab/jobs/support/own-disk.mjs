/** A block device of the module whose back end is this very process; see own-device.mjs. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { BLK_S, BLK_T, SECTOR_SIZE } from '../../../dist/devices/blk/wire.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { OwnDevice } from './own-device.mjs';
import { waitFor } from './programs.mjs';

const BLK = 2;
const SEG_MAX = 1n << 2n;
const SEGMENTS = 62;
const CONFIG_BYTES = 24;
const NODE_MS = 30_000;

/** The folder in sysfs of a device's virtio device. @param {OwnDevice} device */
export function virtioFolder({ parent }) {
  const platform = join('/sys/devices/platform', parent);
  const name = readdirSync(platform).find((entry) => /^virtio\d+$/.test(entry));
  return name === undefined ? null : join(platform, name);
}

/** What the driver of disks asks for. */
export class DiskRequest {
  constructor(request) {
    this.request = request;
    const header = Buffer.from(request.bytes);
    this.type = header.readUInt32LE(0);
    this.sector = Number(header.readBigUInt64LE(8));
    /** The buffers of a read. */
    this.data = request.writable.slice(0, -1);
    this.status = request.writable.at(-1);
  }

  get size() {
    return this.data.reduce((sum, { length }) => sum + length, 0);
  }

  /** Completes it; `claimed`: bytes that it says were written, without the status. */
  complete({ status = BLK_S.OK, claimed = this.size + 1 } = {}) {
    this.status[0] = status;
    this.request.complete(claimed);
  }
}

export class OwnDisk extends OwnDevice {
  /** What a byte at an offset of the disk is. */
  pattern = 0;
  /** Requests that a job deals with itself: returns true for one that it has taken. */
  hook = () => false;

  /** @param {{ name: string, sectors?: number, isSector?: boolean, features?: bigint }} what */
  constructor({ sectors = 4096, isSector = true, features = 0n, ...more }) {
    const config = Buffer.alloc(CONFIG_BYTES);
    config.writeBigUInt64LE(BigInt(sectors), 0);
    config.writeUInt32LE(SEGMENTS, 12);
    super({
      ...{ id: BLK, queues: [64], queueFlags: isSector ? [VLO.Q_SECTORS] : [0], config },
      ...{ features: features | SEG_MAX, poolSize: 4 * VLO.POOL_SIZE_MIN, stopMs: 100, ...more },
    });
    /** The device has said that it writes whole sectors. */
    this.isSector = isSector;
  }

  /** Serves until the disk is there; `node` names it. */
  async up() {
    await this.driven();
    this.start();
    this.serve((request) => this.answer(new DiskRequest(request)));
    const folder = join(virtioFolder(this), 'block');
    const isThere = () => existsSync(folder) && readdirSync(folder).length > 0;
    await waitFor(isThere, `disk of ${this.what.name}`, NODE_MS);
    this.node = join('/dev', readdirSync(folder)[0]);
    await waitFor(() => existsSync(this.node), this.node, NODE_MS);
    return this;
  }

  answer(request) {
    if (this.hook(request)) return;
    if (request.type === BLK_T.IN) for (const bytes of request.data) bytes.fill(this.pattern);
    request.complete();
  }
}

export { BLK_S, BLK_T, SECTOR_SIZE };
