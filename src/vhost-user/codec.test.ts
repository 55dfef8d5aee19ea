import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import {
  answerTo,
  checkReplyHeader,
  decodeHeader,
  decodePackedBase,
  decodeReply,
  decodeRequest,
  decodeVringFd,
  encodeAck,
  encodeFailure,
  encodePackedBase,
  encodeReply,
  encodeRequest,
  encodeVringFd,
  fdRange,
  isGateOpen,
  readHeader,
} from './codec.js';
import { MESSAGES, type MessageName, type MessageSpec } from './messages.js';
import {
  HEADER_BYTES,
  HEADER_FLAGS,
  PAYLOAD_BYTES_MAX,
  PROTOCOL_FEATURE,
  VIRTIO_FEATURE,
} from './messages-constants.js';
import type { FieldTable, FieldType } from './messages-layout.js';
import { layoutSamples } from './messages-samples.js';

const specs = Object.values(MESSAGES) as MessageSpec[];
const nameOf = (spec: MessageSpec): MessageName => spec.name as MessageName;

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const unhex = (text: string): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Buffer.from(text.replace(/\s/g, ''), 'hex'));

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

function arbitraryField(type: FieldType): fc.Arbitrary<unknown> {
  if (type === 'u8') return fc.nat(0xff);
  if (type === 'u16') return fc.nat(0xffff);
  if (type === 'u32') return fc.integer({ min: 0, max: 0xffffffff });
  if (type === 'u64') return fc.maxSafeNat();
  if (type === 'word') return fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  if ('bytes' in type) return fc.uint8Array({ minLength: type.bytes, maxLength: type.bytes });
  if ('numbers' in type) {
    return fc.array(fc.maxSafeNat(), { minLength: type.numbers, maxLength: type.numbers });
  }
  if ('list' in type) return fc.array(arbitraryValue(type.list), { maxLength: type.max });
  if ('sized' in type) return fc.uint8Array({ maxLength: 600 });
  if ('raw' in type) return fc.uint8Array({ maxLength: 600 });
  return fc.constant(undefined);
}

/** Any legal value of a layout. */
function arbitraryValue(table: FieldTable): fc.Arbitrary<Record<string, unknown>> {
  const fields = Object.entries(table).filter(([, type]) => !isPad(type));
  const record = fc.record(
    Object.fromEntries(fields.map(([name, type]) => [name, arbitraryField(type)])),
  );
  const sized = fields.find(([, type]) => typeof type !== 'string' && 'sized' in type);
  if (sized === undefined) return record;
  const [name, type] = sized as [string, { sized: string }];
  return fc.tuple(record, fc.nat(600)).map(([value, used]) => {
    const room = (value[name] as Uint8Array).length;
    return { ...value, [type.sized]: Math.min(used, room) };
  });
}

function isPad(type: FieldType): boolean {
  return typeof type !== 'string' && 'pad' in type;
}

describe('round trip', () => {
  test.each(specs)('$name', (spec) => {
    const name = nameOf(spec);
    fc.assert(
      fc.property(arbitraryValue(spec.request.fields), (value) => {
        const bytes = encodeRequest(name, value as never);
        const header = decodeHeader(bytes, 'request', spec.sender);
        expect(header).toEqual({ request: spec.id, flags: 1, size: bytes.length - HEADER_BYTES });
        const [fdCount] = fdRange(spec.requestFds, value);
        expect(decodeRequest(name, bytes.subarray(HEADER_BYTES), fdCount)).toEqual(value);
      }),
      { numRuns: 50 },
    );
  });

  test.each(specs)('reply to $name', (spec) => {
    const name = nameOf(spec);
    fc.assert(
      fc.property(arbitraryValue(spec.reply.fields), (value) => {
        const bytes = encodeReply(name, value as never);
        checkReplyHeader(name, decodeHeader(bytes, 'reply', spec.sender));
        const [fdCount] = fdRange(spec.replyFds, value);
        expect(decodeReply(name, bytes.subarray(HEADER_BYTES), fdCount)).toEqual(value);
      }),
      { numRuns: 50 },
    );
  });
});

const region = {
  guestAddress: 0x100000000,
  size: 0x40000000,
  userAddress: 0x7f1234560000,
  mmapOffset: 0x80000000,
};
const REGION_HEX = '0000000001000000 0000004000000000 00005634127f0000 0000008000000000';

