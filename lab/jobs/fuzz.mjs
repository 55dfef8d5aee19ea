/**
 * Throws ioctls, reads, polls and mappings at /dev/virtio-loopback: wrong arguments, sizes, orders
 * and descriptors, and devices that come and go meanwhile. What must hold: an error number for
 * each, nothing in the kernel's log, no device left, and the module can be removed.
 *
 *   npm run lab -- fuzz [-- --calls 100000 --seed 1]
 */

import { closeSync, constants, openSync, readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { NativeBuffer } from '../../dist/native/buffer.js';
import { createEventFd, createMemfd } from '../../dist/native/index.js';
import { errnoName, lastErrno, libc } from '../../dist/native/libc.js';
import { check, fact } from './support/checks.mjs';
import { run, waitFor } from './support/programs.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';

const DEVICE = '/dev/virtio-loopback';
const FILES = 12;
const PAUSE_EVERY = 2000;
const ARGUMENT_SIZE = 1024;

/** Requests: name, number, size of the argument, direction (1 write, 2 read, 3 both). */
const REQUESTS = [
  ['CREATE', 0xc0, 472, 1],
  ['ATTACH', 0xc1, 40, 1],
  ['GET_INFO', 0xc2, 216, 2],
  ['GET_QUEUE', 0xc3, 40, 3],
  ['GET_MEMORY', 0xc4, 24, 3],
  ['SET_KICK', 0xc5, 8, 1],
  ['SET_CALL', 0xc6, 8, 1],
  ['GET_CONFIG', 0xc7, 264, 3],
  ['SET_CONFIG', 0xc8, 264, 1],
  ['ACK', 0xc9, 4, 1],
  ['SET_STASH', 0xca, 72, 1],
  ['GET_STASH', 0xcb, 72, 2],
  ['FAIL_REQUESTS', 0xcc, 0, 0],
  ['REMOVE', 0xcd, 0, 0],
].map(([name, number, size, direction]) => ({
  name,
  size,
  code: ((direction << 30) | (size << 16) | (0x76 << 8) | number) >>> 0,
}));

/** Ids of devices whose drivers are in the guest, and of some that nobody knows. */
const DEVICE_IDS = [1, 2, 3, 4, 4, 4, 18, 19, 26, 63, 4000];
const VALUES = [
  0,
  1,
  2,
  3,
  7,
  64,
  255,
  256,
  257,
  4096,
  65535,
  2 ** 20,
  2 ** 30,
  2 ** 31,
  2 ** 32 - 1,
];

/** A small generator with a seed, so that a failure can be repeated (xorshift32). */
function generator(seed) {
  let state = seed || 1;
  const next = (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
  return { next, of: (list) => list[next(list.length)], chance: (percent) => next(100) < percent };
}

class Fuzzer {
  constructor(seed) {
    this.random = generator(seed);
    this.argument = new NativeBuffer(ARGUMENT_SIZE);
    this.files = Array.from({ length: FILES }, () => this.open());
    this.extra = [createEventFd(), createEventFd(), createMemfd('fuzz', 8192)];
    this.outcomes = {};
  }

  open() {
    return openSync(DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  }

  /** A device that the module takes, but for one field at times. */
  fillCreate() {
    const { random, argument } = this;
    argument.bytes.fill(0);
    const queues = 1 + random.next(4);
    const fields = [
      1,
      0,
      random.of(DEVICE_IDS),
      0x564c,
      // Features: VERSION_1, at times more.
      random.chance(30) ? 0x30000000 : 0,
      random.chance(20) ? 5 : 1,
      0,
      0,
      2 ** 20,
      0,
      random.of([0, 0, 1, 50]),
      queues,
      64,
      0,
    ];
    for (const [index, value] of fields.entries()) argument.u32[index] = value;
    argument.bytes.set(Buffer.from(`fuzz${random.next(FILES)}`), 56);
    for (let i = 0; i < queues; i += 1) argument.u16[44 + i] = random.of([1, 8, 64, 256]);
    if (random.chance(30)) argument.u32[random.next(60)] = random.of(VALUES);
  }

  fillAttach() {
    const { random, argument } = this;
    argument.bytes.fill(0);
    argument.u32[0] = random.chance(95) ? 1 : random.of(VALUES);
    argument.bytes.set(Buffer.from(`fuzz${random.next(FILES)}`), 8);
  }

  fillAny() {
    const { random, argument } = this;
    for (let i = 0; i < 20; i += 1) argument.u32[i] = random.of(VALUES);
    if (random.chance(60)) argument.u32[0] = random.next(4);
    if (random.chance(60)) argument.u32[1] = random.of([...this.extra, this.extra[0]]).number;
    if (random.chance(10)) argument.i32[1] = random.of(this.files);
  }

  ioctl() {
    const { random, argument } = this;
    const request = random.of(REQUESTS);
    if (request.name === 'CREATE') this.fillCreate();
    else if (request.name === 'ATTACH') this.fillAttach();
    else this.fillAny();
    if (request.name === 'SET_STASH' && random.chance(50)) {
      argument.u32[0] = this.extra[2].number;
      argument.u32[1] = random.next(80);
    }
    const code = random.chance(3) ? (request.code ^ (1 << random.next(32))) >>> 0 : request.code;
    const address = random.chance(2) ? random.of([0, 1, 4096, 2 ** 46]) : argument.address;
    const result = libc.ioctl(random.of(this.files), code, address);
    this.count(request.name, result);
    if (result < 0) return;
    if (request.name === 'GET_MEMORY') this.map(argument.i32[1], argument.getU64(16));
    if (request.name === 'GET_STASH' && argument.i32[0] >= 0) closeSync(argument.i32[0]);
  }

  /** Maps a part of a device's memory, scribbles over the rings in it, and lets it go. */
  map(fd, size) {
    const length = 2 ** 16;
    const address = libc.mmap(0, length, 3, 1, fd, this.random.of([0, 0, 4096, size, size - 4096]));
    if (typeof address === 'number' && address < 2 ** 47) {
      libc.pread(this.extra[2].number, address, 4096, 0);
      libc.munmap(address, length);
    }
    closeSync(fd);
  }

  count(name, result) {
    const outcome = `${name} ${result < 0 ? errnoName(lastErrno()) : 'ok'}`;
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
  }

  step() {
    const { random } = this;
    const kind = random.next(100);
    if (kind < 88) this.ioctl();
    else if (kind < 95) {
      this.count(
        'read',
        libc.read(random.of(this.files), this.argument.address, random.of([0, 8, 16, 64])),
      );
    } else {
      const index = random.next(FILES);
      closeSync(this.files[index]);
      this.files[index] = this.open();
    }
  }

  close() {
    for (const fd of this.files) closeSync(fd);
    for (const fd of this.extra) fd.close();
  }
}

const devices = () =>
  readdirSync('/sys/devices/platform').filter((name) => name.startsWith('virtio-loopback.'));

export default async function fuzz(words) {
  const { values } = parseArgs({
    args: words,
    options: {
      calls: { type: 'string', default: '100000' },
      seed: { type: 'string', default: '1' },
    },
  });
  const calls = Number(values.calls);
  await check('the module loads', async () => {
    for (const name of ['virtio_blk', 'virtio_rng', 'virtio_console']) await modprobe(name);
    await insertModule();
  });
  const fuzzer = new Fuzzer(Number(values.seed));
  await check(
    `${calls} calls, seed ${values.seed}`,
    async () => {
      for (let i = 1; i <= calls; i += 1) {
        fuzzer.step();
        // Time for what the calls set going.
        if (i % PAUSE_EVERY === 0) await sleep(20);
      }
      fact('outcomes', fuzzer.outcomes);
      const kinds = Object.keys(fuzzer.outcomes).length;
      if (!('CREATE ok' in fuzzer.outcomes)) throw new Error('no device was ever made');
      return `${fuzzer.outcomes['CREATE ok']} devices made, ${kinds} kinds of outcomes`;
    },
    { timeout: 600_000 },
  );
  await check('all devices go when their files are closed', async () => {
    fuzzer.close();
    await waitFor(() => devices().length === 0, 'end of all devices', 60_000);
  });
  await check('the module goes', async () => {
    await waitFor(
      async () => {
        const { status } = await run(['rmmod', 'virtio_loopback'], { status: null });
        return status === 0;
      },
      'way to remove the module',
      30_000,
    );
  });
  await check('and comes again', async () => {
    await insertModule();
    await removeModule();
  });
}
