/** Driver and device on two threads: whoever sleeps is woken, whatever the processor reorders. */
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import {
  consumeEvent,
  createEventFd,
  createMemfd,
  Mapping,
  signalEvent,
  waitReadable,
} from '../../src/native/index.js';
import {
  layoutAreas,
  layoutQueue,
  PackedDriverQueue,
  SplitDriverQueue,
} from '../../src/virtio/index.js';
import { check, combinations, Random } from './ring-pair.js';

const SIZE = 16;
const DURATION_MS = 700;
const MEMORY_SIZE = 65536;
const DATA = 32768;

async function run(features: ReturnType<typeof combinations>[number]): Promise<number> {
  const memoryFd = createMemfd('ring-threads', MEMORY_SIZE);
  const [kick, call] = [createEventFd(), createEventFd()];
  const mapping = Mapping.shared(memoryFd.number, MEMORY_SIZE);
  const state = new SharedArrayBuffer(8);
  const flags = new Int32Array(state);
  const Queue = features.packed ? PackedDriverQueue : SplitDriverQueue;
  const areas = layoutAreas(layoutQueue(SIZE, features.packed), mapping.bytes(0, MEMORY_SIZE));
  const driver = new Queue({ index: 0, size: SIZE, features, areas, kickFd: kick.number });
  const worker = new Worker(new URL('./device-thread.mjs', import.meta.url), {
    workerData: {
      ...{ features, size: SIZE, memorySize: MEMORY_SIZE, state },
      ...{ memoryFd: memoryFd.number, kickFd: kick.number, callFd: call.number },
    },
  });
  const exit = new Promise<number>((resolve, reject) => {
    worker.once('exit', resolve);
    worker.once('error', reject);
  });
  await new Promise((resolve) => worker.once('online', resolve));
  try {
    exchange(driver, mapping, call.number);
  } finally {
    Atomics.store(flags, 0, 1);
    signalEvent(kick.number);
    await exit;
  }
  expect(flags[1]).toBe(0);
  mapping.retire();
  for (const fd of [memoryFd, kick, call]) fd.close();
  return driver.counters.used;
}

/** Places requests in random batches and takes them back, sleeping whenever there is nothing. */
function exchange(driver: SplitDriverQueue | PackedDriverQueue, mapping: Mapping, call: number) {
  const words = new Uint32Array(mapping.bytes(0, MEMORY_SIZE).buffer, DATA, SIZE * 2);
  const random = new Random(3);
  const free = Array.from({ length: SIZE / 2 }, (_, i) => i);
  let serial = 0;
  for (const end = Date.now() + DURATION_MS; Date.now() < end; ) {
    for (let i = random.below(6); i >= 0 && free.length > 0; i -= 1) {
      const slot = free.pop()!;
      words[slot * 2] = serial;
      words[slot * 2 + 1] = 0;
      driver.begin();
      driver.addReadable(DATA + slot * 8, 4);
      driver.addWritable(DATA + slot * 8 + 4, 4);
      check(driver.commit(slot), 'the ring is full');
      serial = (serial + 1) >>> 0;
    }
    driver.publish();
    driver.suppressNotifications();
    while (driver.next()) {
      const slot = driver.usedToken;
      check(driver.usedLength === 4, 'a wrong used length');
      check(words[slot * 2 + 1] === words[slot * 2]! + 1, 'data came before its entry');
      free.push(slot);
    }
    if (random.below(3) > 0 && free.length > 0) continue;
    if (driver.outstandingCount === 0 || driver.armNotifications()) continue;
    check(waitReadable([call], 5000) === 0, 'a notification was lost');
    consumeEvent(call);
  }
}

describe.each([
  ['split', false],
  ['packed', true],
] as const)('%s ring on two threads', (_, packed) => {
  const variants = combinations(packed).filter((feature) => !feature.indirect);

  test.each(variants)('event-idx $eventIndex, in-order $inOrder', async (features) => {
    expect(await run(features)).toBeGreaterThan(100);
  });
});
