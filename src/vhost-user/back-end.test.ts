import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  consumeEvent,
  createEventFd,
  createMemfd,
  mappingCounts,
  openFdCount,
  signalEvent,
  waitReadable,
} from '../native/index.js';
import { F } from '../virtio/index.js';
import { VIRTIO_FEATURE } from './messages-constants.js';
import { FakeDevice, GuestRam, Harness, TestRing, until } from './test-utils.js';

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

describe.each(LAYOUTS)('%s ring', (_, features) => {
  test('serves requests, by kick and by what is there already', async () => {
    const h = new Harness(undefined, { features });
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    ring.add(1);
    ring.add(2);
    await until(() => h.device.served.length === 2, 'two requests');
    expect(ring.take()).toEqual([1, 2]);
    expect(consumeEvent(ring.call.number)).toBeGreaterThan(0);
    await h.leave();
    expect(h.device.events.at(-1)).toBe('reset');
  });

  test('trap 6: GET_VRING_BASE drains and stops the ring, and never resets it', async () => {
    const h = new Harness(undefined, { features });
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    h.device.holds = true;
    for (const token of [1, 2, 3]) ring.add(token);
    await until(() => h.device.held.length === 3, 'three held');
    let base = -1;
    const stopped = h.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 }).then(({ num }) => {
      base = num;
    });
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(base).toBe(-1);
    h.device.release();
    await stopped;
    expect(base).toBe(features === PACKED ? 0x80068006 : 3);
    expect(h.device.events).not.toContain('reset');
    expect(ring.take()).toEqual([1, 2, 3]);
    // Stopped: a kick does nothing. Started again at the same base: nothing is lost or doubled.
    h.device.holds = false;
    ring.add(4);
    await h.frontEnd.sync();
    expect(h.device.served).toHaveLength(3);
    await h.describeRing(ring, base);
    await until(() => h.device.served.length === 4, 'the fourth');
    expect(ring.take()).toEqual([4]);
    // And without SET_VRING_BASE the ring's own base is the one it stopped at.
    await h.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 });
    h.frontEnd.send('SET_VRING_KICK', { value: 0n }, [ring.kick]);
    ring.add(5);
    await until(() => h.device.served.length === 5, 'the fifth');
    await h.leave();
  });

  test('trap 2: a restart at the used index skips and repeats nothing', async () => {
    const h = new Harness(undefined, { features });
    await h.negotiate(ram);
    const ring = await h.startRing(ram, 0, 4);
    const done: number[] = [];
    for (let token = 0; token < 30; token += 1) {
      ring.add(token);
      await until(() => h.device.served.length === token + 1, `request ${token}`);
      done.push(...ring.take());
      if (token % 7 !== 6) continue;
      const { num } = await h.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 });
      await h.describeRing(ring, num);
    }
    expect(done).toEqual(Array.from({ length: 30 }, (_v, i) => i));
    await h.leave();
  });

  test('memory regions come and go under a running ring', async () => {
    const h = new Harness(undefined, { features });
    await h.negotiate();
    const more = new GuestRam(8192, 0x80000000, 0x7e0000000000);
    expect(await h.frontEnd.ack('ADD_MEM_REG', ram.region, [ram.fd])).toBe(true);
    const ring = await h.startRing(ram);
    ring.add(1);
    await until(() => h.device.served.length === 1, 'first');
    const starts = () => h.device.events.filter((event) => event.startsWith('start')).length;
    expect(starts()).toBe(1);
    expect(await h.frontEnd.ack('ADD_MEM_REG', more.region, [more.fd])).toBe(true);
    expect(starts(), 'adding does not pause').toBe(1);
    // Overlapping, and identical.
    expect(await h.frontEnd.ack('ADD_MEM_REG', more.region, [more.fd])).toBe(false);
    // A request in flight holds the removal up.
    h.device.holds = true;
    ring.driver.begin();
    ring.driver.addWritable(more.guestAddress, 100);
    ring.driver.commit(2);
    ring.driver.publish();
    await until(() => h.device.held.length === 1, 'held');
    let removed: boolean | null = null;
    const removing = h.frontEnd.ack('REM_MEM_REG', more.region).then((ok) => {
      removed = ok;
    });
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(removed).toBe(null);
    h.device.holds = false;
    h.device.release();
    await removing;
    expect(removed).toBe(true);
    expect(more.mapping.bytes(0, 100).every((byte) => byte === 0xab)).toBe(true);
    expect(starts(), 'goes on').toBe(2);
    ring.add(3);
    await until(() => h.device.served.length === 3, 'third');
    expect(ring.take()).toEqual([1, 2, 3]);
    // Gone: not there again. With a descriptor that nobody asked for, it is closed.
    expect(await h.frontEnd.ack('REM_MEM_REG', more.region)).toBe(false);
    expect(await h.frontEnd.ack('ADD_MEM_REG', more.region, [more.fd])).toBe(true);
    expect(await h.frontEnd.ack('REM_MEM_REG', more.region, [more.fd])).toBe(true);
    // The ring's own memory goes: it waits; it comes back: it goes on.
    expect(await h.frontEnd.ack('REM_MEM_REG', ram.region)).toBe(true);
    expect(h.device.running.size).toBe(0);
    ring.add(4);
    expect(await h.frontEnd.ack('ADD_MEM_REG', ram.region, [ram.fd])).toBe(true);
    await until(() => h.device.served.length === 4, 'fourth');
    await h.leave();
    more.free();
  });

  test('SET_MEM_TABLE under a running ring; a bad table leaves the old one', async () => {
    const h = new Harness(undefined, { features });
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    const regions = [ram.region];
    ring.add(1);
    expect(await h.frontEnd.ack('SET_MEM_TABLE', { regions }, [ram.fd])).toBe(true);
    const tooLong = { ...ram.region, size: ram.size + 4096 };
    expect(await h.frontEnd.ack('SET_MEM_TABLE', { regions: [tooLong] }, [ram.fd])).toBe(false);
    const twice = [ram.region, ram.region];
    expect(await h.frontEnd.ack('SET_MEM_TABLE', { regions: twice }, [ram.fd, ram.fd])).toBe(false);
    ring.add(2);
    await until(() => h.device.served.length === 2, 'both');
    expect(ring.take()).toEqual([1, 2]);
    expect(await h.frontEnd.ack('SET_MEM_TABLE', { regions: [] })).toBe(true);
    expect(h.device.running.size).toBe(0);
    await h.leave();
  });
});

