import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  consumeEvent,
  createEventFd,
  mappingCounts,
  openFdCount,
  socketPair,
} from '../native/index.js';
import { DriverFault, F, STATUS } from '../virtio/index.js';
import { encodeAck } from './codec.js';
import { Connection } from './connection.js';
import { BACK_END_MESSAGES, FRONT_END_MESSAGES } from './messages.js';
import { HEADER_FLAGS, PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';
import { FakeDevice, GuestRam, Harness, PROTOCOL_DEFAULT, TestRing, until } from './test-utils.js';

let ram: GuestRam;
let before: { fds: number; live: number };

beforeEach(() => {
  before = { fds: openFdCount(), live: mappingCounts().live };
  ram = new GuestRam();
});

afterEach(async () => {
  ram.free();
  // A watch's handle closes in a later turn of the event loop.
  await new Promise((resolve) => setTimeout(resolve, 2));
  expect({ fds: openFdCount(), live: mappingCounts().live }).toEqual(before);
});

const SPLIT = F.VERSION_1 | VIRTIO_FEATURE.PROTOCOL_FEATURES;
const PACKED = SPLIT | F.RING_PACKED;
const LAYOUTS = [
  ['split', SPLIT],
  ['packed', PACKED],
] as const;

describe('trap 14: config space', () => {
  test('reads beyond 256 bytes; what a device has not is zero; out of range fails', async () => {
    const h = new Harness();
    await h.negotiate();
    const get = (offset: number, size: number) =>
      h.frontEnd.get('GET_CONFIG', { offset, size, flags: 0, bytes: new Uint8Array(size) });
    const all = await get(0, 300);
    expect(all.bytes).toEqual(h.device.config);
    const beyond = await get(290, 20);
    expect(beyond.size).toBe(20);
    expect([...beyond.bytes.slice(10)]).toEqual(new Array(10).fill(0));
    expect((await get(300, 4)).size).toBe(0);
    await h.leave();
  });

  test('writes reach the device; out of range are refused and do no harm', async () => {
    const h = new Harness();
    await h.negotiate();
    const bytes = Uint8Array.of(7, 8);
    expect(await h.frontEnd.ack('SET_CONFIG', { offset: 270, size: 2, flags: 0, bytes })).toBe(
      true,
    );
    expect(h.device.events).toContain('writeConfig 270 2');
    const beyond = { offset: 299, size: 2, flags: 0, bytes };
    expect(await h.frontEnd.ack('SET_CONFIG', beyond)).toBe(false);
    h.frontEnd.send('SET_CONFIG', beyond);
    await h.frontEnd.sync();
    await h.leave();
  });

  test('protocol features are what is implemented', async () => {
    const h = new Harness();
    const { value } = await h.frontEnd.get('GET_PROTOCOL_FEATURES', {});
    expect(value).toBe(PROTOCOL_DEFAULT | PROTOCOL_FEATURE.BACKEND_SEND_FD);
    await h.leave();
    const device = new FakeDevice();
    device.configSize = 0;
    const bare = new Harness(device, { inBand: true });
    const { value: other } = await bare.frontEnd.get('GET_PROTOCOL_FEATURES', {});
    expect(other & PROTOCOL_FEATURE.CONFIG).toBe(0n);
    expect(other & PROTOCOL_FEATURE.INBAND_NOTIFICATIONS).not.toBe(0n);
    await bare.leave();
  });
});

describe('trap 15: a clean shutdown', () => {
  test('close waits for what is in flight, then releases everything', async () => {
    const h = new Harness();
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    const second = await h.startRing(ram, 1);
    h.device.holds = true;
    ring.add(1);
    second.add(2);
    await until(() => h.device.held.length === 2, 'held');
    let done = false;
    const closing = h.session.close().then(() => {
      done = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(done).toBe(false);
    h.device.release();
    await closing;
    expect(ring.take()).toEqual([1]);
    expect(second.take()).toEqual([2]);
    expect(await h.ended).toBe(null);
    await h.leave();
  });
});

describe('trap 5 and faults: the front end learns of a broken ring', () => {
  test('by its error descriptor, and NEEDS_RESET', async () => {
    const h = new Harness();
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    const [ours, theirs] = socketPair();
    const heard: number[] = [];
    expect(await h.frontEnd.ack('SET_BACKEND_REQ_FD', {}, [theirs])).toBe(true);
    const role = { requester: 'backEnd', receives: 'request' } as const;
    const channel = new Connection(ours, role, {
      onMessage: ({ header }) => {
        heard.push(header.request);
        expect(header.flags & HEADER_FLAGS.NEED_REPLY).not.toBe(0);
        channel.send(encodeAck(header.request, 0));
      },
      onClose: () => {},
    });
    await h.frontEnd.ack('SET_STATUS', { value: 15n });
    const [queue] = h.device.running.keys();
    h.session.reportFault(queue!, new DriverFault('order', 'test'));
    expect(consumeEvent(ring.err.number)).toBe(1);
    expect((await h.frontEnd.get('GET_STATUS', {})).value).toBe(
      BigInt(15 | STATUS.DEVICE_NEEDS_RESET),
    );
    await until(() => heard.length === 1, 'config change');
    for (let i = 0; i < 1000; i += 1) h.session.configChanged();
    await until(() => heard.length === 3, 'coalesced');
    expect(new Set(heard)).toEqual(new Set([BACK_END_MESSAGES.BACKEND_CONFIG_CHANGE_MSG.id]));
    await h.frontEnd.ack('SET_STATUS', { value: 0n });
    expect((await h.frontEnd.get('GET_STATUS', {})).value).toBe(0n);
    await h.leave();
    theirs.close();
    channel.close();
  });

  test('in-band: kicks, calls and errors are messages', async () => {
    const protocol = PROTOCOL_DEFAULT | PROTOCOL_FEATURE.INBAND_NOTIFICATIONS;
    const h = new Harness(undefined, { inBand: true, protocol });
    await h.negotiate(ram);
    const [ours, theirs] = socketPair();
    await h.frontEnd.ack('SET_BACKEND_REQ_FD', {}, [theirs]);
    theirs.close();
    const heard: number[] = [];
    const role = { requester: 'backEnd', receives: 'request' } as const;
    const channel = new Connection(ours, role, {
      onMessage: ({ header }) => {
        heard.push(header.request);
        channel.send(encodeAck(header.request, 0));
      },
      onClose: () => {},
    });
    const ring = new TestRing(ram, 0, 8, h.ringFeatures);
    ring.driver.kickFd = -1;
    h.frontEnd.send('SET_VRING_NUM', { index: 0, num: 8 });
    h.frontEnd.send('SET_VRING_ADDR', ring.address());
    h.frontEnd.send('SET_VRING_ENABLE', { index: 0, num: 1 });
    await h.frontEnd.sync();
    expect(h.device.running.size).toBe(0);
    expect(await h.frontEnd.ack('VRING_KICK', { index: 0, num: 0 })).toBe(true);
    expect(h.device.events).toContain('start 0 -2');
    ring.add(1);
    expect(await h.frontEnd.ack('VRING_KICK', { index: 0, num: 0 })).toBe(true);
    expect(ring.take()).toEqual([1]);
    await until(() => heard.includes(BACK_END_MESSAGES.BACKEND_VRING_CALL.id), 'call');
    const [queue] = h.device.running.keys();
    h.session.reportFault(queue!, null);
    await until(() => heard.includes(BACK_END_MESSAGES.BACKEND_VRING_ERR.id), 'err');
    await h.leave();
    channel.close();
    ring.free();
  });
});

describe('dirty logging', () => {
  const LOGGED = SPLIT | VIRTIO_FEATURE.LOG_ALL;

  function dirtyPages(log: GuestRam): number[] {
    const bits = log.mapping.bytes(0, log.size);
    const pages: number[] = [];
    bits.forEach((byte, at) => {
      for (let bit = 0; bit < 8; bit += 1) if ((byte >> bit) & 1) pages.push(at * 8 + bit);
    });
    bits.fill(0);
    return pages;
  }

  test.each(LAYOUTS)(
    'marks exactly what is written, %s, without a restart',
    async (_, features) => {
      // A ring at page 0 and data of requests at pages 128 and on, from guest address 0.
      const low = new GuestRam(2 ** 20, 0);
      const log = new GuestRam(4096);
      const h = new Harness(undefined, { features });
      await h.negotiate(low);
      const ring = await h.startRing(low);
      ring.add(1);
      await until(() => h.device.served.length === 1, 'first');
      const base = await h.frontEnd.get('SET_LOG_BASE', { size: 4096, offset: 0 }, [log.fd]);
      expect(base.value).toBe(0n);
      expect(dirtyPages(log)).toEqual([]);
      const logFd = createEventFd();
      h.frontEnd.send('SET_LOG_FD', {}, [logFd]);
      await h.frontEnd.ack('SET_FEATURES', { value: features | VIRTIO_FEATURE.LOG_ALL });
      ring.add(4, 16);
      await until(() => h.device.served.length === 2, 'second');
      expect(dirtyPages(log), 'data only').toEqual([0x81]);
      expect(consumeEvent(logFd.number)).toBeGreaterThan(0);
      // Data over a page's end, and the used ring where the front end says that it lies.
      await h.frontEnd.ack('SET_VRING_ADDR', ring.address(1, 0x20000n));
      ring.add(11, 700);
      await until(() => h.device.served.length === 3, 'third');
      const usedPage = features === PACKED ? 0 : 0x20;
      expect(dirtyPages(log)).toEqual([usedPage, 0x82, 0x83]);
      await h.frontEnd.ack('SET_FEATURES', { value: features });
      ring.add(12);
      await until(() => h.device.served.length === 4, 'fourth');
      expect(dirtyPages(log), 'off again').toEqual([]);
      expect(h.device.events.filter((event) => event.startsWith('stop'))).toEqual([]);
      await h.leave();
      low.free();
      log.free();
      logFd.close();
    },
  );

  test('pages beyond the log are left alone; a bad log closes the connection', async () => {
    const log = new GuestRam(4096);
    const h = new Harness(undefined, { features: LOGGED });
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    await h.frontEnd.get('SET_LOG_BASE', { size: 16, offset: 8 }, [log.fd]);
    ring.add(1);
    await until(() => h.device.served.length === 1, 'first');
    expect(dirtyPages(log)).toEqual([]);
    h.frontEnd.send('SET_LOG_BASE', { size: 8192, offset: 0 }, [log.fd]);
    expect((await h.ended)?.code).toBe('VLO_PROTOCOL');
    await h.leave();
    log.free();
  });
});

describe('resets', () => {
  test.each(['RESET_DEVICE', 'SET_STATUS'] as const)('%s stops rings and resets', async (name) => {
    const h = new Harness();
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    ring.add(1);
    await until(() => h.device.served.length === 1, 'first');
    const payload = name === 'SET_STATUS' ? { value: 0n } : {};
    expect(await h.frontEnd.ack(name, payload as never)).toBe(true);
    expect(h.device.running.size).toBe(0);
    expect(h.device.events.at(-1)).toBe('reset');
    ring.driver.reset();
    await h.frontEnd.ack('SET_FEATURES', { value: h.features });
    await h.describeRing(ring, 0);
    ring.add(2);
    await until(() => h.device.served.length === 2, 'again');
    await h.leave();
  });
});

describe('refusals', () => {
  test('with NEED_REPLY a non-zero answer, and the session goes on', async () => {
    const h = new Harness();
    await h.negotiate(ram);
    const { frontEnd } = h;
    const bad: Promise<boolean>[] = [
      frontEnd.ack('SET_FEATURES', { value: 1n << 50n }),
      frontEnd.ack('SET_VRING_NUM', { index: 0, num: 0 }),
      frontEnd.ack('SET_VRING_NUM', { index: 0, num: 32769 }),
      frontEnd.ack('SET_VRING_NUM', { index: 2, num: 8 }),
      frontEnd.ack('SET_VRING_ENABLE', { index: 0, num: 2 }),
      frontEnd.ack('SET_VRING_ENABLE', { index: 77, num: 1 }),
      frontEnd.ack('SET_VRING_KICK', { value: 5n }, [ram.fd]),
      frontEnd.ack('SET_VRING_KICK', { value: 0n }, [ram.fd]),
      frontEnd.ack('SET_VRING_ERR', { value: 9n }, [ram.fd]),
      frontEnd.ack('SET_PROTOCOL_FEATURES', { value: PROTOCOL_DEFAULT | PROTOCOL_FEATURE.SHMEM }),
      frontEnd.ack('SET_BACKEND_REQ_FD', {}, [ram.fd]),
      frontEnd.ack('SEND_RARP', { value: 1n }),
      frontEnd.ack('VRING_KICK', { index: 0, num: 0 }),
      frontEnd.ack(
        'SET_INFLIGHT_FD',
        { mmapSize: 2 ** 30, mmapOffset: 0, queueCount: 1, queueSize: 8 },
        [ram.fd],
      ),
    ];
    expect(await Promise.all(bad)).toEqual(bad.map(() => false));
    await h.leave();
  });

  test('ring areas: outside, unaligned, over the end of a region', async () => {
    const h = new Harness();
    await h.negotiate(ram);
    const ring = new TestRing(ram, 0, 8, h.ringFeatures);
    const { frontEnd } = h;
    frontEnd.send('SET_VRING_NUM', { index: 0, num: 8 });
    frontEnd.send('SET_VRING_KICK', { value: 0n }, [ring.kick]);
    frontEnd.send('SET_VRING_ENABLE', { index: 0, num: 1 });
    const address = ring.address();
    const end = ram.userAddress + ram.size;
    for (const bad of [
      { descriptor: 0 },
      { descriptor: end - 16 },
      { descriptor: address.descriptor + 8 },
      { available: address.available + 1 },
      { used: address.used + 2 },
      { used: end },
      { available: 2 ** 53 - 2 },
    ]) {
      expect(await frontEnd.ack('SET_VRING_ADDR', { ...address, ...bad })).toBe(false);
    }
    expect(await frontEnd.ack('SET_VRING_ADDR', address)).toBe(true);
    expect(h.device.running.size).toBe(1);
    // A split ring of 6 entries; a packed base outside of the ring.
    await frontEnd.ack('SET_VRING_NUM', { index: 0, num: 6 });
    await frontEnd.ack('SET_VRING_ADDR', address);
    expect(await frontEnd.ack('SET_VRING_KICK', { value: 0n }, [ring.kick])).toBe(false);
    await h.leave();
    ring.free();
  });

  test('without NEED_REPLY the connection closes', async () => {
    for (const value of [1n << 50n, F.VERSION_1 | (1n << 2n)]) {
      const h = new Harness();
      h.frontEnd.send('SET_FEATURES', { value });
      expect((await h.ended)?.code).toBe('VLO_PROTOCOL');
      await h.leave();
    }
  });

  test('in-band notifications need their two companions', async () => {
    const h = new Harness(undefined, { inBand: true });
    h.frontEnd.send('SET_PROTOCOL_FEATURES', { value: PROTOCOL_FEATURE.INBAND_NOTIFICATIONS });
    expect((await h.ended)?.code).toBe('VLO_PROTOCOL');
    await h.leave();
  });

  test('messages that are unknown or not implemented get their own answers', async () => {
    const h = new Harness();
    await h.negotiate();
    const { frontEnd } = h;
    const raw = (id: number, flags: number, size: number): Uint8Array => {
      const bytes = new Uint8Array(12 + size);
      new Uint32Array(bytes.buffer, 0, 3).set([id, flags, size]);
      return bytes;
    };
    frontEnd.connection.send(raw(999, 1 | HEADER_FLAGS.NEED_REPLY, 40));
    expect((await frontEnd.reply()).payload[0]).toBe(1);
    frontEnd.send('CHECK_DEVICE_STATE', {});
    expect((await frontEnd.reply()).payload[0]).toBe(1);
    frontEnd.send('SET_DEVICE_STATE_FD', { direction: 0, phase: 0 }, [ram.fd]);
    expect([...(await frontEnd.reply()).payload.slice(0, 2)]).toEqual([1, 1]);
    frontEnd.send('GET_SHMEM_CONFIG', {});
    expect((await frontEnd.reply()).payload[0]).toBe(0);
    frontEnd.connection.send(raw(999, 1, 0));
    expect((await h.ended)?.code).toBe('VLO_PROTOCOL');
    await h.leave();
    expect(FRONT_END_MESSAGES.GET_SHMEM_CONFIG.id).toBe(44);
  });
});
