import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VloError } from '../errors.js';
import {
  createEventFd,
  createMemfd,
  type Fd,
  mappingCounts,
  openFdCount,
  sendMessage,
  socketPair,
} from '../native/index.js';
import { F, ringFeatures } from '../virtio/index.js';
import { BackEndSession } from './back-end.js';
import { encodeRequest } from './codec.js';
import { Connection, type IncomingMessage, SEND_QUEUE_BYTES_MAX } from './connection.js';
import { VIRTIO_FEATURE } from './messages-constants.js';
import { FakeDevice, GuestRam, PROTOCOL_DEFAULT, TestRing, until } from './test-utils.js';

let before: { fds: number; live: number };
const counts = () => ({ fds: openFdCount(), live: mappingCounts().live });
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 2));
beforeEach(() => {
  before = counts();
});
afterEach(async () => {
  await turn();
  expect(counts()).toEqual(before);
});

const ROLE = { requester: 'frontEnd', receives: 'request' } as const;

function receiver(handle: (message: IncomingMessage) => void | Promise<void> = () => {}) {
  const [ours, theirs] = socketPair();
  const messages: IncomingMessage[] = [];
  const closes: (VloError | null)[] = [];
  const connection = new Connection(theirs, ROLE, {
    onMessage: (message) => {
      messages.push(message);
      return handle(message);
    },
    onClose: (error) => closes.push(error),
  });
  return { socket: ours, connection, messages, closes };
}

test('a message that comes byte by byte, its descriptor with any of them', async () => {
  const page = createMemfd('page', 4096);
  const region = { guestAddress: 0, userAddress: 0, size: 4096, mmapOffset: 0 };
  const bytes = encodeRequest('ADD_MEM_REG', region);
  for (let at = 0; at < bytes.length; at += 1) {
    const r = receiver();
    for (let i = 0; i < bytes.length; i += 1) {
      sendMessage(r.socket.number, bytes.subarray(i, i + 1), i === at ? [page.number] : []);
      if (i % 16 === 0) await turn();
    }
    await until(() => r.messages.length === 1, 'whole');
    expect(r.messages[0]!.payload).toEqual(bytes.slice(12));
    r.socket.close();
    await until(() => r.closes.length === 1, 'closed');
    expect(r.closes[0]?.code).toBe('VLO_DISCONNECTED');
  }
  page.close();
}, 20_000);

test('messages wait for the one before, and none is lost at the end', async () => {
  const order: string[] = [];
  const r = receiver(async ({ header }) => {
    order.push(`begin ${header.request}`);
    await turn();
    order.push(`end ${header.request}`);
  });
  sendMessage(r.socket.number, encodeRequest('GET_FEATURES', {}));
  sendMessage(r.socket.number, encodeRequest('SET_OWNER', {}));
  r.socket.close();
  await until(() => r.closes.length === 1, 'closed');
  expect(order).toEqual(['begin 1', 'end 1', 'begin 3', 'end 3']);
});

test('too many descriptors, or any where none belongs, are closed and refused', async () => {
  const events = Array.from({ length: 20 }, () => createEventFd());
  const numbers = events.map((fd) => fd.number);
  for (const [bytes, count] of [
    [encodeRequest('GET_FEATURES', {}), 1],
    [encodeRequest('SET_LOG_FD', {}), 2],
    [encodeRequest('SET_VRING_CALL', { value: 0n }), 20],
    [new Uint8Array(4), 9],
  ] as const) {
    const r = receiver();
    sendMessage(r.socket.number, bytes, numbers.slice(0, count));
    await until(() => r.closes.length === 1, 'refused');
    expect(r.closes[0]?.code).toBe('VLO_PROTOCOL');
    expect(r.messages).toHaveLength(0);
    r.socket.close();
  }
  for (const event of events) event.close();
});

test.each([
  ['version', [1, 2, 0]],
  ['reply flag', [1, 5, 0]],
  ['unknown flag', [1, 0x101, 0]],
  ['size', [1, 1, 0x7fffffff]],
])('a header with a wrong %s ends the connection', async (_, words) => {
  const r = receiver();
  sendMessage(r.socket.number, new Uint8Array(Uint32Array.from(words).buffer));
  await until(() => r.closes.length === 1, 'refused');
  expect(r.closes[0]?.code).toBe('VLO_PROTOCOL');
  r.socket.close();
});

test('a peer that does not read costs a bounded amount of memory', async () => {
  const r = receiver();
  const event = createEventFd();
  let sent = 0;
  while (!r.connection.isClosed && sent < 64 * SEND_QUEUE_BYTES_MAX) {
    const bytes = new Uint8Array(4096);
    r.connection.send(bytes, [event]);
    sent += bytes.length;
  }
  expect(r.closes[0]?.code).toBe('VLO_PROTOCOL');
  r.socket.close();
  event.close();
});

