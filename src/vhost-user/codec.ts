/**
 * Messages to bytes and back, driven by the table in messages.ts.
 *
 * Decoding checks syntax: version, flags, sizes, counts and descriptors. What a value means, and
 * whether a message may come now, is for the session to judge. A peer's mistake is a VloError with
 * code VLO_PROTOCOL that names message, field and value; a value of ours that does not fit is a
 * bug of ours.
 */
import { assert, VloError } from '../errors.js';
import type { FdRule, FrontEndMessage, MessageSpec } from './messages.js';
import {
  backEndMessage,
  frontEndMessage,
  MESSAGES,
  type MessageName,
  type Payload,
  type ReplyPayload,
} from './messages.js';
import {
  HEADER_BYTES,
  HEADER_FLAGS,
  PAYLOAD_BYTES_MAX,
  PROTOCOL_FEATURE,
  PROTOCOL_FEATURE_BIT,
  VIRTIO_FEATURE_BIT,
  VRING_FD,
} from './messages-constants.js';
import {
  decodeLayout,
  encodeLayout,
  type FieldTable,
  type Layout,
  type LayoutValue,
} from './messages-layout.js';

const { VERSION, VERSION_MASK, REPLY, NEED_REPLY } = HEADER_FLAGS;
const KNOWN_FLAGS = VERSION_MASK | REPLY | NEED_REPLY;

/** Who sends the requests on a socket: the main one, or the one of SET_BACKEND_REQ_FD. */
export type Sender = MessageSpec['sender'];

/** The header of a message (section "Header"). */
export interface Header {
  readonly request: number;
  readonly flags: number;
  /** Bytes of payload that follow. */
  readonly size: number;
}

function fail(label: string, problem: string): never {
  throw new VloError('VLO_PROTOCOL', `${label}: ${problem}`);
}

/** The table's row for an id, on the socket where `sender` sends the requests. */
export function messageSpec(sender: Sender, id: number): MessageSpec | undefined {
  return sender === 'frontEnd' ? frontEndMessage(id) : backEndMessage(id);
}

/** The name of a message for people; for an unknown id, the id. */
export function messageLabel(sender: Sender, id: number): string {
  const prefix = sender === 'frontEnd' ? '' : 'BACKEND_';
  return messageSpec(sender, id)?.name ?? `${prefix}message ${id}`;
}

