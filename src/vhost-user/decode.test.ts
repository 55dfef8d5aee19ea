import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeAck, encodeReply, encodeRequest } from './codec.js';
import { describe, traceMessage } from './decode.js';
import { MESSAGES, type MessageSpec } from './messages.js';
import { HEADER_FLAGS, PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';
import { layoutSamples } from './messages-samples.js';

test('shows addresses in hexadecimal and numbers in decimal', () => {
  const bytes = encodeRequest('SET_VRING_ADDR', {
    index: 2,
    flags: 1,
    descriptor: 0x7f0000001000,
    used: 0x7f0000003000,
    available: 0x7f0000002000,
    log: 0x3000n,
  });
  expect(describe('frontEnd', bytes, 0)).toBe(
    'SET_VRING_ADDR index=2 flags=1 descriptor=0x7f0000001000 used=0x7f0000003000 ' +
      'available=0x7f0000002000 log=0x3000',
  );
});

test('names features', () => {
  const value = VIRTIO_FEATURE.PROTOCOL_FEATURES | VIRTIO_FEATURE.LOG_ALL | (1n << 32n) | 4n;
  const bytes = encodeRequest('SET_FEATURES', { value }, HEADER_FLAGS.NEED_REPLY);
  expect(describe('frontEnd', bytes, 0)).toBe(
    'SET_FEATURES value=0x144000004 (bit2 LOG_ALL PROTOCOL_FEATURES VERSION_1) need_reply',
  );
  const protocol = PROTOCOL_FEATURE.MQ | PROTOCOL_FEATURE.REPLY_ACK | (1n << 40n);
  const reply = encodeReply('GET_PROTOCOL_FEATURES', { value: protocol });
  expect(describe('backEnd', reply, 0)).toBe(
    'GET_PROTOCOL_FEATURES reply value=0x10000000009 (MQ REPLY_ACK bit40)',
  );
});

test('tells rings, status, success and failure', () => {
  const kick = encodeRequest('SET_VRING_KICK', { value: 0x101n });
  expect(describe('frontEnd', kick, 0)).toBe('SET_VRING_KICK value=0x101 (ring 1 no fd)');
  const status = encodeRequest('SET_STATUS', { value: 7n });
  expect(describe('frontEnd', status, 0)).toContain('(ACKNOWLEDGE DRIVER DRIVER_OK)');
  expect(describe('frontEnd', encodeRequest('SET_STATUS', { value: 0n }), 0)).toContain('(reset)');
  expect(describe('backEnd', encodeAck(2, 0), 0)).toBe('SET_FEATURES reply value=0x0 (success)');
  expect(describe('backEnd', encodeAck(2, 1), 0)).toContain('(failure)');
});

test('knows that a reply of the front end answers the back end', () => {
  expect(describe('frontEnd', encodeAck(2, 0), 0)).toMatch(/^BACKEND_CONFIG_CHANGE_MSG reply/);
  const call = encodeRequest('BACKEND_VRING_CALL', { index: 3, num: 0 });
  expect(describe('backEnd', call, 0)).toBe('BACKEND_VRING_CALL index=3 num=0');
});

test('shows regions, and shortens what is long', () => {
  const region = { guestAddress: 0, size: 0x1000, userAddress: 0x4000, mmapOffset: 0 };
  const table = encodeRequest('SET_MEM_TABLE', { regions: [region] });
  expect(describe('frontEnd', table, 1)).toBe(
    'SET_MEM_TABLE regions=[{guestAddress=0x0 size=0x1000 userAddress=0x4000 mmapOffset=0x0}] fds=1',
  );
  const bytes = new Uint8Array(100);
  const config = encodeRequest('SET_CONFIG', { offset: 0, size: 100, flags: 0, bytes });
  expect(describe('frontEnd', config, 0)).toBe(
    `SET_CONFIG offset=0 size=100 flags=0 bytes=${'00'.repeat(32)}… (100 bytes)`,
  );
});

test('says what is wrong with garbage', () => {
  expect(describe('frontEnd', new Uint8Array(5), 0)).toBe('message ! 5 bytes; a header has 12');
  const unknown = encodeAck(99, 0);
  expect(describe('backEnd', unknown, 0)).toContain('this message is unknown');
  const kick = encodeRequest('SET_VRING_KICK', { value: 1n });
  expect(describe('frontEnd', kick, 0)).toContain('0 file descriptors came along; expected 1');
  expect(describe('frontEnd', kick.subarray(0, 16), 1)).toContain('size is 8; 4 bytes follow');
});

test('never throws, and traces survive JSON', () => {
  const sender = fc.constantFrom('frontEnd' as const, 'backEnd' as const);
  const valid = fc.constantFrom(...(Object.values(MESSAGES) as MessageSpec[])).map((spec) => {
    const bytes = new Uint8Array(64);
    new DataView(bytes.buffer).setUint32(0, spec.id, true);
    bytes[4] = 1;
    bytes[8] = 52;
    return bytes;
  });
  const bytes = fc.oneof(fc.uint8Array({ maxLength: 64 }), valid);
  fc.assert(
    fc.property(sender, bytes, fc.nat(10), (from, message, fds) => {
      expect(describe(from, message, fds)).not.toBe('');
      JSON.stringify(traceMessage(from, message, fds));
    }),
    { numRuns: 2000 },
  );
});

test.each(Object.values(MESSAGES) as MessageSpec[])('$name has a line', (spec) => {
  for (const { payload, fdCount } of layoutSamples(spec)) {
    const header = new Uint8Array(12);
    new DataView(header.buffer).setUint32(0, spec.id, true);
    header[4] = HEADER_FLAGS.VERSION;
    new DataView(header.buffer).setUint32(8, payload.length, true);
    const line = describe(spec.sender, new Uint8Array([...header, ...payload]), fdCount);
    expect(line).toMatch(new RegExp(`^${spec.name}\\b`));
    expect(line).not.toContain('!');
  }
});
