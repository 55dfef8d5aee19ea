import { describe, expect, test } from 'vitest';
import {
  BACK_END_MESSAGES,
  backEndMessage,
  FRONT_END_MESSAGES,
  frontEndMessage,
  MESSAGES,
  type MessageSpec,
} from './messages.js';
import { PROTOCOL_FEATURE, PROTOCOL_FEATURE_BIT, VIRTIO_FEATURE } from './messages-constants.js';
import { LAYOUTS } from './messages-payloads.js';

const specs: readonly MessageSpec[] = Object.values(MESSAGES);

describe('table of messages', () => {
  test('has 44 messages of the front end and 10 of the back end, without gaps', () => {
    const ids = (rows: object): number[] =>
      Object.values(rows as Record<string, MessageSpec>).map(({ id }) => id);
    expect(ids(FRONT_END_MESSAGES)).toEqual(Array.from({ length: 44 }, (_, i) => i + 1));
    expect(ids(BACK_END_MESSAGES)).toEqual(Array.from({ length: 10 }, (_, i) => i + 1));
    expect(specs).toHaveLength(54);
  });

  test('is found by id in each direction', () => {
    for (const spec of Object.values(FRONT_END_MESSAGES))
      expect(frontEndMessage(spec.id)).toBe(spec);
    for (const spec of Object.values(BACK_END_MESSAGES)) expect(backEndMessage(spec.id)).toBe(spec);
    for (const id of [0, 45, 0xffffffff]) expect(frontEndMessage(id)).toBeUndefined();
    for (const id of [0, 11, 0xffffffff]) expect(backEndMessage(id)).toBeUndefined();
  });

  test('names what is implemented at both ends', () => {
    const implemented = (sender: string): number[] =>
      specs.filter((spec) => spec.sender === sender && spec.implemented).map(({ id }) => id);
    const upTo18 = Array.from({ length: 18 }, (_, index) => index + 1);
    const others = [21, 24, 25, 31, 32, 34, 35, 36, 37, 38, 39, 40];
    expect(implemented('frontEnd')).toEqual([...upTo18, ...others]);
    expect(implemented('backEnd')).toEqual([2, 4, 5]);
  });

  // Sizes of the C structures that QEMU and Linux define.
  test.each([
    ['u64', 8],
    ['vring state', 8],
    ['vring address', 40],
    ['memory region', 40],
    ['log', 16],
    ['iotlb', 32],
    ['vring area', 24],
    ['inflight', 24],
    ['uuid', 16],
    ['device state', 8],
    ['mmap', 40],
    ['shared memory', 2056],
  ] as const)('%s has %i bytes', (name, size) => {
    expect(LAYOUTS[name]).toMatchObject({ sizeMin: size, sizeMax: size });
  });

  test('variable payloads have their bounds', () => {
    expect(LAYOUTS['memory table']).toMatchObject({ sizeMin: 8, sizeMax: 264, sizeStep: 32 });
    expect(LAYOUTS.config).toMatchObject({ sizeMin: 12, sizeMax: 4108 });
  });

  test('feature bits are those of the specification', () => {
    expect(Object.values(PROTOCOL_FEATURE_BIT)).toEqual(Array.from({ length: 23 }, (_, i) => i));
    expect(PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS).toBe(1n << 15n);
    expect(PROTOCOL_FEATURE).toMatchObject({ GPA_ADDRESSES: 1n << 21n, SHMEM: 1n << 22n });
    expect(VIRTIO_FEATURE.PROTOCOL_FEATURES).toBe(1n << 30n);
    expect(VIRTIO_FEATURE.LOG_ALL).toBe(1n << 26n);
  });

  test('every row says what it is for', () => {
    for (const { name, doc, failure, answer } of specs) {
      expect(doc, name).toMatch(/^[A-Z].*\.$/);
      if (answer === 'ack') expect(failure, name).toBe('nonZero');
    }
  });
});