test('memory in two regions of one file, the second at an offset', async () => {
  const h = new Harness();
  await h.negotiate();
  const half = ram.size / 2;
  const { guestAddress, userAddress } = ram;
  const regions = [0, half].map((at) => ({
    guestAddress: guestAddress + at,
    userAddress: userAddress + at,
    size: half,
    mmapOffset: at,
  }));
  expect(await h.frontEnd.ack('SET_MEM_TABLE', { regions }, [ram.fd, ram.fd])).toBe(true);
  const ring = await h.startRing(ram);
  ring.add(1);
  // One range over both.
  ring.driver.begin();
  ring.driver.addWritable(guestAddress + half - 10, 20);
  ring.driver.commit(2);
  ring.driver.publish();
  await until(() => h.device.served.length === 2, 'both');
  expect(ring.take()).toEqual([1, 2]);
  expect([...ram.mapping.bytes(half - 11, 22)]).toEqual([0, ...new Array(20).fill(0xab), 0]);
  await h.leave();
});

test('a ring without a kick descriptor is left to the device to look at', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = await h.startRing(ram);
  h.frontEnd.send('SET_VRING_KICK', { value: 0x100n });
  await h.frontEnd.sync();
  expect(h.device.events.slice(-2)).toEqual(['stop 0', 'start 0 -1']);
  ring.add(1);
  h.device.serve([...h.device.running.keys()][0]!);
  expect(ring.take()).toEqual([1]);
  await h.leave();
});