test('what waits in the queue is sent in order when the peer reads', async () => {
  const [ours, theirs] = socketPair();
  const got: number[] = [];
  const sender = new Connection(theirs, ROLE, { onMessage: () => {}, onClose: () => {} });
  const count = 200;
  for (let i = 0; i < count; i += 1) {
    const bytes = new Uint8Array(1012);
    bytes.set(encodeRequest('SET_VRING_ENABLE', { index: i, num: 1 }));
    new Uint32Array(bytes.buffer)[2] = 1000;
    sender.send(bytes);
  }
  const role = { requester: 'frontEnd', receives: 'request' } as const;
  const reader = new Connection(ours, role, {
    onMessage: ({ payload }) => {
      got.push(payload[0]!);
    },
    onClose: () => {},
  });
  await until(() => got.length === count, 'all');
  expect(got).toEqual(Array.from({ length: count }, (_, i) => i & 0xff));
  sender.close();
  reader.close();
});

/** All that a front end sends from start to end. */
function wholeSession(ram: GuestRam, ring: TestRing, log: GuestRam, channel: Fd) {
  const value = F.VERSION_1 | VIRTIO_FEATURE.PROTOCOL_FEATURES | VIRTIO_FEATURE.LOG_ALL;
  const messages: [Uint8Array, number[]][] = [];
  const add = (bytes: Uint8Array, ...fds: Fd[]) =>
    messages.push([bytes, fds.map((fd) => fd.number)]);
  add(encodeRequest('GET_PROTOCOL_FEATURES', {}));
  add(encodeRequest('SET_PROTOCOL_FEATURES', { value: PROTOCOL_DEFAULT }));
  add(encodeRequest('SET_FEATURES', { value }));
  add(encodeRequest('SET_BACKEND_REQ_FD', {}), channel);
  add(encodeRequest('SET_MEM_TABLE', { regions: [ram.region] }), ram.fd);
  const inflight = { mmapSize: 4096, mmapOffset: 0, queueCount: 1, queueSize: 8 };
  add(encodeRequest('SET_INFLIGHT_FD', inflight), log.fd);
  add(encodeRequest('SET_LOG_BASE', { size: 4096, offset: 4096 }), log.fd);
  add(encodeRequest('SET_VRING_NUM', { index: 0, num: 8 }));
  add(encodeRequest('SET_VRING_ADDR', ring.address(1, BigInt(ring.usedGuestAddress))));
  add(encodeRequest('SET_VRING_KICK', { value: 0n }), ring.kick);
  add(encodeRequest('SET_VRING_CALL', { value: 0n }), ring.call);
  add(encodeRequest('SET_VRING_ERR', { value: 0n }), ring.err);
  add(encodeRequest('SET_VRING_ENABLE', { index: 0, num: 1 }));
  add(encodeRequest('GET_VRING_BASE', { index: 0, num: 0 }));
  return messages;
}

test('a front end that leaves at any byte of a session leaves nothing behind', async () => {
  const ram = new GuestRam();
  const log = new GuestRam(8192);
  const ring = new TestRing(ram, 0, 8, ringFeatures(F.VERSION_1));
  const [channel, channelPeer] = socketPair();
  const messages = wholeSession(ram, ring, log, channel);
  const size = messages.reduce((sum, [bytes]) => sum + bytes.length, 0);
  ring.add(1);
  const inside = counts();
  for (let cut = 0; cut <= size; cut += 1) {
    const [ours, theirs] = socketPair();
    let ends = 0;
    const device = new FakeDevice();
    new BackEndSession(theirs, device, { onClose: () => (ends += 1) });
    let left = cut;
    for (const [bytes, fds] of messages) {
      if (left <= 0) break;
      sendMessage(ours.number, bytes.subarray(0, left), fds);
      left -= bytes.length;
    }
    if (cut % 3 === 0) await turn();
    ours.close();
    await until(() => ends > 0, `byte ${cut}`);
    expect(ends).toBe(1);
    expect(device.running.size).toBe(0);
    expect(device.events.at(-1)).toBe('reset');
    if (cut % 50 === 0) {
      await turn();
      expect(counts(), `byte ${cut}`).toEqual(inside);
    }
  }
  await turn();
  expect(counts()).toEqual(inside);
  ring.free();
  channel.close();
  channelPeer.close();
  ram.free();
  log.free();
}, 60_000);
