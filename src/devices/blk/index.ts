/** The block device: a disk in an image file or a block device. */
import * as v from 'valibot';
import { defineDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import { FileDisk, imageError } from './backend-file.js';
import { BlkDevice } from './device.js';

const flag = v.optional(v.boolean(), false);

/** `vlo serve blk`. */
export const blk = defineDevice({
  name: 'blk',
  summary: 'a disk in an image file or a block device',
  virtioId: VIRTIO_ID.blk,
  options: v.object({
    blkFile: v.string('a path is needed'),
    readOnly: flag,
    numQueues: v.optional(
      v.pipe(
        v.number('a number is needed'),
        v.integer('a whole number is needed'),
        v.minValue(1, 'at least 1 queue is needed'),
        v.maxValue(256, 'at most 256 queues are possible'),
      ),
      // A queue costs nothing until it is used, and QEMU asks for one for each virtual CPU.
      64,
    ),
    direct: flag,
    serial: v.optional(
      v.pipe(
        v.string(),
        v.check((text) => Buffer.byteLength(text) <= 20, 'at most 20 bytes are possible'),
      ),
      'virtio-loopback',
    ),
    engine: v.optional(v.picklist(['auto', 'threads'], "'auto' or 'threads' is needed"), 'auto'),
  }),
  arguments: {
    blkFile: {
      flags: '-b, --blk-file <path>',
      description: 'image file or block device that holds the data (required)',
      isPath: true,
    },
    readOnly: { flags: '--read-only', description: 'refuse writes, and open the image read-only' },
    numQueues: { flags: '-q, --num-queues <count>', description: 'number of request queues' },
    direct: { flags: '--direct', description: 'bypass the page cache (O_DIRECT)' },
    serial: { flags: '--serial <text>', description: 'serial number, up to 20 bytes' },
    engine: {
      flags: '--engine <name>',
      description: "'auto' uses io_uring where it may be used, 'threads' never does",
    },
  },
  capabilities: ['read-only', 'blk-file'],
  examples: [
    'truncate -s 64M disk.img && vlo serve blk --socket-path /tmp/disk.sock --blk-file disk.img',
    'vlo serve blk --socket-path /tmp/disk.sock --blk-file /dev/nvme0n1 --direct --num-queues 4',
  ],
  queues: [{ name: 'requestq' }],
  open(options, host) {
    let disk: FileDisk;
    try {
      disk = new FileDisk({
        path: options.blkFile,
        readOnly: options.readOnly,
        direct: options.direct,
        engine: options.engine,
        wake: () => host.wake(),
      });
    } catch (error) {
      throw imageError(options.blkFile, error);
    }
    const { numQueues: queueCount, serial } = options;
    const setConfig = (bytes: Uint8Array): void => host.setConfig(bytes);
    const wake = (): void => host.wake();
    return new BlkDevice(disk, { queueCount, serial, setConfig, wake }).open();
  },
});