/** Written by hand from the specification's payloads: [message, header and payload]. */
const GOLDEN: [string, Uint8Array, string][] = [
  ['GET_FEATURES', encodeRequest('GET_FEATURES', {}), '01000000 01000000 00000000'],
  [
    'GET_FEATURES reply',
    encodeReply('GET_FEATURES', { value: 0x8000000140000201n }),
    '01000000 05000000 08000000 0102004001000080',
  ],
  [
    'SET_FEATURES',
    encodeRequest('SET_FEATURES', { value: 0x144000000n }, HEADER_FLAGS.NEED_REPLY),
    '02000000 09000000 08000000 0000004401000000',
  ],
  ['acknowledgement', encodeAck(2, 0), '02000000 05000000 08000000 0000000000000000'],
  [
    'SET_MEM_TABLE',
    encodeRequest('SET_MEM_TABLE', { regions: [region, { ...region, mmapOffset: 0 }] }),
    `05000000 01000000 48000000 02000000 00000000 ${REGION_HEX}
     0000000001000000 0000004000000000 00005634127f0000 0000000000000000`,
  ],
  [
    'SET_LOG_BASE',
    encodeRequest('SET_LOG_BASE', { size: 0x8000, offset: 0x1000 }),
    '06000000 01000000 10000000 0080000000000000 0010000000000000',
  ],
  [
    'SET_VRING_NUM',
    encodeRequest('SET_VRING_NUM', { index: 1, num: 256 }),
    '08000000 01000000 08000000 01000000 00010000',
  ],
  [
    'SET_VRING_ADDR',
    encodeRequest('SET_VRING_ADDR', {
      index: 3,
      flags: 1,
      descriptor: 0x1000,
      used: 0x3000,
      available: 0x2000,
      log: 0xffffffffffffffffn,
    }),
    `09000000 01000000 28000000 03000000 01000000
     0010000000000000 0030000000000000 0020000000000000 ffffffffffffffff`,
  ],
  [
    'GET_VRING_BASE reply',
    encodeReply('GET_VRING_BASE', { index: 0, num: 0x80058003 }),
    '0b000000 05000000 08000000 00000000 03800580',
  ],
  [
    'SET_VRING_CALL without a descriptor',
    encodeRequest('SET_VRING_CALL', encodeVringFd({ index: 2, hasFd: false })),
    '0d000000 01000000 08000000 0201000000000000',
  ],
  [
    'GET_CONFIG',
    encodeRequest('GET_CONFIG', { offset: 8, size: 4, flags: 0, bytes: new Uint8Array(4) }),
    '18000000 01000000 10000000 08000000 04000000 00000000 00000000',
  ],
  [
    'GET_INFLIGHT_FD reply',
    encodeReply('GET_INFLIGHT_FD', {
      mmapSize: 0x2000,
      mmapOffset: 0,
      queueCount: 4,
      queueSize: 128,
    }),
    '1f000000 05000000 18000000 0020000000000000 0000000000000000 0400 8000 00000000',
  ],
  [
    'ADD_MEM_REG',
    encodeRequest('ADD_MEM_REG', region),
    `25000000 01000000 28000000 0000000000000000 ${REGION_HEX}`,
  ],
  [
    'SET_STATUS',
    encodeRequest('SET_STATUS', { value: 15n }),
    '27000000 01000000 08000000 0f00000000000000',
  ],
  [
    'BACKEND_CONFIG_CHANGE_MSG',
    encodeRequest('BACKEND_CONFIG_CHANGE_MSG', {}, HEADER_FLAGS.NEED_REPLY),
    '02000000 09000000 00000000',
  ],
  [
    'BACKEND_SHMEM_MAP',
    encodeRequest('BACKEND_SHMEM_MAP', {
      shmid: 1,
      fdOffset: 0x1000,
      shmOffset: 0x2000,
      length: 0x3000,
      flags: 1n,
    }),
    `09000000 01000000 28000000 0100000000000000
     0010000000000000 0020000000000000 0030000000000000 0100000000000000`,
  ],
];

test.each(GOLDEN)('golden bytes of %s', (_name, bytes, expected) => {
  expect(hex(bytes)).toBe(expected.replace(/\s/g, ''));
});