test('trap 7: the used index is read from the ring, also where it is not 0', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = new TestRing(ram, 0, 8, h.ringFeatures);
  const base = 65534;
  for (const at of [ring.layout.driver, ring.layout.device]) {
    new Uint16Array(ram.mapping.bytes(at, 4).slice().buffer)[1] = base;
    ram.mapping.bytes(at + 2, 2).set([base & 0xff, base >> 8]);
  }
  await h.describeRing(ring, base);
  expect(await h.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 })).toMatchObject({ num: base });
  await h.leave();
  ring.free();
});

describe('trap 8: ring states', () => {
  test('SET_VRING_KICK neither disables a ring nor loses requests', async () => {
    const h = new Harness();
    await h.negotiate(ram);
    const ring = await h.startRing(ram);
    ring.add(1);
    await until(() => h.device.served.length === 1, 'first');
    const kick = createEventFd();
    expect(await h.frontEnd.ack('SET_VRING_KICK', { value: 0n }, [kick])).toBe(true);
    expect(h.device.running.size).toBe(1);
    ring.driver.kickFd = kick.number;
    ring.add(2);
    await until(() => h.device.served.length === 2, 'second');
    await h.leave();
    kick.close();
  });

  test('without PROTOCOL_FEATURES rings start enabled', async () => {
    const h = new Harness(undefined, { features: F.VERSION_1 });
    h.frontEnd.send('SET_FEATURES', { value: F.VERSION_1 });
    h.frontEnd.send('SET_MEM_TABLE', { regions: [ram.region] }, [ram.fd]);
    const ring = await h.startRing(ram);
    ring.add(1);
    await until(() => h.device.served.length === 1, 'first');
    await h.leave();
  });

  test('with it they start disabled, in any order of messages', async () => {
    const h = new Harness();
    await h.negotiate();
    const ring = new TestRing(ram, 1, 8, h.ringFeatures);
    const { frontEnd } = h;
    frontEnd.send('SET_VRING_KICK', { value: 1n }, [ring.kick]);
    frontEnd.send('SET_VRING_ADDR', ring.address());
    frontEnd.send('SET_VRING_BASE', { index: 1, num: 0 });
    frontEnd.send('SET_VRING_NUM', { index: 1, num: 8 });
    frontEnd.send('SET_MEM_TABLE', { regions: [ram.region] }, [ram.fd]);
    ring.add(1);
    await frontEnd.sync();
    expect(h.device.running.size).toBe(0);
    frontEnd.send('SET_VRING_ENABLE', { index: 1, num: 1 });
    await until(() => h.device.served.length === 1, 'enabled');
    frontEnd.send('SET_VRING_ENABLE', { index: 1, num: 0 });
    await frontEnd.sync();
    expect(h.device.running.size).toBe(0);
    frontEnd.send('SET_VRING_ENABLE', { index: 1, num: 1 });
    await frontEnd.sync();
    frontEnd.send('RESET_OWNER', {});
    await frontEnd.sync();
    expect(h.device.running.size).toBe(0);
    await h.leave();
    ring.free();
  });
});

test('trap 9: EVENT_IDX takes effect at SET_FEATURES, on a running ring too', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = await h.startRing(ram);
  ring.add(1);
  await until(() => h.device.served.length === 1, 'first');
  const features = SPLIT | F.EVENT_IDX | 1n;
  expect(await h.frontEnd.ack('SET_FEATURES', { value: features })).toBe(true);
  const [queue] = h.device.running.keys();
  expect(queue!.features.eventIndex).toBe(true);
  expect(h.device.events).toContain(`setFeatures ${(F.VERSION_1 | F.EVENT_IDX | 1n).toString(16)}`);
  // The device armed its kick at the next request: availEvent is 1.
  const at = ring.layout.device + 4 + 8 * 8;
  expect(ram.mapping.bytes(at, 2)[0]).toBe(1);
  expect(await h.frontEnd.ack('SET_FEATURES', { value: SPLIT | F.RING_PACKED })).toBe(false);
  await h.leave();
});

