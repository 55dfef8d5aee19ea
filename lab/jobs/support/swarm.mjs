/**
 * Many devices at once: back ends and adapters of N disks in one process. All are created at the
 * same time, written and read at the same time, and taken down at the same time; so again and
 * again.
 *
 *   node swarm.mjs --folder F --count 8 --cycles 2 --memory bounce|direct [--hold]
 *
 * With --hold it says "holding" when all disks of the last cycle are there, and stays so.
 */

import { constants, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { attach } from '../../../dist/adapter/attach.js';
import { DEVICES } from '../../../dist/devices/catalog.js';
import { DeviceProcess } from '../../../dist/kit/index.js';
import { BackEndServer } from '../../../dist/vhost-user/index.js';
import { makeImage } from './stand.mjs';

const BYTES = 65536;
const { values } = parseArgs({
  options: {
    folder: { type: 'string' },
    count: { type: 'string' },
    cycles: { type: 'string' },
    memory: { type: 'string' },
    hold: { type: 'boolean', default: false },
  },
});
const log = (line) => process.stderr.write(`swarm: ${line}\n`);
const definition = DEVICES.find(({ name }) => name === 'blk');

class Member {
  constructor(index) {
    this.index = index;
    this.path = join(values.folder, `member${index}`);
  }

  async serve() {
    const blkFile = makeImage(`${this.path}.img`, 2 ** 20);
    const device = await DeviceProcess.open(definition, { blkFile }, { log });
    this.server = new BackEndServer(device, { path: this.path, log });
    device.listener = this.server;
    await this.server.start();
  }

  async attach(cycle) {
    this.attachment = await attach('loopback', {
      name: `swarm${process.pid}-${this.index}-${cycle}`,
      type: 'blk',
      socket: this.path,
      folder: '',
      kernel: { memory: values.memory, takeoverMs: 0, poolSize: 2 ** 21 },
      log,
    });
    if (this.attachment.presentation === null) throw new Error(`${this.index}: no node`);
  }

  /** Bytes of its own, written and read back past the page cache. */
  async use(cycle) {
    const { O_RDWR, O_SYNC } = constants;
    const bytes = Buffer.alloc(BYTES, 16 * cycle + this.index + 1);
    const file = await open(this.attachment.presentation, O_RDWR | O_SYNC);
    try {
      await file.write(bytes, 0, BYTES, 0);
    } finally {
      await file.close();
    }
    const image = await open(`${this.path}.img`, 'r');
    try {
      const { buffer } = await image.read(Buffer.alloc(BYTES), 0, BYTES, 0);
      if (!buffer.equals(bytes)) throw new Error(`${this.index}: other bytes are in the image`);
    } finally {
      await image.close();
    }
  }
}

const all = (members, action) => Promise.all(members.map(action));

const members = Array.from({ length: Number(values.count) }, (_, index) => new Member(index));
await all(members, (member) => member.serve());
const cycles = Number(values.cycles);
for (let cycle = 1; cycle <= cycles; cycle += 1) {
  await all(members, (member) => member.attach(cycle));
  log(members.map(({ attachment }) => attachment.presentation).join(' '));
  await all(members, (member) => member.use(cycle));
  if (values.hold && cycle === cycles) {
    // Someone has them open when they go.
    for (const { attachment } of members) openSync(attachment.presentation, 'r');
    const signal = new Promise((resolve) => {
      process.once('SIGTERM', resolve);
    });
    log('holding');
    await signal;
  }
  await all(members, (member) => member.attachment.close());
}
await all(members, (member) => member.server.close());
process.exit(0);
