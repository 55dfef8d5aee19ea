/**
 * A block device process that turns against the driver: it serves like any other until SIGUSR2, or,
 * with --at-start, from the first ring on. Then, in one of these ways:
 *
 *   ids      used entries with ids beyond the ring
 *   heads    used entries with ids that may not be outstanding, and lengths that no buffer has
 *   chains   as heads, and each descriptor says that another one follows (split)
 *   index    the used index (packed: the flags of descriptors) at random
 *   scribble all areas of all rings at random, without an end
 *   lengths  serves, but each used length is 2^32 - 1
 *   storm    serves, and calls the driver all the time for nothing
 *   silent   takes requests no more, but answers messages
 *   stop     stops itself as a whole, as SIGSTOP does
 *
 * It never lets go of memory that it was given, and writes there also after it was told to stop.
 *
 *   node hostile.mjs --socket S --image I --mode M [--at-start] [--no-packed]
 */

import { randomFillSync, randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { DEVICES } from '../../../dist/devices/catalog.js';
import { DeviceProcess } from '../../../dist/kit/index.js';
import { signalEvent } from '../../../dist/native/index.js';
import {
  BackEndServer,
  decodeRequest,
  FRONT_END_MESSAGES,
  HEADER_BYTES,
} from '../../../dist/vhost-user/index.js';
import { ringAreaSizes } from '../../../dist/virtio/index.js';

const STEP_MS = 1;
/** Used entries that are written at a time. */
const BURST = 8;
/** Calls at a time. */
const STORM = 200;
const FLAG_NEXT = 1;
const LENGTH_MAX = 2 ** 32 - 1;
/** Both say "used", each in one round of a packed ring. */
const PACKED_USED = [0x8080, 0x0000];

/** Writes on the rings as split. `words` and `elements` are the used ring. */
const SPLIT = {
  entries(ring, makeId) {
    const words = new Uint16Array(ring.device.buffer, ring.device.byteOffset, 2);
    const elements = new Uint32Array(ring.device.buffer, ring.device.byteOffset + 4, 2 * ring.size);
    for (let i = 0; i < BURST; i += 1) {
      const at = (words[1] + i) % ring.size;
      elements[2 * at] = makeId(ring.size);
      elements[2 * at + 1] = LENGTH_MAX;
    }
    Atomics.store(words, 1, (words[1] + BURST) & 0xffff);
  },
  index(ring) {
    const words = new Uint16Array(ring.device.buffer, ring.device.byteOffset, 2);
    Atomics.store(words, 1, randomInt(65536));
  },
};

/** The same of a packed ring, whose descriptors say by themselves that they are used. */
const PACKED = {
  entries(ring, makeId) {
    const { buffer, byteOffset } = ring.descriptor;
    const words = new Uint32Array(buffer, byteOffset, 4 * ring.size);
    const flags = PACKED_USED[randomInt(2)];
    for (let at = 0; at < ring.size; at += 1) {
      words[4 * at + 2] = LENGTH_MAX;
      Atomics.store(words, 4 * at + 3, ((flags << 16) | (makeId(ring.size) & 0xffff)) >>> 0);
    }
  },
  index(ring) {
    const { buffer, byteOffset } = ring.descriptor;
    const halves = new Uint16Array(buffer, byteOffset, 8 * ring.size);
    for (let at = 0; at < ring.size; at += 1) {
      if (randomInt(2) === 0) Atomics.store(halves, 8 * at + 7, PACKED_USED[randomInt(2)]);
    }
  },
};

/** What is done to a ring again and again. */
const STEPS = {
  ids: (ring, kind) => kind.entries(ring, (size) => size + randomInt(65536 - size)),
  heads: (ring, kind) => kind.entries(ring, (size) => randomInt(size)),
  chains: (ring, kind) => {
    const { buffer, byteOffset } = ring.descriptor;
    const halves = new Uint16Array(buffer, byteOffset, 8 * ring.size);
    for (let at = 0; at < ring.size; at += 1) halves[8 * at + 6] |= FLAG_NEXT;
    kind.entries(ring, (size) => randomInt(size));
  },
  index: (ring, kind) => kind.index(ring),
  scribble: ({ descriptor, driver, device }) => {
    for (const area of [descriptor, driver, device]) randomFillSync(area);
  },
  storm: ({ call }) => {
    for (let i = 0; i < STORM && call >= 0; i += 1) signalEvent(call);
  },
};

/** Ways in which requests are served as before. */
const SERVING = ['lengths', 'storm', 'stop'];

/** A device that does as the one inside of it, as long as it is not hostile. */
class Hostile {
  constructor(inner, mode, isHostile) {
    this.inner = inner;
    this.mode = mode;
    this.isHostile = isHostile;
    /** Addresses of the rings, as the front end said: by index. */
    this.addresses = [];
    /** Every ring that there ever was. */
    this.rings = new Map();
    this.served = new Set();
  }

  /** The device as a session takes it: this class, and for all else the device inside. */
  asDevice() {
    const own = {
      startQueue: (queue, kick) => this.startQueue(queue, kick),
      stopQueue: (queue) => this.stopQueue(queue),
      kickQueue: () => {},
    };
    return new Proxy(this.inner, {
      get(inner, name) {
        const value = own[name] ?? Reflect.get(inner, name, inner);
        return typeof value === 'function' ? value.bind(inner) : value;
      },
    });
  }

  onMessage(bytes) {
    const request = new Uint32Array(bytes.slice(0, 4).buffer)[0];
    if (request !== FRONT_END_MESSAGES.SET_VRING_ADDR.id) return;
    const payload = decodeRequest('SET_VRING_ADDR', bytes.subarray(HEADER_BYTES), 0);
    this.addresses[payload.index] = payload;
  }

  startQueue(queue, kick) {
    this.rings.set(queue, this.ringOf(queue));
    if (this.mode === 'lengths') this.lie(queue);
    if (this.isHostile && !SERVING.includes(this.mode)) return;
    this.served.add(queue);
    this.inner.startQueue(queue, kick);
  }

  async stopQueue(queue) {
    // Its descriptor for calls is closed next, and the number may become another file's.
    const ring = this.rings.get(queue);
    if (ring !== undefined) ring.call = -1;
    if (this.served.delete(queue)) await this.inner.stopQueue(queue);
  }

  ringOf(queue) {
    const { size, memory, features, index, callFd } = queue;
    const sizes = ringAreaSizes(size, features.packed);
    const view = (address, length) => {
      const region = memory.findUser(address);
      // Unmapped memory would end this process where it goes on to write.
      region.mapping.retire = () => {};
      return region.bytes(address - region.userAddress, length);
    };
    const { descriptor, available, used } = this.addresses[index];
    return {
      size,
      kind: features.packed ? PACKED : SPLIT,
      call: callFd,
      descriptor: view(descriptor, sizes.descriptor),
      driver: view(available, sizes.driver),
      device: view(used, sizes.device),
    };
  }

  /** Each used length becomes the largest there is, before the driver sees it. */
  lie(queue) {
    const { device, size } = this.rings.get(queue);
    const elements = new Uint32Array(device.buffer, device.byteOffset + 4, 2 * size);
    const publish = queue.publish.bind(queue);
    queue.publish = () => {
      for (let at = 0; this.isHostile && at < size; at += 1) elements[2 * at + 1] = LENGTH_MAX;
      publish();
    };
  }

  async turn() {
    this.isHostile = true;
    if (this.mode === 'stop') process.kill(process.pid, 'SIGSTOP');
    if (SERVING.includes(this.mode)) return;
    for (const queue of [...this.served]) {
      this.served.delete(queue);
      await this.inner.stopQueue(queue);
    }
  }

  step() {
    const step = STEPS[this.mode];
    if (!this.isHostile || step === undefined) return;
    for (const ring of this.rings.values()) {
      step(ring, ring.kind);
      if (ring.call >= 0) signalEvent(ring.call);
    }
  }
}

const { values } = parseArgs({
  options: {
    socket: { type: 'string' },
    image: { type: 'string' },
    mode: { type: 'string' },
    'at-start': { type: 'boolean', default: false },
    'no-packed': { type: 'boolean', default: false },
  },
});
const definition = DEVICES.find(({ name }) => name === 'blk');
const log = (line) => process.stderr.write(`hostile: ${line}\n`);
const options = { packed: !values['no-packed'], log };
const inner = await DeviceProcess.open(definition, { blkFile: values.image }, options);
const hostile = new Hostile(inner, values.mode, values['at-start']);
const server = new BackEndServer(hostile.asDevice(), {
  path: values.socket,
  log,
  onMessage: (from, bytes) => from === 'frontEnd' && hostile.onMessage(bytes),
});
inner.listener = server;
process.on('SIGUSR2', () => void hostile.turn());
await server.start();
setInterval(() => hostile.step(), STEP_MS);
log('ready');
