/**
 * Generic netlink, as much of it as `vdpa dev add` and `vdpa dev del` need: messages of a header
 * and attributes, each padded to four bytes (linux/netlink.h, linux/genetlink.h). Little-endian
 * machines only, as everywhere in this package: netlink has the machine's own order.
 */
import { defineStruct } from '../../virtio/index.js';

const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLMSG_ERROR = 2;

const NetlinkHeader = defineStruct({
  length: 'u32',
  type: 'u16',
  flags: 'u16',
  sequence: 'u32',
  port: 'u32',
});
const GenericHeader = defineStruct({ command: 'u8', version: 'u8', reserved: 'u16' });
const AttributeHeader = defineStruct({ length: 'u16', type: 'u16' });
const ERROR_OFFSET = NetlinkHeader.size;
const ATTRIBUTES_OFFSET = NetlinkHeader.size + GenericHeader.size;

/** The family that knows the numbers of the others. */
export const CONTROL_FAMILY = 0x10;
const CONTROL_VERSION = 2;
const GET_FAMILY = 3;
const FAMILY_ID = 1;
const FAMILY_NAME = 2;

const padded = (size: number): number => Math.ceil(size / 4) * 4;

/** An attribute that is a text. */
interface TextAttribute {
  readonly type: number;
  readonly text: string;
}

/** A request of a family, which the kernel is to acknowledge. */
export function encodeRequest(
  family: number,
  { command, version }: { command: number; version: number },
  attributes: readonly TextAttribute[],
): Uint8Array {
  const parts = attributes.map(({ type, text }) => {
    const bytes = new TextEncoder().encode(`${text}\0`);
    const length = AttributeHeader.size + bytes.length;
    const part = new Uint8Array(padded(length));
    part.set(AttributeHeader.encode({ length, type }));
    part.set(bytes, AttributeHeader.size);
    return part;
  });
  const length = parts.reduce((sum, part) => sum + part.length, ATTRIBUTES_OFFSET);
  const message = new Uint8Array(length);
  const flags = NLM_F_REQUEST | NLM_F_ACK;
  message.set(NetlinkHeader.encode({ length, type: family, flags, sequence: 1 }));
  message.set(GenericHeader.encode({ command, version }), NetlinkHeader.size);
  let at = ATTRIBUTES_OFFSET;
  for (const part of parts) {
    message.set(part, at);
    at += part.length;
  }
  return message;
}

/** Asks for the number of a family. */
export function encodeFamilyRequest(name: string): Uint8Array {
  const call = { command: GET_FAMILY, version: CONTROL_VERSION };
  return encodeRequest(CONTROL_FAMILY, call, [{ type: FAMILY_NAME, text: name }]);
}

/** What came for a request. */
export interface Answer {
  /** The acknowledgement: 0 or the negative errno; null when it has not come yet. */
  readonly result: number | null;
  /** Number of the family that was asked for; null when that is not told here. */
  readonly family: number | null;
}

/** Reads what one receive call brought: one message or several. */
export function decodeAnswer(bytes: Uint8Array): Answer {
  let result: number | null = null;
  let family: number | null = null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + NetlinkHeader.size <= bytes.length; ) {
    const { length, type } = NetlinkHeader.decode(bytes.subarray(at));
    if (length < NetlinkHeader.size || at + length > bytes.length) break;
    if (type !== NLMSG_ERROR) family = familyId(bytes.subarray(at, at + length)) ?? family;
    else if (length >= ERROR_OFFSET + 4) result = view.getInt32(at + ERROR_OFFSET, true);
    at += padded(length);
  }
  return { result, family };
}

function familyId(message: Uint8Array): number | null {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  for (let at = ATTRIBUTES_OFFSET; at + AttributeHeader.size <= message.length; ) {
    const { length, type } = AttributeHeader.decode(message.subarray(at));
    if (length < AttributeHeader.size || at + length > message.length) return null;
    if (type === FAMILY_ID && length >= AttributeHeader.size + 2) {
      return view.getUint16(at + AttributeHeader.size, true);
    }
    at += padded(length);
  }
  return null;
}