describe('headers', () => {
  const header = (request: number, flags: number, size: number): Uint8Array => {
    const bytes = new Uint8Array(HEADER_BYTES);
    new DataView(bytes.buffer).setUint32(0, request, true);
    new DataView(bytes.buffer).setUint32(4, flags, true);
    new DataView(bytes.buffer).setUint32(8, size, true);
    return bytes;
  };

  test.each([
    [0, 'SET_FEATURES: version is 0; expected 1'],
    [2, 'SET_FEATURES: version is 2; expected 1'],
    [3, 'SET_FEATURES: version is 3; expected 1'],
    [0x11, 'SET_FEATURES: flags are 0x11; 0x10 is unknown'],
    [0x80000001, 'SET_FEATURES: flags are 0x80000001; 0x80000000 is unknown'],
    [5, 'SET_FEATURES: flags are 0x5: a reply, no request'],
  ])('flags 0x%x of a request are refused', (flags, message) => {
    expect(refusal(() => decodeHeader(header(2, flags, 8), 'request', 'frontEnd'))).toBe(message);
  });

  test('a payload beyond the limit is refused before it is read', () => {
    const size = PAYLOAD_BYTES_MAX + 1;
    const message = refusal(() => decodeHeader(header(24, 1, size), 'request', 'frontEnd'));
    expect(message).toBe('GET_CONFIG: size is 8193; at most 8192 bytes');
    expect(decodeHeader(header(24, 1, size - 1), 'request', 'frontEnd').size).toBe(size - 1);
  });

  test('an unknown id is for the session to answer', () => {
    expect(decodeHeader(header(77, 9, 0), 'request', 'frontEnd').request).toBe(77);
    expect(refusal(() => decodeHeader(header(77, 0, 0), 'request', 'backEnd'))).toMatch(
      /^BACKEND_message 77: version/,
    );
  });

  test('a reply has to be one, and to the message that was sent', () => {
    const check = (bytes: Uint8Array): void => checkReplyHeader('GET_FEATURES', readHeader(bytes));
    check(header(1, 5, 8));
    check(header(1, 13, 8)); // Some back ends leave NEED_REPLY set.
    expect(refusal(() => check(header(1, 1, 8)))).toContain('a request, no reply');
    expect(refusal(() => check(header(15, 5, 8)))).toBe(
      'GET_FEATURES reply: it answers GET_PROTOCOL_FEATURES',
    );
  });
});

describe('shorter forms', () => {
  test('the in-flight description without its padding', () => {
    const bytes = unhex('0020000000000000 0000000000000000 0400 8000');
    const expected = { mmapSize: 0x2000, mmapOffset: 0, queueCount: 4, queueSize: 128 };
    expect(decodeRequest('SET_INFLIGHT_FD', bytes, 1)).toEqual(expected);
  });

  test('SET_LOG_BASE of a front end without LOG_SHMFD', () => {
    const value = decodeRequest('SET_LOG_BASE', unhex('0010000000000000'), 0);
    expect(value).toEqual({ size: 0x1000, offset: 0 });
  });

  test('replies of a header alone read as zeros where they are legal', () => {
    const none = new Uint8Array(0);
    expect(decodeReply('SET_LOG_BASE', none, 0)).toEqual({ value: 0n });
    expect(decodeReply('GET_CONFIG', none, 0)).toEqual({
      offset: 0,
      size: 0,
      flags: 0,
      bytes: none,
    });
    expect(refusal(() => decodeReply('GET_FEATURES', none, 0))).toBe(
      'GET_FEATURES reply: size is 0; expected 8 bytes',
    );
  });
});

