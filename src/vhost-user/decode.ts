/** Messages for people: one line of text, or an object for a trace in JSON. Never throws. */
import { F, STATUS } from '../virtio/features.js';
import { decodeReply, decodeRequest, headerProblem, messageSpec, readHeader } from './codec.js';
import type { Meaning, MessageName, MessageSpec } from './messages.js';
import {
  HEADER_BYTES,
  HEADER_FLAGS,
  PROTOCOL_FEATURE_BIT,
  VIRTIO_FEATURE_BIT,
  VRING_FD,
} from './messages-constants.js';
import type { FieldTable, FieldType } from './messages-layout.js';

/** A value of a trace: 64-bit values and raw bytes are strings of hexadecimal digits. */
export type TraceValue = number | string | TraceValue[] | { [name: string]: TraceValue };

/** One message, ready for JSON.stringify. */
export interface Trace {
  readonly kind: 'request' | 'reply';
  /** The specification's name without VHOST_USER_, or `message N`. */
  readonly message: string;
  readonly id: number;
  readonly needReply: boolean;
  /** File descriptors that came along. */
  readonly fds: number;
  readonly payload?: { [name: string]: TraceValue };
  /** What the payload's number means: names of features, a ring, success or failure. */
  readonly meaning?: string[];
  /** What is wrong with the message; there is no payload then. */
  readonly problem?: string;
}

/** Raw bytes shown of a field; the rest is counted. */
const BYTES_SHOWN = 32;
/** Numbers and records shown of a list; the rest is counted. */
const ITEMS_SHOWN = 8;

function bitNames(bits: Readonly<Record<string, number>>): Map<number, string> {
  return new Map(Object.entries(bits).map(([name, bit]) => [bit, name]));
}

const PROTOCOL_NAMES = bitNames(PROTOCOL_FEATURE_BIT);
const VIRTIO_NAMES = new Map([
  ...bitNames(VIRTIO_FEATURE_BIT),
  ...Object.entries(F).map(([name, mask]): [number, string] => [bitOf(mask), name]),
]);
const STATUS_NAMES = new Map(
  Object.entries(STATUS).map(([name, mask]): [number, string] => [bitOf(BigInt(mask)), name]),
);

function bitOf(mask: bigint): number {
  return mask.toString(2).length - 1;
}

/** The names of a word's bits; a bit without a name is `bitN`. */
function namesOf(word: bigint, names: ReadonlyMap<number, string>): string[] {
  const found: string[] = [];
  for (let bit = 0; word >> BigInt(bit) !== 0n; bit += 1) {
    if (((word >> BigInt(bit)) & 1n) === 1n) found.push(names.get(bit) ?? `bit${bit}`);
  }
  return found;
}

/** The names of the virtio features in a word; a device's own bits are `bitN`. */
export function virtioFeatureNames(word: bigint): string[] {
  return namesOf(word, VIRTIO_NAMES);
}

/** The names of the protocol features in a word. */
export function protocolFeatureNames(word: bigint): string[] {
  return namesOf(word, PROTOCOL_NAMES);
}

function meaningOf(meaning: Meaning, word: bigint): string[] {
  switch (meaning) {
    case 'features':
      return virtioFeatureNames(word);
    case 'protocolFeatures':
      return protocolFeatureNames(word);
    case 'status':
      return word === 0n ? ['reset'] : namesOf(word, STATUS_NAMES);
    case 'vringFd': {
      const ring = `ring ${word & VRING_FD.INDEX_MASK}`;
      return (word & VRING_FD.NO_FD) === 0n ? [ring] : [ring, 'no fd'];
    }
    case 'result':
      return [word === 0n ? 'success' : 'failure'];
    case 'count':
      return [`${word}`];
  }
}

function hexOf(bytes: Uint8Array): string {
  const shown = Buffer.from(bytes.subarray(0, BYTES_SHOWN)).toString('hex');
  return bytes.length > BYTES_SHOWN ? `${shown}… (${bytes.length} bytes)` : shown;
}

