/**
 * One of the processes of the job fuzz: calls of the module one after the other, and what one can
 * do with a session's memory. Prints its outcomes as one line of JSON.
 *
 *   node fuzz-worker.mjs --seed 1 --count 100000
 */

import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import {
  createEventFd,
  createMemfd,
  NativeBuffer,
  signalEvent,
} from '../../../dist/native/index.js';
import { ERRNO, errnoName, lastErrno, libc } from '../../../dist/native/libc.js';
import { LOOPBACK_NODE } from '../../../dist/transports/loopback/control.js';
import { VLO_IOCTL, VloMemory } from '../../../dist/transports/loopback/uapi.js';
import { ARGUMENT_BYTES, Arguments } from './fuzz-arguments.mjs';
import { generator } from './random.mjs';

const FILES = 6;
const MEMORIES = 3;
const MAPPED_BYTES = 2 ** 16;
const PAGE = 4096;
const PAUSE_EVERY = 5000;
const PAUSE_MS = 10;
const NOISE_BYTES = 2 ** 16;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
/** Of fallocate: keep the size, and one of these: punch a hole, collapse, zero, insert. */
const FALLOCATE_MODES = [0, 1, 3, 8, 16, 17, 32];
const NEEDY_PERCENT = 20;
const F_ADD_SEALS = 1033;
const ADDRESS_MAX = 2 ** 47;
const { index: INDEX_AT, fd: FD_AT } = VloMemory.offsets;

const openModule = () => openSync(LOOPBACK_NODE, constants.O_RDWR | constants.O_NONBLOCK);

/** Random bytes, in a file from which the kernel reads them. */
function makeNoise(random) {
  const file = createMemfd('fuzz', NOISE_BYTES);
  const bytes = new NativeBuffer(NOISE_BYTES);
  for (let at = 0; at < bytes.u32.length; at += 1) {
    // Small numbers pass more checks of the module.
    bytes.u32[at] = random.chance(50) ? random.next(300) : random.next(2 ** 32 - 1);
  }
  libc.write(file.number, bytes.address, NOISE_BYTES);
  bytes.free();
  return file;
}

class Worker {
  constructor(seed) {
    this.random = generator(seed);
    this.argument = new NativeBuffer(Math.max(ARGUMENT_BYTES, PAGE));
    this.view = new DataView(this.argument.bytes.buffer);
    this.arguments = new Arguments(this.random, this.argument);
    this.files = Array.from({ length: FILES }, openModule);
    this.events = [createEventFd(), createEventFd(), createEventFd()];
    this.noise = makeNoise(this.random);
    this.sink = createMemfd('fuzz', NOISE_BYTES);
    this.vector = new NativeBuffer(2 * BigUint64Array.BYTES_PER_ELEMENT);
    /** Files of sessions, mapped: `isRam` for the machine's own memory, which is only read. */
    this.memories = [];
    this.outcomes = {};
    this.ioctls = 0;
    /** What the next call has to be. @type {{ fd: number, name: string } | null} */
    this.nextCall = null;
  }

  count(name, result) {
    const outcome = `${name} ${result < 0 ? errnoName(lastErrno()) : 'ok'}`;
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
  }

  /** A descriptor for SET_KICK and SET_CALL: mostly an eventfd. */
  anyFd() {
    const { random } = this;
    if (random.chance(75)) return random.of(this.events).number;
    if (random.chance(50)) return -1;
    return random.of([this.noise.number, ...this.files, 0, 1, 999, ...this.memoryFds()]);
  }

  memoryFds() {
    return this.memories.map(({ fd }) => fd);
  }

  ioctl() {
    const { random, argument } = this;
    const { name, code, address } = this.arguments.draw(() => this.anyFd(), this.nextCall?.name);
    // The address is not always that of the argument, nor aligned.
    const at = address - argument.address;
    const isThere = name === 'GET_MEMORY' && code === VLO_IOCTL[name] && (at === 0 || at === 1);
    const isRam = isThere && this.view.getUint32(at + INDEX_AT, true) === 1;
    const fd = this.nextCall?.fd ?? (random.chance(98) ? random.of(this.files) : this.anyFd());
    this.nextCall = null;
    const result = libc.ioctl(fd, code, address);
    this.ioctls += 1;
    this.count(name, result);
    // Files without a device would be most of all: they soon get one.
    if (result < 0 && lastErrno() === ERRNO.EUNATCH && random.chance(NEEDY_PERCENT)) {
      this.nextCall = { fd, name: random.of(['CREATE', 'CREATE', 'ATTACH']) };
    }
    if (result === 0 && isThere) this.keep(this.view.getInt32(at + FD_AT, true), isRam);
  }

