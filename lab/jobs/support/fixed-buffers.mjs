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
import { IoUring, NativeBuffer } from '../../../dist/native/index.js';
import { errnoName, lastErrno, libc } from '../../../dist/native/libc.js';
import { BackEndServer } from '../../../dist/vhost-user/index.js';

const SYS_IO_URING_REGISTER = 427;
const REGISTER_BUFFERS = 0;
const READ_FIXED = 4;
const WRITE_FIXED = 5;
const ENTRIES = 1;
const SEGMENTS_MAX = 126;

const log = (line) => process.stderr.write(`fixed-buffers: ${line}\n`);

/** A region of the device's memory, as the only fixed buffer of a ring. */
class FixedRegion {
  /** Null when the kernel does not pin the memory. @type {IoUring | null} */
  ring = null;

  constructor({ hostAddress, size, guestAddress }) {
    this.address = hostAddress;
    this.size = size;
    const ring = IoUring.create(ENTRIES);
    if (ring === null) throw new Error('this kernel has no io_uring');
    const vector = new NativeBuffer(16);
    vector.setU64(0, hostAddress);
    vector.setU64(8, size);
    const words = [ring.descriptor, REGISTER_BUFFERS, vector.address, 1, 0, 0];
    const result = libc.syscall(SYS_IO_URING_REGISTER, ...words);
    const error = result < 0 ? errnoName(lastErrno()) : null;
    vector.free();
    if (error === null) this.ring = ring;
    else ring.close();
    log(`region 0x${guestAddress.toString(16)}, ${size} bytes: ${error ?? 'registered'}`);
  }

  holds({ address, size }) {
    return address >= this.address && address + size <= this.address + this.size;
  }

  /** Reads or writes a segment; true when all of it went well. */
  transfer(operation, fd, { address, size }, offset) {
    const { ring } = this;
    if (ring === null) return false;
    ring.prepare(operation, fd, address, size, offset, 0);
    ring.submit(1);
    while (!ring.next()) ring.submit(1);
    return ring.completedResult === size;
  }

  close() {
    this.ring?.close();
  }
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
      if (!this.regions.has(region)) this.regions.set(region, new FixedRegion(region));
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
