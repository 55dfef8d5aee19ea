/**
 * What a back end offers, and whether its used lengths are honest: asked by a front end of ours,
 * without a kernel. The loopback module relies on both.
 */

import { once } from 'node:events';
import { createConnection } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { FrontEnd, FrontEndQueue, PROTOCOL_FEATURE_BIT } from '../../../dist/vhost-user/index.js';
import { waitFor } from './programs.mjs';

const HEADER_BYTES = 12;
const VERSION = 1;
const GET = { FEATURES: 1, PROTOCOL: 15, QUEUES: 17, SLOTS: 36 };
const SET_OWNER = 3;
const SET_PROTOCOL = 16;
const ANSWER_MS = 10_000;
const CONNECT_TRIES = 20;
const CONNECT_PAUSE_MS = 100;

/** Ring features, as bits of the virtio features. */
const RING_BITS = { INDIRECT_DESC: 28, EVENT_IDX: 29, RING_PACKED: 34, IN_ORDER: 35 };
const PROTOCOL_FEATURES = 30;
const PROTOCOL_NAMES = ['INFLIGHT_SHMFD', 'CONFIG', 'CONFIGURE_MEM_SLOTS'];

const hasBit = (word, bit) => ((word >> BigInt(bit)) & 1n) === 1n;

/** A connection for messages whose payload is one number, or nothing. */
class Wire {
  bytes = Buffer.alloc(0);

  constructor(socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (data) => {
      this.bytes = Buffer.concat([this.bytes, data]);
    });
  }

  send(request, value) {
    const size = value === undefined ? 0 : 8;
    const message = Buffer.alloc(HEADER_BYTES + size);
    message.writeUInt32LE(request, 0);
    message.writeUInt32LE(VERSION, 4);
    message.writeUInt32LE(size, 8);
    if (value !== undefined) message.writeBigUInt64LE(value, HEADER_BYTES);
    this.socket.write(message);
  }

  async ask(request) {
    this.send(request);
    const size = HEADER_BYTES + 8;
    const isOver = () => this.bytes.length >= size || this.socket.destroyed;
    await waitFor(isOver, `answer to message ${request}`, ANSWER_MS);
    if (this.bytes.length < size) throw new Error(`no answer to message ${request}`);
    const value = this.bytes.readBigUInt64LE(HEADER_BYTES);
    this.bytes = this.bytes.subarray(size);
    return value;
  }
}

/** Tries until it works: a socket that is there may not listen yet. */
async function persist(action) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await action();
    } catch (error) {
      if (tries === CONNECT_TRIES) throw error;
      await sleep(CONNECT_PAUSE_MS);
    }
  }
}

async function connect(path) {
  const socket = createConnection(path);
  await once(socket, 'connect');
  return socket;
}

/**
 * What a back end offers. It may end with the connection, as virtiofsd does.
 * @param {string} path its socket
 */
export async function offersOf(path) {
  const wire = new Wire(await persist(() => connect(path)));
  wire.send(SET_OWNER);
  const features = await wire.ask(GET.FEATURES);
  const has = (bits) =>
    Object.fromEntries(Object.entries(bits).map(([name, bit]) => [name, hasBit(features, bit)]));
  const protocol = hasBit(features, PROTOCOL_FEATURES) ? await wire.ask(GET.PROTOCOL) : 0n;
  const named = PROTOCOL_NAMES.map((name) => [name, hasBit(protocol, PROTOCOL_FEATURE_BIT[name])]);
  const offers = {
    features: `0x${features.toString(16)}`,
    protocol: `0x${protocol.toString(16)}`,
    ...has(RING_BITS),
    ...Object.fromEntries(named),
  };
  // Back ends answer more messages once they know what is used.
  if (protocol !== 0n) {
    const { MQ, CONFIGURE_MEM_SLOTS } = PROTOCOL_FEATURE_BIT;
    const used = [MQ, CONFIGURE_MEM_SLOTS].map((bit) => protocol & (1n << BigInt(bit)));
    wire.send(SET_PROTOCOL, used[0] | used[1]);
    if (used[0] !== 0n) offers.queues = Number(await wire.ask(GET.QUEUES));
    if (used[1] !== 0n) offers.slots = Number(await wire.ask(GET.SLOTS));
  }
  wire.socket.destroy();
  await once(wire.socket, 'close');
  return offers;
}

