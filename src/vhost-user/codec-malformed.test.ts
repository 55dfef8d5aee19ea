/** Payloads that a peer must not send: each is refused with what is wrong. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { decodeReply, decodeRequest, encodeRequest, fdRange } from './codec.js';
import { MESSAGES, type MessageName, type MessageSpec } from './messages.js';
import { HEADER_BYTES } from './messages-constants.js';
import { sizeFits } from './messages-layout.js';
import { layoutSamples, replySamples, wireFields } from './messages-samples.js';

const specs = Object.values(MESSAGES) as MessageSpec[];
const nameOf = (spec: MessageSpec): MessageName => spec.name as MessageName;

const region = {
  guestAddress: 0x100000000,
  size: 0x40000000,
  userAddress: 0x7f1234560000,
  mmapOffset: 0x80000000,
};

/** Runs `action`, which has to fail with VLO_PROTOCOL; returns the message. */
function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(VloError);
    expect((error as VloError).code).toBe('VLO_PROTOCOL');
    return (error as Error).message;
  }
  throw new VloError('VLO_PROTOCOL', 'the action was expected to fail');
}

test.each(specs)('$name of a wrong size is refused', (spec) => {
  const name = nameOf(spec);
  for (const { payload, fdCount } of layoutSamples(spec)) {
    for (const size of [payload.length - 1, payload.length + 1]) {
      if (size < 0 || sizeFits(spec.request, size)) continue;
      const bytes = new Uint8Array(size);
      bytes.set(payload.subarray(0, size));
      const message = refusal(() => decodeRequest(name, bytes, fdCount));
      expect(message.startsWith(`${name}: size is ${size}; expected`), message).toBe(true);
    }
  }
});

test.each(specs)('$name with fds too many or too few is refused', (spec) => {
  const name = nameOf(spec);
  for (const { payload, fdCount } of layoutSamples(spec)) {
    expect(() => decodeRequest(name, payload, fdCount)).not.toThrow();
    const value = decodeRequest(name, payload, fdCount) as Record<string, unknown>;
    const [min, max] = fdRange(spec.requestFds, value);
    for (const count of [min - 1, max + 1, 253]) {
      if (count < 0) continue;
      const message = refusal(() => decodeRequest(name, payload, count));
      expect(message).toContain(`${name}: ${count} file descriptors came along; expected`);
    }
  }
});

test.each(specs)('every integer of $name mutated is decoded or refused', (spec) => {
  const name = nameOf(spec);
  for (const { payload, fdCount } of [...layoutSamples(spec)]) {
    for (const field of wireFields(spec.request, payload.length).slice(0, 64)) {
      for (const byte of [0x00, 0x01, 0x7f, 0x80, 0xff]) {
        const bytes = payload.slice();
        bytes.fill(byte, field.offset, field.offset + field.size);
        try {
          decodeRequest(name, bytes, fdCount);
        } catch (error) {
          expect(refusal(() => decodeRequest(name, bytes, fdCount))).toContain(name);
          expect(error).toBeInstanceOf(VloError);
        }
      }
    }
  }
});

test.each(specs)('random replies to $name are decoded or refused', (spec) => {
  const name = nameOf(spec);
  for (const { payload, fdCount } of replySamples(spec)) {
    expect(() => decodeReply(name, payload, fdCount)).not.toThrow();
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(3), (bytes, fdCount) => {
      try {
        decodeReply(name, bytes, fdCount);
      } catch (error) {
        expect((error as VloError).code).toBe('VLO_PROTOCOL');
      }
    }),
    { numRuns: 50 },
  );
});

test('counts of regions are bounded by the limit and by the payload', () => {
  const table = (count: number, room: number): Uint8Array => {
    const bytes = new Uint8Array(8 + room * 32);
    new DataView(bytes.buffer).setUint32(0, count, true);
    return bytes;
  };
  const decode = (count: number, room: number, fds = count) =>
    decodeRequest('SET_MEM_TABLE', table(count, room), fds).regions.length;
  expect(refusal(() => decode(9, 8))).toBe(
    'SET_MEM_TABLE: regions counts 9; at most 8 are allowed',
  );
  expect(refusal(() => decode(0xffffffff, 1))).toContain('at most 8');
  expect(refusal(() => decode(2, 1))).toBe('SET_MEM_TABLE: regions counts 2; the payload holds 1');
  expect(refusal(() => decode(9, 9))).toContain('size is 296');
  // User-Mode Linux always sends room for two regions.
  expect(decode(1, 2)).toBe(1);
  expect(refusal(() => decode(1, 2, 2))).toContain('2 file descriptors came along; expected 1');
});

test('config is no longer than its payload', () => {
  const config = (size: number, room: number): Uint8Array => {
    const bytes = new Uint8Array(12 + room);
    new DataView(bytes.buffer).setUint32(4, size, true);
    return bytes;
  };
  const decode = (size: number, room: number) => decodeRequest('SET_CONFIG', config(size, room), 0);
  expect(decode(4096, 4096).bytes).toHaveLength(4096);
  expect(decode(8, 256)).toMatchObject({ size: 8, bytes: new Uint8Array(256) });
  expect(refusal(() => decode(9, 8))).toBe('SET_CONFIG: size is 9; bytes holds 8 bytes');
  expect(refusal(() => decode(0, 4097))).toContain('expected 12 to 4108 bytes');
});

test('addresses from 2^53 on are refused with their field', () => {
  const bytes = encodeRequest('ADD_MEM_REG', region).subarray(HEADER_BYTES);
  bytes.fill(0xff, 24, 32);
  expect(refusal(() => decodeRequest('ADD_MEM_REG', bytes, 1))).toBe(
    'ADD_MEM_REG: userAddress is 0xffffffffffffffff; below 2^53 is supported',
  );
  const table = encodeRequest('SET_MEM_TABLE', { regions: [region, region] });
  table.fill(0xff, HEADER_BYTES + 48, HEADER_BYTES + 56);
  expect(refusal(() => decodeRequest('SET_MEM_TABLE', table.subarray(HEADER_BYTES), 2))).toMatch(
    /^SET_MEM_TABLE: regions\[1\]\.size is 0x/,
  );
});

test('padding is not looked at', () => {
  const bytes = encodeRequest('ADD_MEM_REG', region).subarray(HEADER_BYTES);
  bytes.fill(0xff, 0, 8);
  expect(decodeRequest('ADD_MEM_REG', bytes, 1)).toEqual(region);
});
