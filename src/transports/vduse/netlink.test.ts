/** Messages of generic netlink, byte by byte, and with the kernel of this machine. */
import { expect, test } from 'vitest';
import { NativeBuffer, openGenericNetlink, readInto, writeFrom } from '../../native/index.js';
import { CONTROL_FAMILY, decodeAnswer, encodeFamilyRequest } from './netlink.js';
import { encodeVdpaRequest } from './vdpa.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('a family is asked for by its name', () => {
  expect(hex(encodeFamilyRequest('vdpa'))).toBe(
    // nlmsghdr: length, type nlctrl, REQUEST|ACK, sequence, port
    `${'20000000'}${'1000'}${'0500'}${'01000000'}${'00000000'}` +
      // genlmsghdr: GETFAMILY, version; attribute FAMILY_NAME of 9 bytes, padded to 12
      `${'03020000'}${'09000200'}${'7664706100'}${'000000'}`,
  );
});

test('a device is added by name and management device, and deleted by name', () => {
  expect(hex(encodeVdpaRequest(0x22, 'add', 'disk0'))).toBe(
    `${'2c000000'}${'2200'}${'0500'}${'01000000'}${'00000000'}${'03010000'}` +
      `${'0a000200'}${'766475736500'}${'0000'}${'0a000400'}${'6469736b3000'}${'0000'}`,
  );
  expect(hex(encodeVdpaRequest(0x22, 'del', 'disk0'))).toBe(
    `${'20000000'}${'2200'}${'0500'}${'01000000'}${'00000000'}${'04010000'}` +
      `${'0a000400'}${'6469736b3000'}${'0000'}`,
  );
});

/** A message with a header. */
function message(type: number, body: readonly number[]): number[] {
  const length = 16 + body.length;
  return [length, 0, 0, 0, type, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, ...body];
}

test('answers are read, one or several at once', () => {
  const family = message(CONTROL_FAMILY, [1, 2, 0, 0, 6, 0, 1, 0, 0x22, 0, 0, 0]);
  const refused = message(2, [...[0xfe, 0xff, 0xff, 0xff], ...new Array<number>(16).fill(0)]);
  const done = message(2, new Array<number>(20).fill(0));
  expect(decodeAnswer(Uint8Array.from(family))).toEqual({ result: null, family: 0x22 });
  expect(decodeAnswer(Uint8Array.from(refused))).toEqual({ result: -2, family: null });
  expect(decodeAnswer(Uint8Array.from([...family, ...done]))).toEqual({ result: 0, family: 0x22 });
});

test('what is cut off is not read', () => {
  const family = message(CONTROL_FAMILY, [1, 2, 0, 0, 6, 0, 1, 0, 0x22, 0, 0, 0]);
  const none = { result: null, family: null };
  for (let size = 0; size < family.length; size += 1) {
    expect(decodeAnswer(Uint8Array.from(family.slice(0, size)))).toEqual(none);
  }
  const zeroLength = [0, 0, 0, 0, ...family.slice(4)];
  expect(decodeAnswer(Uint8Array.from(zeroLength))).toEqual(none);
});

test('the kernel answers', () => {
  const socket = openGenericNetlink();
  const buffer = new NativeBuffer(16384);
  try {
    const request = encodeFamilyRequest('nlctrl');
    buffer.bytes.set(request);
    expect(writeFrom(socket.number, buffer.address, request.length)).toBe(request.length);
    const size = readInto(socket.number, buffer.address, 16384);
    expect(decodeAnswer(buffer.bytes.subarray(0, size)).family).toBe(CONTROL_FAMILY);
    const unknown = encodeFamilyRequest('no such family');
    buffer.bytes.set(unknown);
    readInto(socket.number, buffer.address, 16384);
    buffer.bytes.set(unknown);
    writeFrom(socket.number, buffer.address, unknown.length);
    const more = readInto(socket.number, buffer.address, 16384);
    expect(decodeAnswer(buffer.bytes.subarray(0, more)).result).toBe(-2);
  } finally {
    socket.close();
    buffer.free();
  }
});
