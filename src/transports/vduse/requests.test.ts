/** Requests of a ring that nobody serves: which are out, and how they are given back. */
import { expect, test } from 'vitest';
import { createMemfd, type Fd, Mapping } from '../../native/index.js';
import { DeadRing } from './requests.js';
import { DeviceMemory, SplitRing } from './ring.js';
import { QueueTracker, trackerSize } from './tracker.js';

const SIZE = 8;
const MEMORY_SIZE = 0x8000;
const DESCRIPTORS = 0x1000;
const DRIVER = 0x2000;
const DEVICE = 0x3000;
const BUFFERS = 0x4000;

/** A ring with a driver that offers what it is told to. */
class Stand {
  readonly file: Fd = createMemfd('ring', MEMORY_SIZE);
  readonly mapping = Mapping.shared(this.file.number, MEMORY_SIZE);
  readonly view = this.mapping.windowData(0);
  readonly memory = new DeviceMemory([
    { fd: this.file, guestAddress: 0, size: MEMORY_SIZE, mmapOffset: 0 },
  ]);
  readonly ring = new SplitRing(
    {
      ...{ index: 0, size: SIZE, descriptor: DESCRIPTORS, driver: DRIVER, device: DEVICE },
      ...{ kick: this.file, call: this.file, isBroken: false },
    },
    this.memory,
  );

  describe(table: number, index: number, [address, size, flags, next]: number[]): void {
    const at = table + 16 * index;
    this.view.setBigUint64(at, BigInt(address!), true);
    this.view.setUint32(at + 8, size!, true);
    this.view.setUint16(at + 12, flags!, true);
    this.view.setUint16(at + 14, next ?? 0, true);
  }

  offer(head: number): void {
    const index = this.ring.availableIndex;
    this.view.setUint16(DRIVER + 4 + 2 * (index % SIZE), head, true);
    this.view.setUint16(DRIVER + 2, (index + 1) & 0xffff, true);
  }

  used(): { id: number; length: number }[] {
    return Array.from({ length: this.ring.usedIndex }, (_, i) => ({
      id: this.view.getUint32(DEVICE + 4 + 8 * i, true),
      length: this.view.getUint32(DEVICE + 8 + 8 * i, true),
    }));
  }

  close(): void {
    this.memory.close();
    this.mapping.retire();
    this.file.close();
  }
}

test('a request of a disk gets its status, also through an indirect table', () => {
  const stand = new Stand();
  // Head 0: readable header, writable data, writable status.
  stand.describe(DESCRIPTORS, 0, [BUFFERS, 16, 1, 1]);
  stand.describe(DESCRIPTORS, 1, [BUFFERS + 64, 512, 3, 2]);
  stand.describe(DESCRIPTORS, 2, [BUFFERS + 1024, 1, 2]);
  // Head 3: the same, in a table elsewhere.
  stand.describe(DESCRIPTORS, 3, [BUFFERS + 2048, 32, 4]);
  stand.describe(BUFFERS + 2048, 0, [BUFFERS, 16, 1, 1]);
  stand.describe(BUFFERS + 2048, 1, [BUFFERS + 1025, 1, 2]);
  stand.offer(0);
  stand.offer(3);
  const dead = new DeadRing(stand.ring, stand.memory, 1);
  dead.fail([0, 3]);
  expect(stand.used()).toEqual([
    { id: 0, length: 1 },
    { id: 3, length: 1 },
  ]);
  expect(stand.view.getUint16(BUFFERS + 1024, true)).toBe(0x0101);
  expect(dead.failNew()).toBe(0);
  stand.offer(3);
  expect(dead.failNew()).toBe(1);
  // The driver is asked to tell of the fourth request.
  expect(stand.view.getUint16(DEVICE + 4 + 8 * SIZE, true)).toBe(3);
  stand.close();
});

test('chains without an end and tables outside of memory are given back all the same', () => {
  const stand = new Stand();
  stand.describe(DESCRIPTORS, 0, [BUFFERS, 16, 1, 0]);
  stand.describe(DESCRIPTORS, 1, [0x10_0000, 64, 4]);
  new DeadRing(stand.ring, stand.memory, 1).fail([0, 1]);
  expect(stand.used().map(({ id }) => id)).toEqual([0, 1]);
  stand.close();
});

/** A reproducible order of numbers. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Offers and finishes in any order, `count` times. */
function play(stand: Stand, random: (below: number) => number, out: number[], count: number): void {
  for (let step = 0; step < count; step += 1) {
    const free = Array.from({ length: SIZE }, (_, head) => head).filter((h) => !out.includes(h));
    if (out.length === 0 || (free.length > 0 && random(2) === 0)) {
      const head = free[random(free.length)]!;
      out.push(head);
      stand.offer(head);
    } else {
      const [head] = out.splice(random(out.length), 1);
      stand.ring.giveBack(head!, 0);
    }
  }
}

test('a tracker knows what is out, whatever the order, and so does its successor', () => {
  const stand = new Stand();
  const random = generator(7);
  const part = new Uint8Array(trackerSize(SIZE));
  const tracker = new QueueTracker(part, SIZE);
  tracker.begin(0);
  const out: number[] = [];
  // Round the 16-bit indices.
  for (let round = 0; round < 20_000; round += 1) {
    play(stand, random, out, 1 + random(8));
    tracker.follow(stand.ring);
    if (round % 100 !== 0) continue;
    play(stand, random, out, random(8));
    const successor = new QueueTracker(part, SIZE);
    expect(successor.outstanding(stand.ring)).toEqual(out.toSorted());
  }
  stand.close();
});

test('what cannot be followed is not known, until nothing is out', () => {
  const stand = new Stand();
  const tracker = new QueueTracker(new Uint8Array(trackerSize(SIZE)), SIZE);
  // Nobody has said where it begins.
  stand.offer(0);
  expect(tracker.outstanding(stand.ring)).toBeNull();
  stand.ring.giveBack(0, 0);
  expect(tracker.outstanding(stand.ring)).toEqual([]);
  for (let i = 0; i <= SIZE; i += 1) {
    stand.offer(i % SIZE);
    if (i > 0) stand.ring.giveBack(i - 1, 0);
  }
  expect(tracker.outstanding(stand.ring)).toBeNull();
  stand.ring.giveBack(0, 0);
  stand.offer(5);
  expect(tracker.outstanding(stand.ring)).toBeNull();
  stand.ring.giveBack(5, 0);
  expect(tracker.outstanding(stand.ring)).toEqual([]);
  tracker.forget();
  stand.offer(1);
  expect(tracker.outstanding(stand.ring)).toBeNull();
  stand.close();
});