/** Reads a header without judging it. Wants {@link HEADER_BYTES} bytes at least. */
export function readHeader(bytes: Uint8Array): Header {
  assert(bytes.length >= HEADER_BYTES, `a header was read from ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    request: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    size: view.getUint32(8, true),
  };
}

/**
 * Checks a header: version 1, no flag that the protocol does not have, REPLY in replies only, and a
 * payload that we are willing to read. Null if all is well, else what is wrong.
 */
export function headerProblem(header: Header, kind: 'request' | 'reply'): string | null {
  const { flags, size } = header;
  if ((flags & VERSION_MASK) !== VERSION) return `version is ${flags & VERSION_MASK}; expected 1`;
  const unknown = (flags & ~KNOWN_FLAGS) >>> 0;
  if (unknown !== 0)
    return `flags are 0x${flags.toString(16)}; 0x${unknown.toString(16)} is unknown`;
  const isReply = (flags & REPLY) !== 0;
  if (isReply && kind === 'request')
    return `flags are 0x${flags.toString(16)}: a reply, no request`;
  if (!isReply && kind === 'reply') return `flags are 0x${flags.toString(16)}: a request, no reply`;
  if (size > PAYLOAD_BYTES_MAX) return `size is ${size}; at most ${PAYLOAD_BYTES_MAX} bytes`;
  return null;
}

/**
 * Decodes and checks the header of a message on the socket where `sender` sends the requests. An
 * unknown id is no error here: it may have to be answered.
 * @throws VloError VLO_PROTOCOL
 */
export function decodeHeader(bytes: Uint8Array, kind: 'request' | 'reply', sender: Sender): Header {
  const header = readHeader(bytes);
  const problem = headerProblem(header, kind);
  if (problem !== null) fail(messageLabel(sender, header.request), problem);
  return header;
}

/** True if the sender of a request asks to be told how it went. */
export function needsReply(header: Header): boolean {
  return (header.flags & NEED_REPLY) !== 0;
}

function frame(request: number, flags: number, payload: Uint8Array): Uint8Array {
  assert(payload.length <= PAYLOAD_BYTES_MAX, `a payload of ${payload.length} bytes is too long`);
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, VERSION | flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Encodes a request: header and payload. `flags` is 0 or HEADER_FLAGS.NEED_REPLY. */
export function encodeRequest<N extends MessageName>(
  name: N,
  payload: Payload<N>,
  flags = 0,
): Uint8Array {
  const spec: MessageSpec = MESSAGES[name];
  return frame(spec.id, flags, encodeLayout(spec.request, payload as LayoutValue<FieldTable>));
}

/** Encodes a reply or an acknowledgement: header and payload. Peers refuse any flag but REPLY. */
export function encodeReply<N extends MessageName>(name: N, payload: ReplyPayload<N>): Uint8Array {
  const spec: MessageSpec = MESSAGES[name];
  return frame(spec.id, REPLY, encodeLayout(spec.reply, payload as LayoutValue<FieldTable>));
}

/** Encodes an acknowledgement of any request, known or not: 0 for success, else failure. */
export function encodeAck(request: number, value: 0 | 1): Uint8Array {
  return frame(request, REPLY, encodeWord(BigInt(value)));
}

function encodeWord(value: bigint): Uint8Array {
  return encodeLayout(MESSAGES.SET_FEATURES.request, { value });
}

/**
 * Encodes the answer to a request that failed or is not supported, in the form that the message has
 * for it (see `Failure`). Null if it has none: the connection has to be closed.
 * @param payload the request's payload as it came
 */
export function encodeFailure(spec: MessageSpec, payload: Uint8Array): Uint8Array | null {
  switch (spec.failure) {
    case 'nonZero':
      return encodeAck(spec.id, 1);
    case 'noFdBit':
      return frame(spec.id, REPLY, encodeWord(VRING_FD.NO_FD | 1n));
    case 'empty':
      return frame(spec.id, REPLY, new Uint8Array(0));
    case 'zeroed':
      return frame(spec.id, REPLY, new Uint8Array(spec.reply.sizeMin));
    case 'minusOne': {
      const echo = payload.slice();
      echo.fill(0xff, Math.max(0, echo.length - 8));
      return frame(spec.id, REPLY, echo);
    }
    case 'close':
      return null;
  }
}

/**
 * What a request asks for: its own reply, an acknowledgement, or silence.
 * @param protocolFeatures the negotiated ones
 */
export function answerTo(
  spec: MessageSpec,
  header: Header,
  protocolFeatures: bigint,
): 'reply' | 'ack' | 'none' {
  const logShmfd = (protocolFeatures & PROTOCOL_FEATURE.LOG_SHMFD) !== 0n;
  if (spec.answer === 'reply' || (spec.answer === 'replyIfLogShmfd' && logShmfd)) return 'reply';
  const replyAck = (protocolFeatures & PROTOCOL_FEATURE.REPLY_ACK) !== 0n;
  return replyAck && needsReply(header) ? 'ack' : 'none';
}

/** Feature words of a session. */
export interface SessionFeatures {
  /** Virtio features that the back end offers, and those in use. */
  readonly offered: bigint;
  readonly features: bigint;
  readonly offeredProtocol: bigint;
  readonly protocol: bigint;
}

/** Whether a message may be sent, as far as features go. */
export function isGateOpen({ gate }: MessageSpec, session: SessionFeatures): boolean {
  if (gate === null) return true;
  const has = (word: bigint, bit: number): boolean => ((word >> BigInt(bit)) & 1n) === 1n;
  if (gate.protocolFeature !== undefined) {
    const word = gate.offered ? session.offeredProtocol : session.protocol;
    return has(word, PROTOCOL_FEATURE_BIT[gate.protocolFeature]);
  }
  if (gate.virtioFeature === undefined) return true;
  const word = gate.offered ? session.offered : session.features;
  return has(word, VIRTIO_FEATURE_BIT[gate.virtioFeature]);
}

/** How many descriptors have to come with a payload, at least and at most. */
export function fdRange(rule: FdRule, value: Readonly<Record<string, unknown>>): [number, number] {
  const { regions, value: word } = value as { regions?: readonly unknown[]; value?: bigint };
  if (rule.by === 'regions' && regions !== undefined) return [regions.length, regions.length];
  if (rule.by !== 'noFdBit' || word === undefined) return [rule.min, rule.max];
  return (word & VRING_FD.NO_FD) === 0n ? [1, 1] : [0, 0];
}

function checkFds(rule: FdRule, value: Readonly<Record<string, unknown>>, count: number) {
  const [min, max] = fdRange(rule, value);
  if (count >= min && count <= max) return null;
  const expected = min === max ? `${min}` : `${min} to ${max}`;
  return `${count} file descriptors came along; expected ${expected}`;
}

function decode<T extends FieldTable>(
  layout: Layout<T>,
  rule: FdRule,
  payload: Uint8Array,
  fdCount: number,
  label: string,
): LayoutValue<T> {
  const value = decodeLayout(layout, payload, label);
  const problem = checkFds(rule, value, fdCount);
  if (problem !== null) fail(label, problem);
  return value;
}

/**
 * Decodes the payload of a request.
 * @param payload the bytes after the header
 * @param fdCount how many file descriptors came along
 * @throws VloError VLO_PROTOCOL
 */
export function decodeRequest<N extends MessageName>(
  name: N,
  payload: Uint8Array,
  fdCount: number,
): Payload<N> {
  const spec: MessageSpec = MESSAGES[name];
  return decode(spec.request, spec.requestFds, payload, fdCount, name) as Payload<N>;
}

/**
 * Decodes the payload of a reply or an acknowledgement. Where a header alone is a legal reply, all
 * its fields read as zero: for GET_CONFIG that is `size` 0, which means failure.
 * @throws VloError VLO_PROTOCOL
 */
export function decodeReply<N extends MessageName>(
  name: N,
  payload: Uint8Array,
  fdCount: number,
): ReplyPayload<N> {
  const spec: MessageSpec = MESSAGES[name];
  const { reply, replyFds } = spec;
  const isEmpty = payload.length === 0 && spec.replyMayBeEmpty;
  const bytes = isEmpty ? new Uint8Array(reply.sizeMin) : payload;
  return decode(reply, replyFds, bytes, fdCount, `${name} reply`) as ReplyPayload<N>;
}

/**
 * Checks that a header is that of the reply to `name`.
 * @throws VloError VLO_PROTOCOL
 */
export function checkReplyHeader(name: MessageName, header: Header): void {
  const spec: MessageSpec = MESSAGES[name];
  const problem = headerProblem(header, 'reply');
  if (problem !== null) fail(`${name} reply`, problem);
  if (header.request === spec.id) return;
  fail(`${name} reply`, `it answers ${messageLabel(spec.sender, header.request)}`);
}

/** The word of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR. */
export interface VringFd {
  /** 0 to 255. */
  readonly index: number;
  readonly hasFd: boolean;
}

export function encodeVringFd({ index, hasFd }: VringFd): Payload<FrontEndVringFd> {
  assert(Number.isInteger(index) && index >= 0 && index <= 255, `ring ${index} has no message`);
  return { value: BigInt(index) | (hasFd ? 0n : VRING_FD.NO_FD) };
}

type FrontEndVringFd = FrontEndMessage & `SET_VRING_${'KICK' | 'CALL' | 'ERR'}`;

/** Bits 9 to 63 have no meaning and are not looked at. */
export function decodeVringFd({ value }: Payload<FrontEndVringFd>): VringFd {
  return { index: Number(value & VRING_FD.INDEX_MASK), hasFd: (value & VRING_FD.NO_FD) === 0n };
}

/** Where a packed ring stands (section "Vring descriptor indices for packed virtqueues"). */
export interface PackedBase {
  /** Next descriptor to read, 0 to 32767, and the driver's wrap counter there. */
  readonly availIndex: number;
  readonly availWrap: boolean;
  /** Next descriptor to write, and the device's wrap counter there. */
  readonly usedIndex: number;
  readonly usedWrap: boolean;
}

/** Packs a position into `num` of SET_VRING_BASE and of GET_VRING_BASE's reply. */
export function encodePackedBase(base: PackedBase): number {
  const half = (index: number, wrap: boolean) => (index & 0x7fff) | (wrap ? 0x8000 : 0);
  const avail = half(base.availIndex, base.availWrap);
  return ((half(base.usedIndex, base.usedWrap) << 16) | avail) >>> 0;
}

/** The inverse of {@link encodePackedBase}. */
export function decodePackedBase(num: number): PackedBase {
  return {
    availIndex: num & 0x7fff,
    availWrap: (num & 0x8000) !== 0,
    usedIndex: (num >>> 16) & 0x7fff,
    usedWrap: num >>> 31 === 1,
  };
}
