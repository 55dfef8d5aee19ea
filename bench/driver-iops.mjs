/**
 * Measures our front end and block driver against any vhost-user-blk back end: random reads or
 * writes of one size at one depth. Prints one line of JSON. Build first.
 *
 *   node bench/driver-iops.mjs --socket-path S --count N --depth D
 *        [--size 4096] [--queues 1] [--write] [--sequential] [--packed] [--in-order]
 *        [--promises] [--poll-us 200]       --promises: read and write of BlkDriver, not its slots
 */
import { parseArgs } from 'node:util';
import { BlkDriver } from '../dist/devices/blk/driver.js';

const { values } = parseArgs({
  options: {
    'socket-path': { type: 'string' },
    count: { type: 'string', default: '200000' },
    depth: { type: 'string', default: '32' },
    size: { type: 'string', default: '4096' },
    queues: { type: 'string', default: '1' },
    write: { type: 'boolean', default: false },
    sequential: { type: 'boolean', default: false },
    packed: { type: 'boolean', default: false },
    'in-order': { type: 'boolean', default: false },
    promises: { type: 'boolean', default: false },
    'poll-us': { type: 'string', default: '200' },
  },
});
const path = values['socket-path'];
if (path === undefined) {
  process.stderr.write('give --socket-path\n');
  process.exit(2);
}
const [count, depth, size, queues] = [values.count, values.depth, values.size, values.queues].map(
  Number,
);

const disk = await BlkDriver.connect({
  path,
  depth: Math.ceil(depth / queues),
  queueCount: queues,
  slotSize: Math.max(4096, size),
  packed: values.packed,
  inOrder: values['in-order'],
  pollUs: Number(values['poll-us']),
});
const { slots } = disk;
const blockCount = Math.floor(disk.size / size);

/** One object for all requests: each that ends places the next in its slot. */
class Load {
  placed = 0;
  ended = 0;
  failed = 0;
  seed = 1;
  finish = () => {};

  nextBlock() {
    let block = this.placed % blockCount;
    if (!values.sequential) {
      this.seed = (Math.imul(this.seed, 1664525) + 1013904223) >>> 0;
      block = this.seed % blockCount;
    }
    this.placed += 1;
    return block;
  }

  place(slot) {
    const block = this.nextBlock();
    if (values.write) slots.write(slot, block * size, size);
    else slots.read(slot, block * size, size);
  }

  done(slot, status) {
    this.ended += 1;
    if (status !== 0) this.failed += 1;
    if (this.placed < count) this.place(slot);
    else if (this.ended === count) this.finish();
  }
}

const load = new Load();
const ended = new Promise((resolve) => {
  load.finish = resolve;
});
const start = performance.now();
const usage = process.cpuUsage();
/** One of `depth` callers that each wait for their request before the next. */
async function caller() {
  const bytes = new Uint8Array(size);
  while (load.placed < count) {
    const block = load.nextBlock();
    if (values.write) await disk.write(block * size, bytes);
    else await disk.read(block * size, bytes);
    load.ended += 1;
  }
}

if (values.promises) {
  await Promise.all(Array.from({ length: depth }, caller));
  load.finish();
}
for (let i = 0; !values.promises && i < Math.min(depth, count); i += 1) {
  const slot = slots.acquire(load, i % slots.queueCount);
  if (slot < 0) break;
  load.place(slot);
}
await ended;
const seconds = (performance.now() - start) / 1000;
const { user, system } = process.cpuUsage(usage);
const result = {
  iops: Math.round(count / seconds),
  seconds: Number(seconds.toFixed(3)),
  cpuSeconds: Number(((user + system) / 1e6).toFixed(3)),
  failed: load.failed,
  count,
  depth,
  size,
  queues: slots.queueCount,
  write: values.write,
  packed: values.packed,
};
process.stdout.write(`${JSON.stringify(result)}\n`);
await disk.close();
