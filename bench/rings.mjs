/**
 * Driver and device of one ring in one process, without notifications: what the rings cost.
 *
 *   node bench/rings.mjs [requests]
 *
 * A request has three segments (16 readable, 4096 and 1 writable bytes), a batch 32 requests.
 */
import { spawnSync } from 'node:child_process';
import { createMemfd, Mapping } from '../dist/native/index.js';
import * as virtio from '../dist/virtio/index.js';

const BATCH = 32;
const SIZE = 256;
const ROUNDS = 7;
const requestCount = Number(process.argv[2] ?? 2_000_000);
const GUEST = 0x1_0000_0000;

function build(packed, indirect, inOrder) {
  const features = { packed, indirect, inOrder, eventIndex: true };
  const layout = virtio.layoutQueue(SIZE, packed, indirect ? 4 : 0);
  const fd = createMemfd('rings', 1 << 20);
  const mapping = Mapping.shared(fd.number, 1 << 20);
  fd.close();
  const memory = new virtio.MemoryMap();
  memory.add(new virtio.MemoryRegion(mapping, 0, GUEST, GUEST, mapping.size));
  const bytes = mapping.bytes(0, mapping.size);
  const areas = virtio.layoutAreas(layout, bytes);
  const common = { index: 0, size: SIZE, features, areas };
  const driver = new (packed ? virtio.PackedDriverQueue : virtio.SplitDriverQueue)({
    ...common,
    indirect: virtio.layoutIndirect(layout, bytes, GUEST),
    kickFd: -1,
  });
  const device = new (packed ? virtio.PackedDeviceQueue : virtio.SplitDeviceQueue)({
    ...common,
    memory,
    base: packed ? 0x80008000 : 0,
    callFd: -1,
  });
  return { driver, device, data: GUEST + layout.byteLength };
}

function place({ driver, data }) {
  for (let i = 0; i < BATCH; i += 1) {
    driver.begin();
    driver.addReadable(data, 16);
    driver.addWritable(data + 64, 4096);
    driver.addWritable(data + 16, 1);
    if (!driver.commit(i)) throw new Error('full');
  }
  driver.publish();
}

function serve({ device }) {
  for (let chain = device.pop(); chain !== null; chain = device.pop()) {
    chain.writer.advance(4097);
    device.complete(chain);
  }
  device.publish();
}

function reap({ driver }) {
  let sum = 0;
  while (driver.next()) sum += driver.usedLength;
  if (sum !== BATCH * 4097) throw new Error('lost');
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

function measure(ring) {
  const parts = [[], [], []];
  const totals = [];
  const batches = Math.ceil(requestCount / BATCH / ROUNDS);
  for (let round = -1; round < ROUNDS; round += 1) {
    const ns = [0, 0, 0];
    for (let i = 0; i < batches; i += 1) {
      const t0 = performance.now();
      place(ring);
      const t1 = performance.now();
      serve(ring);
      const t2 = performance.now();
      reap(ring);
      const t3 = performance.now();
      ns[0] += t1 - t0;
      ns[1] += t2 - t1;
      ns[2] += t3 - t2;
    }
    if (round < 0) continue; // Warm-up.
    const perRequest = ns.map((ms) => (ms * 1e6) / (batches * BATCH));
    for (const [i, value] of perRequest.entries()) parts[i].push(value);
    totals.push(perRequest.reduce((a, b) => a + b));
  }
  return [...parts.map(median), median(totals)];
}

// One process for each ring, as a device process has just one kind: the compiler sees one shape.
if (process.argv[3] !== undefined) {
  const [packed, indirect, inOrder] = process.argv[3].split(',').map((flag) => flag === '1');
  const result = measure(build(packed, indirect, inOrder));
  console.log(result.map((ns) => ns.toFixed(0).padStart(8)).join(''));
} else {
  const columns = ['place', 'serve', 'take', 'total'];
  console.log('ns a request'.padEnd(18), columns.map((name) => name.padStart(8)).join(''));
  for (const packed of [0, 1]) {
    for (const [indirect, inOrder] of [
      [0, 0],
      [1, 0],
      [0, 1],
    ]) {
      const name = `${packed ? 'packed' : 'split'}${indirect ? ' indirect' : ''}${inOrder ? ' in-order' : ''}`;
      const arguments_ = [
        process.argv[1],
        String(requestCount),
        [packed, indirect, inOrder].join(),
      ];
      const child = spawnSync(process.execPath, arguments_, { encoding: 'utf8' });
      process.stdout.write(`${name.padEnd(18)} ${child.stdout}${child.stderr}`);
    }
  }
}