function traceField(type: FieldType, value: unknown): TraceValue {
  if (value instanceof Uint8Array) return hexOf(value);
  if (type === 'u64' || type === 'word') return `0x${(value as number | bigint).toString(16)}`;
  if (typeof type === 'string') return value as number;
  const items = value as unknown[];
  const shown = items
    .slice(0, ITEMS_SHOWN)
    .map((item) =>
      'list' in type
        ? traceFields(type.list, item as Record<string, unknown>)
        : traceField('u64', item),
    );
  return items.length > ITEMS_SHOWN ? [...shown, `… (${items.length})`] : shown;
}

function traceFields(table: FieldTable, value: Readonly<Record<string, unknown>>) {
  const fields: { [name: string]: TraceValue } = {};
  for (const [name, type] of Object.entries(table)) {
    if (value[name] !== undefined) fields[name] = traceField(type, value[name]);
  }
  return fields;
}

type Body = Pick<Trace, 'payload' | 'meaning' | 'problem'>;

function traceBody(spec: MessageSpec, isReply: boolean, bytes: Uint8Array, fds: number): Body {
  const name = spec.name as MessageName;
  try {
    const decode = isReply ? decodeReply : decodeRequest;
    const value = decode(name, bytes, fds) as Readonly<Record<string, unknown>>;
    const payload = traceFields(isReply ? spec.reply.fields : spec.request.fields, value);
    const meaning = isReply && spec.answer !== 'reply' ? 'result' : spec.meaning;
    if (meaning === null || typeof value.value !== 'bigint') return { payload };
    return { payload, meaning: meaningOf(meaning, value.value) };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * Decodes one message for a trace. Garbage is described, not refused.
 * @param from who sent these bytes
 * @param bytes header and payload
 * @param fds how many file descriptors came along
 */
export function traceMessage(from: 'frontEnd' | 'backEnd', bytes: Uint8Array, fds: number): Trace {
  if (bytes.length < HEADER_BYTES) {
    const problem = `${bytes.length} bytes; a header has ${HEADER_BYTES}`;
    return { kind: 'request', message: 'message', id: 0, needReply: false, fds, problem };
  }
  const header = readHeader(bytes);
  const isReply = (header.flags & HEADER_FLAGS.REPLY) !== 0;
  const kind = isReply ? 'reply' : 'request';
  // A reply answers a request of the other end.
  const requester = (from === 'frontEnd') === isReply ? 'backEnd' : 'frontEnd';
  const spec = messageSpec(requester, header.request);
  const trace = {
    kind,
    message: spec?.name ?? `message ${header.request}`,
    id: header.request,
    needReply: (header.flags & HEADER_FLAGS.NEED_REPLY) !== 0,
    fds,
  } as const;
  const payload = bytes.subarray(HEADER_BYTES);
  const problem = headerProblem(header, kind);
  if (problem !== null) return { ...trace, problem };
  if (payload.length !== header.size) {
    return { ...trace, problem: `size is ${header.size}; ${payload.length} bytes follow` };
  }
  if (spec === undefined) {
    return { ...trace, payload: { raw: hexOf(payload) }, problem: 'this message is unknown' };
  }
  return { ...trace, ...traceBody(spec, isReply, payload, fds) };
}

function textOf(value: TraceValue): string {
  if (Array.isArray(value)) return `[${value.map(textOf).join(' ')}]`;
  if (typeof value !== 'object') return `${value}`;
  return `{${fieldsText(value)}}`;
}

function fieldsText(fields: { readonly [name: string]: TraceValue }): string {
  return Object.entries(fields)
    .map(([name, value]) => `${name}=${textOf(value)}`)
    .join(' ');
}

/**
 * One message as one line, such as `SET_VRING_NUM index=0 num=128 need_reply`. Never throws.
 * @param from who sent these bytes
 * @param bytes header and payload
 * @param fds how many file descriptors came along
 */
export function describe(from: 'frontEnd' | 'backEnd', bytes: Uint8Array, fds: number): string {
  const { kind, message, payload, meaning, needReply, problem } = traceMessage(from, bytes, fds);
  const parts = [
    message,
    kind === 'reply' ? 'reply' : '',
    payload === undefined ? '' : fieldsText(payload),
    meaning === undefined ? '' : `(${meaning.join(' ')})`,
    fds === 0 ? '' : `fds=${fds}`,
    needReply ? 'need_reply' : '',
    problem === undefined ? '' : `! ${problem}`,
  ];
  return parts.filter((part) => part !== '').join(' ');
}