const QUEUE_SIZE = 64;
const MEMORY_BYTES = 2 ** 20;
/** What writable memory is filled with: a byte that the device did not write shows. */
const FILL = 0xa5;

/** A driver without a kernel: it places requests, and looks at what came back. */
export class Probe {
  /** @type {Map<number, object>} */
  requests = new Map();
  /** Results, in words, by what was asked. */
  lengths = {};

  /** @param {string} path @param {number} queueCount */
  static async open(path, queueCount) {
    const probe = new Probe();
    probe.frontEnd = await persist(() => FrontEnd.connect({ path, timeoutMs: ANSWER_MS }));
    const size = queueCount * FrontEndQueue.bytesNeeded(QUEUE_SIZE) + MEMORY_BYTES;
    const region = await probe.frontEnd.addMemory(size);
    const owner = { drain: () => {}, resubmit: () => {}, called: () => {} };
    for (let index = 0; index < queueCount; index += 1) {
      probe.frontEnd.createQueue({ size: QUEUE_SIZE, owner });
    }
    probe.region = region;
    await probe.frontEnd.start();
    return probe;
  }

  /** Memory for one part of a request. */
  allocate(size) {
    const block = this.region.allocate(size, 64);
    if (block === null) throw new Error('the memory of the probe is too small');
    return block;
  }

  /**
   * Places a request.
   * @param {number} index of the queue
   * @param {{ readable?: Uint8Array, writable?: readonly number[] }} parts `writable`: sizes
   */
  place(index, { readable, writable = [] }) {
    const { ring } = this.frontEnd.queues[index];
    ring.begin();
    if (readable !== undefined) {
      const block = this.allocate(readable.length);
      block.bytes.set(readable);
      ring.addReadable(block.address, readable.length);
    }
    const blocks = writable.map((size) => this.allocate(size));
    for (const block of blocks) {
      block.bytes.fill(FILL);
      ring.addWritable(block.address, block.size);
    }
    const token = this.requests.size;
    const request = { blocks, used: null };
    this.requests.set(token, request);
    if (!ring.commit(token)) throw new Error('the ring of the probe is full');
    ring.publish();
    return request;
  }

  /** Waits for a request that was placed; returns what is in its writable part. */
  async finish(index, request, what) {
    const { ring } = this.frontEnd.queues[index];
    await waitFor(() => {
      while (ring.next()) this.requests.get(ring.usedToken).used = ring.usedLength;
      return request.used !== null;
    }, what);
    const bytes = Buffer.concat(request.blocks.map((block) => block.bytes));
    this.lengths[what] = judge(bytes, request.used);
    return bytes;
  }

  /** One request from its begin to its end. */
  ask(index, what, parts) {
    return this.finish(index, this.place(index, parts), what);
  }

  async close() {
    await this.frontEnd.close();
  }
}

/** A used length against the bytes that were written. */
function judge(bytes, used) {
  const within = bytes.subarray(0, used);
  const unwritten = within.filter((byte) => byte === FILL).length;
  const beyond = bytes.subarray(used).filter((byte) => byte !== FILL).length;
  const verdicts = [
    unwritten === 0 ? '' : `overstates: ${unwritten} of them not written`,
    beyond === 0 ? '' : `understates: ${beyond} bytes written behind them`,
  ].filter((text) => text !== '');
  return { used, room: bytes.length, verdict: verdicts.join('; ') || 'exact' };
}