  /** Maps a session's memory and keeps it; another one goes for it. */
  keep(fd, isRam) {
    const { random } = this;
    if (this.memories.length >= MEMORIES) this.drop(random.next(this.memories.length));
    const protection = isRam ? PROT_READ : random.of([PROT_READ, 3, 3, 3, PROT_WRITE, 7]);
    const flags = random.of([MAP_SHARED, MAP_SHARED, MAP_SHARED, MAP_PRIVATE]);
    const offset = random.of([0, 0, 0, PAGE, 16 * PAGE, 2 ** 20 - PAGE, 2 ** 31, 1]);
    const address = libc.mmap(0, MAPPED_BYTES, protection, flags, fd, offset);
    const isMapped = typeof address === 'number' && address < ADDRESS_MAX;
    this.count(isRam ? 'mmap RAM' : 'mmap', isMapped ? 0 : -1);
    this.memories.push({ fd, isRam, address: isMapped ? address : 0 });
  }

  readRam(address, size) {
    this.vector.setU64(0, address);
    this.vector.setU64(8, size);
    return libc.pwritev(this.sink.number, this.vector.address, 1, 0);
  }

  drop(index) {
    const [{ fd, address }] = this.memories.splice(index, 1);
    if (address !== 0) libc.munmap(address, MAPPED_BYTES);
    closeSync(fd);
  }

  /** Something with a session's memory. The kernel does it: a page that is gone is an error. */
  useMemory() {
    const { random, noise } = this;
    if (this.memories.length === 0) return;
    const index = random.next(this.memories.length);
    const { fd, isRam, address } = this.memories[index];
    const kind = random.next(100);
    const at = random.next(MAPPED_BYTES / 2);
    const size = random.of([2, 4, 64, PAGE, MAPPED_BYTES / 2]);
    if (kind < 70) {
      if (address === 0) return;
      if (isRam) this.count('read of RAM', this.readRam(address + at, size));
      else this.count('write to memory', libc.pread(noise.number, address + at, size, at));
    } else if (kind < 78) {
      const length = random.of([0, PAGE, 2 ** 20 - PAGE, 2 ** 20, 2 ** 21, -1]);
      this.count('ftruncate', libc.ftruncate(fd, length));
    } else if (kind < 90) {
      const offset = PAGE * random.next(300);
      const mode = random.of(FALLOCATE_MODES);
      this.count('fallocate', libc.fallocate(fd, mode, offset, random.of([0, PAGE, 2 ** 20])));
    } else if (kind < 93) {
      this.count('seal', libc.fcntl(fd, F_ADD_SEALS, random.of([1, 2, 4, 8, 16, 32])));
    } else if (kind < 96) {
      this.count('read of memory', libc.read(fd, this.argument.address, PAGE));
    } else this.drop(index);
  }

  step() {
    const { random } = this;
    const kind = random.next(1000);
    if (kind < 850) this.ioctl();
    else if (kind < 890) this.useMemory();
    else if (kind < 940) signalEvent(random.of(this.events).number);
    else if (kind < 990) {
      const size = random.of([0, 8, 16, 64]);
      this.count('read', libc.read(random.of(this.files), this.argument.address, size));
    } else {
      const index = random.next(FILES);
      closeSync(this.files[index]);
      this.files[index] = openModule();
    }
  }

  async run(count) {
    while (this.ioctls < count) {
      for (let i = 0; i < PAUSE_EVERY && this.ioctls < count; i += 1) this.step();
      // Time for what the calls set going.
      await sleep(PAUSE_MS);
    }
  }
}

const { values } = parseArgs({ options: { seed: { type: 'string' }, count: { type: 'string' } } });
const worker = new Worker(Number(values.seed));
await worker.run(Number(values.count));
// Files, mappings and devices go as they do when a process dies.
process.stdout.write(`${JSON.stringify({ ioctls: worker.ioctls, outcomes: worker.outcomes })}\n`);
