/**
 * A block device process that does all I/O from and to fixed buffers: it registers the memory of
 * the device with io_uring when a queue starts, which pins it for as long as the device lives, and
 * has the kernel read and write there. SPDK, VFIO and others pin memory in the same way; none of
 * the back ends in Debian does so with io_uring.
 *
 *   node fixed-buffers.mjs --socket S --image I
 */

import { closeSync, fstatSync, openSync } from 'node:fs';
import { parseArgs } from 'node:util';
import * as v from 'valibot';
import { BLK_F, BLK_S, BLK_T, BlkConfig, SECTOR_SIZE } from '../../../dist/devices/blk/wire.js';
import { DeviceProcess, defineDevice } from '../../../dist/kit/index.js';
import { BackEndServer } from '../../../dist/vhost-user/index.js';
import { FixedRegion, READ_FIXED, WRITE_FIXED } from './fixed-region.mjs';

const SEGMENTS_MAX = 126;

const log = (line) => process.stderr.write(`fixed-buffers: ${line}\n`);

function register({ hostAddress, size, guestAddress }) {
  const fixed = new FixedRegion(hostAddress, size);
  log(`region 0x${guestAddress.toString(16)}, ${size} bytes: ${fixed.error ?? 'registered'}`);
  return fixed;
}

class FixedDisk {
  /** By the regions of the memory map, which stay as long as the device's memory. */
  regions = new Map();

  constructor(image) {
    this.fd = openSync(image, 'r+');
    this.capacity = fstatSync(this.fd).size / SECTOR_SIZE;
  }

  open() {
    const config = BlkConfig.encode({ capacity: this.capacity, segMax: SEGMENTS_MAX });
    return {
      features: BLK_F.SEG_MAX | BLK_F.FLUSH,
      config,
      queueStarted: (queue) => this.register(queue.ring.memory.regions),
      handlers: { requestq: (request) => this.serve(request) },
      close: () => {
        this.register([]);
        closeSync(this.fd);
      },
    };
  }

  /** Pins the memory that there is now, and lets go of what there was. */
  register(regions) {
    for (const [region, fixed] of this.regions) {
      if (regions.includes(region)) continue;
      fixed.close();
      this.regions.delete(region);
    }
    for (const region of regions) {
      if (!this.regions.has(region)) this.regions.set(region, register(region));
    }
  }

  serve({ reader, writer }) {
    const status = writer.splitTail(1);
    const type = reader.readU32();
    reader.skip(4);
    const offset = reader.readU64() * SECTOR_SIZE;
    let isGood = true;
    if (type === BLK_T.IN) {
      isGood = this.transfer(READ_FIXED, [...writer], offset);
      if (isGood) writer.advance(writer.remaining);
    } else if (type === BLK_T.OUT) {
      isGood = this.transfer(WRITE_FIXED, [...reader], offset);
    }
    status.writeU8(isGood ? BLK_S.OK : BLK_S.IOERR);
  }

  transfer(operation, segments, start) {
    let offset = start;
    return segments.every((segment) => {
      const at = offset;
      offset += segment.size;
      const region = [...this.regions.values()].find((fixed) => fixed.holds(segment));
      return region?.transfer(operation, this.fd, segment, at) === true;
    });
  }
}

const { values } = parseArgs({
  options: { socket: { type: 'string' }, image: { type: 'string' } },
});
const definition = defineDevice({
  name: 'fixed-blk',
  summary: 'a disk whose memory is pinned',
  virtioId: 2,
  options: v.object({}),
  arguments: {},
  queues: [{ name: 'requestq' }],
  open: () => new FixedDisk(values.image).open(),
});
const device = await DeviceProcess.open(definition, {}, { packed: false, log });
const server = new BackEndServer(device, { path: values.socket, log });
device.listener = server;
await server.start();
log('ready');
