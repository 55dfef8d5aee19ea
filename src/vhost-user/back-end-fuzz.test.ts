import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  createEventFd,
  createMemfd,
  mappingCounts,
  openFdCount,
  sendMessage,
  socketPair,
} from '../native/index.js';
import { F, ringFeatures } from '../virtio/index.js';
import { BackEndSession } from './back-end.js';
import { encodeRequest } from './codec.js';
import { FRONT_END_MESSAGES, type MessageSpec } from './messages.js';
import { PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';
import { layoutSamples } from './messages-samples.js';
import { FakeDevice, GuestRam, PROTOCOL_DEFAULT, TestRing } from './test-utils.js';

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

function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % below;
  };
}

const SPECS: readonly MessageSpec[] = Object.values(FRONT_END_MESSAGES);
const INTERESTING = [0, 1, 2, 3, 8, 16, 255, 256, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff];

test.each([1, 2, 3, 4])(
  'hostile messages in any order end a session at worst, seed %i',
  async (seed) => {
    const random = numbers(seed);
    const ram = new GuestRam();
    const features = F.VERSION_1 | VIRTIO_FEATURE.PROTOCOL_FEATURES;
    const rings = [0, 1].map((index) => new TestRing(ram, index, 8, ringFeatures(features)));
    const made = [createMemfd('small', 4096), createEventFd(), ...socketPair()];
    const things = [ram.fd, rings[0]!.kick, ...made];
    const start: [Uint8Array, number[]][] = [
      [
        encodeRequest('SET_PROTOCOL_FEATURES', {
          value: PROTOCOL_DEFAULT | PROTOCOL_FEATURE.INBAND_NOTIFICATIONS,
        }),
        [],
      ],
      [encodeRequest('SET_FEATURES', { value: features }), []],
      [encodeRequest('SET_MEM_TABLE', { regions: [ram.region] }), [ram.fd.number]],
      [encodeRequest('SET_VRING_NUM', { index: 0, num: 8 }), []],
      [encodeRequest('SET_VRING_ADDR', rings[0]!.address()), []],
      [encodeRequest('SET_VRING_KICK', { value: 0n }), [rings[0]!.kick.number]],
      [encodeRequest('SET_VRING_ENABLE', { index: 0, num: 1 }), []],
    ];
    for (let round = 0; round < 150; round += 1) {
      const [ours, theirs] = socketPair();
      const device = new FakeDevice();
      let ended = false;
      const onClose = () => {
        ended = true;
      };
      new BackEndSession(theirs, device, { onClose }, { inBandNotifications: true });
      const send = (bytes: Uint8Array, fds: number[]) => {
        try {
          sendMessage(ours.number, bytes, fds);
        } catch {
          // The back end has closed the connection.
        }
      };
      for (const [bytes, fds] of start.slice(0, random(start.length + 1))) send(bytes, fds);
      for (let i = 0; i < 30 && !ended; i += 1) {
        const spec = SPECS[random(SPECS.length)]!;
        const samples = layoutSamples(spec);
        const { payload, fdCount } = samples[random(samples.length)]!;
        const body =
          random(12) === 0 ? payload.subarray(0, random(payload.length + 1)) : payload.slice();
        for (let changes = random(3); changes > 0 && body.length >= 4; changes -= 1) {
          const at = random(body.length >> 2) * 4;
          const value =
            random(3) === 0 ? random(2 ** 24) : INTERESTING[random(INTERESTING.length)]!;
          new DataView(body.buffer, body.byteOffset).setUint32(at, value, true);
        }
        const bytes = new Uint8Array(12 + body.length);
        // Mostly with NEED_REPLY, so that a refusal does not end the session.
        new Uint32Array(bytes.buffer, 0, 3).set([spec.id, random(8) === 0 ? 1 : 9, body.length]);
        bytes.set(body, 12);
        const count = random(15) === 0 ? random(9) : fdCount;
        send(
          bytes,
          Array.from({ length: count }, () => things[random(things.length)]!.number),
        );
        if (random(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      ours.close();
      for (let i = 0; i < 500 && !ended; i += 1) await turn();
      expect(ended, `round ${round}`).toBe(true);
      expect(device.running.size).toBe(0);
    }
    for (const ring of rings) ring.free();
    for (const thing of made) thing.close();
    ram.free();
  },
  60_000,
);
