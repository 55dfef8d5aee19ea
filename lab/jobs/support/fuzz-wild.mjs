/**
 * A disk whose back end writes nonsense into its rings while the kernel's driver works, again and
 * again with a new session; between two of these it serves well, and the driver has to go on. Ends
 * at SIGTERM, and prints its counts as one line of JSON.
 *
 *   node fuzz-wild.mjs --seed 1 --name wild0
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { signalEvent } from '../../../dist/native/index.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { DiskRequest, OwnDisk } from './own-disk.mjs';
import { start, waitFor } from './programs.mjs';
import { generator } from './random.mjs';

const WILD_STEPS = 40;
const SERVED_READS = 50;
const SERVED_MS = 60_000;
const MAX = 2 ** 32 - 1;
/** So large that the reader is seldom done: to start it takes longer than to read. */
const SECTORS = 2 ** 21;
const READER_WORDS = 'bs=16k iflag=direct conv=noerror';

const { values } = parseArgs({ options: { seed: { type: 'string' }, name: { type: 'string' } } });
const random = generator(Number(values.seed));
const counts = { sessions: 0, broken: 0, steps: 0, requests: 0 };
let isOver = false;
process.on('SIGTERM', () => {
  isOver = true;
});

/** A number that passes some checks, or none. */
const wild = (size) => (random.chance(70) ? random.next(size) : random.next(MAX));

/** One piece of nonsense in a ring. */
function scribble(ring) {
  const { used, elements, avail, descriptors, size } = ring;
  const kind = random.next(100);
  counts.steps += 1;
  if (kind < 40) {
    const at = used[1] % size;
    elements[2 * at] = wild(size);
    elements[2 * at + 1] = random.of([0, 1, 512, MAX, random.next(MAX)]);
    Atomics.store(used, 1, (used[1] + random.of([1, 1, 1, 2, 8])) & 0xffff);
  } else if (kind < 50) Atomics.store(used, 1, random.next(65536));
  else if (kind < 60) used[0] = random.next(65536);
  else if (kind < 70) avail[random.next(avail.length)] = random.next(65536);
  else if (kind < 80) used[used.length - 1] = random.next(65536);
  else if (kind < 95) {
    const at = random.next(descriptors.length - 8);
    for (let i = 0; i < 8; i += 1) descriptors[at + i] = random.next(256);
  } else {
    const bytes = ring.session.buffers;
    const at = random.next(bytes.length - 4096);
    bytes.fill(random.next(256), at, at + 4096);
  }
  signalEvent(ring.call.number);
}

async function goWild(disk) {
  disk.pause();
  // The poller of the disk leaves its loop.
  await sleep(5);
  for (let step = 0; step < WILD_STEPS && !isOver; step += 1) {
    for (const ring of disk.session.rings) scribble(ring);
    if (random.chance(20)) await sleep(1);
    disk.look();
  }
  if ((disk.events & VLO.EVENT_BROKEN) !== 0) counts.broken += 1;
  disk.events = 0;
}

async function serveWell(disk) {
  disk.start({ flags: random.of([0, VLO.S_FAIL]) });
  counts.sessions += 1;
  // Sessions are kept to be looked at; here there are too many.
  for (const { mapping } of disk.sessions.splice(0, disk.sessions.length - 1)) mapping.retire();
  const before = counts.requests;
  disk.serve((request) => disk.answer(new DiskRequest(request)));
  const isServed = () => {
    disk.look();
    return isOver || counts.requests >= before + SERVED_READS;
  };
  await waitFor(isServed, 'requests of the driver after nonsense', SERVED_MS);
}

class WildDisk extends OwnDisk {
  answer(request) {
    counts.requests += 1;
    super.answer(request);
  }
}

const disk = new WildDisk({ name: values.name, sectors: SECTORS, takeoverMs: 0 });
await disk.up();
const reader = start([
  ...['sh', '-c', `while :; do dd if=${disk.node} of=/dev/null ${READER_WORDS}; done`],
]);
process.stdout.write('wild\n');
let error = null;
try {
  while (!isOver) {
    await goWild(disk);
    await serveWell(disk);
  }
} catch (reason) {
  error = reason.message;
}
reader.killAll();
// In the middle of a request: the device fails it.
disk.close();
await reader.ended;
process.stdout.write(`${JSON.stringify({ ...counts, error })}\n`);
process.exitCode = error === null ? 0 : 1;