describe('answers', () => {
  const header = (flags: number) => ({ request: 0, flags, size: 0 });
  const { NEED_REPLY, VERSION } = HEADER_FLAGS;
  const asked = header(VERSION | NEED_REPLY);
  const silent = header(VERSION);

  test('an acknowledgement wants both REPLY_ACK and NEED_REPLY', () => {
    const spec = MESSAGES.SET_FEATURES;
    expect(answerTo(spec, asked, PROTOCOL_FEATURE.REPLY_ACK)).toBe('ack');
    expect(answerTo(spec, silent, PROTOCOL_FEATURE.REPLY_ACK)).toBe('none');
    expect(answerTo(spec, asked, 0n)).toBe('none');
  });

  test('a reply of its own is sent whatever the flags are', () => {
    for (const request of [asked, silent]) {
      expect(answerTo(MESSAGES.GET_CONFIG, request, 0n)).toBe('reply');
      expect(answerTo(MESSAGES.SET_LOG_BASE, request, PROTOCOL_FEATURE.LOG_SHMFD)).toBe('reply');
    }
    expect(answerTo(MESSAGES.SET_LOG_BASE, silent, 0n)).toBe('none');
    expect(answerTo(MESSAGES.SET_LOG_BASE, asked, PROTOCOL_FEATURE.REPLY_ACK)).toBe('ack');
  });

  test.each(specs)('a failure of $name is a legal reply without descriptors, or none', (spec) => {
    for (const { payload } of layoutSamples(spec)) {
      const bytes = encodeFailure(spec, payload);
      expect(bytes === null).toBe(spec.failure === 'close');
      if (bytes === null) continue;
      checkReplyHeader(nameOf(spec), decodeHeader(bytes, 'reply', spec.sender));
      decodeReply(nameOf(spec), bytes.subarray(HEADER_BYTES), 0);
    }
  });

  test('failures have the form of their message', () => {
    const failure = (name: MessageName, payload = new Uint8Array(0)): string =>
      hex(encodeFailure(MESSAGES[name], payload)!);
    expect(failure('SET_FEATURES')).toBe(`02000000050000000800000001${'00'.repeat(7)}`);
    expect(failure('SET_DEVICE_STATE_FD')).toBe(`2a00000005000000080000000101${'00'.repeat(6)}`);
    expect(failure('GET_CONFIG', new Uint8Array(20))).toBe('180000000500000000000000');
    expect(failure('CREATE_CRYPTO_SESSION', unhex('aabb0011223344556677'))).toBe(
      `1a000000050000000a000000aabb${'ff'.repeat(8)}`,
    );
  });

  test('gates tell offered from negotiated features', () => {
    const none = { offered: 0n, features: 0n, offeredProtocol: 0n, protocol: 0n };
    const bit30 = VIRTIO_FEATURE.PROTOCOL_FEATURES;
    expect(isGateOpen(MESSAGES.SET_OWNER, none)).toBe(true);
    expect(isGateOpen(MESSAGES.GET_PROTOCOL_FEATURES, none)).toBe(false);
    expect(isGateOpen(MESSAGES.GET_PROTOCOL_FEATURES, { ...none, offered: bit30 })).toBe(true);
    expect(isGateOpen(MESSAGES.SET_VRING_ENABLE, { ...none, offered: bit30 })).toBe(false);
    expect(isGateOpen(MESSAGES.SET_VRING_ENABLE, { ...none, features: bit30 })).toBe(true);
    const config = PROTOCOL_FEATURE.CONFIG;
    expect(isGateOpen(MESSAGES.GET_CONFIG, { ...none, offeredProtocol: config })).toBe(false);
    expect(isGateOpen(MESSAGES.GET_CONFIG, { ...none, protocol: config })).toBe(true);
  });
});

test('payloads are type-checked against their layouts', () => {
  // @ts-expect-error: `num` is missing.
  expect(() => encodeRequest('SET_VRING_NUM', { index: 0 })).toThrow('virtio-loopback bug');
  // @ts-expect-error: a feature word is a bigint.
  expect(() => encodeRequest('SET_FEATURES', { value: 1 })).toThrow('virtio-loopback bug');
  const wide = { index: 0x100000000, num: 0 };
  expect(() => encodeRequest('SET_VRING_NUM', wide)).toThrow('virtio-loopback bug: index');
});

describe('words', () => {
  test('a ring and its descriptor', () => {
    expect(decodeVringFd({ value: 0x1ffn })).toEqual({ index: 255, hasFd: false });
    expect(decodeVringFd(encodeVringFd({ index: 7, hasFd: true }))).toEqual({
      index: 7,
      hasFd: true,
    });
  });

  test('the position of a packed ring', () => {
    const base = { availIndex: 3, availWrap: true, usedIndex: 5, usedWrap: true };
    expect(encodePackedBase(base)).toBe(0x80058003);
    expect(decodePackedBase(0x80008000)).toEqual({
      availIndex: 0,
      availWrap: true,
      usedIndex: 0,
      usedWrap: true,
    });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (num) => {
        expect(encodePackedBase(decodePackedBase(num))).toBe(num);
      }),
    );
  });
});