test('trap 10: a kick from before the start is not lost', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = new TestRing(ram, 0, 8, h.ringFeatures);
  ring.add(1);
  signalEvent(ring.kick.number);
  await h.describeRing(ring, 0);
  await until(() => h.device.served.length === 1, 'served');
  expect(h.device.events.filter((event) => event === 'start 0 fd')).toHaveLength(1);
  await h.leave();
  ring.free();
});

test('trap 11: 509 memory slots, and not one more', async () => {
  const h = new Harness();
  await h.negotiate();
  const page = createMemfd('page', 4096);
  expect((await h.frontEnd.get('GET_MAX_MEM_SLOTS', {})).value).toBe(509n);
  const region = (i: number) => ({
    guestAddress: i * 8192,
    userAddress: 0x10000000 + i * 8192,
    size: 4096,
    mmapOffset: 0,
  });
  for (let i = 0; i < 509; i += 1) {
    expect(await h.frontEnd.ack('ADD_MEM_REG', region(i), [page])).toBe(true);
  }
  expect(await h.frontEnd.ack('ADD_MEM_REG', region(509), [page])).toBe(false);
  expect(mappingCounts().live - before.live).toBe(510);
  await h.leave();
  page.close();
});

test('trap 13: the packed layout is used only where it was negotiated', async () => {
  const device = new FakeDevice();
  device.features = F.VERSION_1;
  const h = new Harness(device);
  const { value } = await h.frontEnd.get('GET_FEATURES', {});
  expect(value & F.RING_PACKED).toBe(0n);
  expect(await h.frontEnd.get('GET_VRING_BASE', { index: 0, num: 0 })).toMatchObject({ num: 0 });
  h.frontEnd.send('SET_FEATURES', { value: F.VERSION_1 | F.RING_PACKED });
  expect((await h.ended)?.code).toBe('VLO_PROTOCOL');
  await h.leave();
});

test('a packed ring starts at base 0 as User-Mode Linux sends it, and at available bits alone', async () => {
  for (const base of [0, 0x8000]) {
    const h = new Harness(undefined, { features: PACKED });
    await h.negotiate(ram);
    const ring = new TestRing(ram, 0, 8, h.ringFeatures);
    ring.driver.reset();
    await h.describeRing(ring, base);
    ring.add(1);
    await until(() => h.device.served.length === 1, `base ${base}`);
    expect(ring.take()).toEqual([1]);
    await h.leave();
    ring.free();
  }
});

test('a ring that is described anew without a stop is drained first (User-Mode Linux)', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = await h.startRing(ram);
  ring.add(1);
  await until(() => h.device.served.length === 1, 'first');
  h.frontEnd.send('SET_VRING_ENABLE', { index: 0, num: 0 });
  await h.frontEnd.sync();
  ring.driver.reset();
  await h.describeRing(ring, 0);
  ring.add(2);
  await until(() => h.device.served.length === 2, 'second');
  expect(ring.take()).toEqual([2]);
  await h.leave();
});

test('a call descriptor may be changed while the ring runs, or left out', async () => {
  const h = new Harness();
  await h.negotiate(ram);
  const ring = await h.startRing(ram);
  const other = createEventFd();
  await h.frontEnd.ack('SET_VRING_CALL', { value: 0n }, [other]);
  ring.add(1);
  await until(() => h.device.served.length === 1, 'first');
  expect(waitReadable([ring.call.number, other.number], 100)).toBe(1);
  await h.frontEnd.ack('SET_VRING_CALL', { value: 0x100n });
  ring.add(2);
  await until(() => h.device.served.length === 2, 'second');
  await h.leave();
  other.close();
});
