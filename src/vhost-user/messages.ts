/**
 * All messages of vhost-user in one table for each direction: from it come the codec, the checks,
 * the decoder of traces, the fuzzer's samples and the page docs/reference/vhost-user-messages.md.
 *
 * From "Vhost-user Protocol" in QEMU's documentation, sections "Payload", "Front-end message types"
 * and "Back-end message types"; where it is silent, from what QEMU, rust-vmm, DPDK and User-Mode
 * Linux send. Names are the specification's without the prefix VHOST_USER_.
 */
import type { ProtocolFeature, VIRTIO_FEATURE_BIT } from './messages-constants.js';
import { MEM_TABLE_REGIONS_MAX } from './messages-constants.js';
import type { FieldTable, Layout, LayoutValue } from './messages-layout.js';
import { LAYOUTS } from './messages-payloads.js';

type LayoutName = keyof typeof LAYOUTS;

/**
 * How many descriptors come along. `by` says what the payload adds to the range: exactly one for
 * each region, or one unless bit 8 of `value` is set.
 */
export interface FdRule {
  readonly min: number;
  readonly max: number;
  readonly by?: 'regions' | 'noFdBit';
}

/** The feature without which a message must not be sent. */
export interface Gate {
  readonly protocolFeature?: ProtocolFeature;
  readonly virtioFeature?: keyof typeof VIRTIO_FEATURE_BIT;
  /** True if the back end's offer is enough, and no negotiation is needed. */
  readonly offered?: boolean;
}

/**
 * When a request is answered.
 *
 * - `reply`: always, with the reply's own payload; NEED_REPLY changes nothing.
 * - `ack`: only if REPLY_ACK is negotiated and the request has NEED_REPLY: a u64, 0 for success.
 * - `replyIfLogShmfd`: `reply` if LOG_SHMFD is negotiated, else `ack`.
 */
export type Answer = 'reply' | 'ack' | 'replyIfLogShmfd';

/**
 * What the answer to a request is that failed or is not supported.
 *
 * - `nonZero`: a u64 that is not 0, and no descriptor.
 * - `noFdBit`: a u64 with an error in bits 0-7 and bit 8 set, and no descriptor.
 * - `empty`: a header alone, and no descriptor.
 * - `zeroed`: the payload with every field 0, and no descriptor.
 * - `minusOne`: the request's payload with -1 in its last 8 bytes.
 * - `close`: there is none; the connection is closed.
 */
export type Failure = 'nonZero' | 'noFdBit' | 'empty' | 'zeroed' | 'minusOne' | 'close';

/** What the number in a payload means, for traces. */
export type Meaning = 'features' | 'protocolFeatures' | 'vringFd' | 'status' | 'count' | 'result';

/** One row of the table. */
export interface MessageSpec<Q extends FieldTable = FieldTable, P extends FieldTable = FieldTable> {
  /** The specification's name without VHOST_USER_. */
  readonly name: string;
  readonly id: number;
  /** Who sends the request. */
  readonly sender: 'frontEnd' | 'backEnd';
  readonly requestName: LayoutName;
  readonly request: Layout<Q>;
  readonly requestFds: FdRule;
  readonly replyName: LayoutName;
  /** Payload of the reply, or of the acknowledgement. */
  readonly reply: Layout<P>;
  readonly replyFds: FdRule;
  /** A reply of a header alone is legal too. */
  readonly replyMayBeEmpty: boolean;
  readonly answer: Answer;
  readonly failure: Failure;
  readonly gate: Gate | null;
  readonly meaning: Meaning | null;
  /** Implemented at both ends; else known to the codec only, and refused. */
  readonly implemented: boolean;
  /** One line for users. */
  readonly doc: string;
}

interface Options<Q extends LayoutName, P extends LayoutName> {
  readonly request?: Q;
  readonly fds?: number | FdRule;
  /** The layout of a reply of its own; without it the message is acknowledged. */
  readonly reply?: P;
  readonly replyFds?: FdRule;
  readonly replyMayBeEmpty?: boolean;
  readonly answer?: Answer;
  readonly failure?: Failure;
  readonly gate?: ProtocolFeature | Gate;
  readonly meaning?: Meaning;
  readonly refused?: true;
}

type FieldsOf<N extends LayoutName> = (typeof LAYOUTS)[N]['fields'];
type Row<Q extends LayoutName, P extends LayoutName> = Omit<
  MessageSpec<FieldsOf<Q>, FieldsOf<P>>,
  'name' | 'sender'
>;

const NO_FDS: FdRule = { min: 0, max: 0 };
const NO_FD_BIT: FdRule = { min: 0, max: 1, by: 'noFdBit' };
const MAYBE_FD: FdRule = { min: 0, max: 1 };

function fdRule(fds: number | FdRule | undefined): FdRule {
  return typeof fds === 'number' ? { min: fds, max: fds } : (fds ?? NO_FDS);
}

/** A row of the table, with what most messages have in common filled in. */
function row<Q extends LayoutName = 'none', P extends LayoutName = 'u64'>(
  id: number,
  doc: string,
  options: Options<Q, P> = {},
): Row<Q, P> {
  const { gate, refused } = options;
  const requestName = (options.request ?? 'none') as Q;
  const replyName = (options.reply ?? 'u64') as P;
  return {
    id,
    requestName,
    request: LAYOUTS[requestName] as unknown as Layout<FieldsOf<Q>>,
    requestFds: fdRule(options.fds),
    replyName,
    reply: LAYOUTS[replyName] as unknown as Layout<FieldsOf<P>>,
    replyFds: options.replyFds ?? NO_FDS,
    replyMayBeEmpty: options.replyMayBeEmpty ?? false,
    answer: options.answer ?? (options.reply === undefined ? 'ack' : 'reply'),
    failure: options.failure ?? (options.reply === undefined ? 'nonZero' : 'close'),
    gate: typeof gate === 'string' ? { protocolFeature: gate } : (gate ?? null),
    meaning: options.meaning ?? null,
    implemented: refused !== true,
    doc,
  };
}

const OFFERED = { virtioFeature: 'PROTOCOL_FEATURES', offered: true } as const;
const IOMMU = { virtioFeature: 'ACCESS_PLATFORM' } as const;

type Named<T, S> = { readonly [K in keyof T]: T[K] & { readonly name: K; readonly sender: S } };

function table<S extends 'frontEnd' | 'backEnd', T extends Record<string, object>>(
  sender: S,
  rows: T,
): Named<T, S> {
  const named = Object.entries(rows).map(([name, spec]) => [name, { name, sender, ...spec }]);
  return Object.fromEntries(named) as Named<T, S>;
}

/** Requests of the front end, and the back end's replies to them. */
export const FRONT_END_MESSAGES = table('frontEnd', {
  GET_FEATURES: row(1, 'Asks which virtio features the device offers.', {
    reply: 'u64',
    meaning: 'features',
  }),
  SET_FEATURES: row(2, 'Sets the virtio features in use; starts and stops dirty logging.', {
    request: 'u64',
    meaning: 'features',
  }),
  SET_OWNER: row(3, 'Starts a session: the sender owns the device.'),
  RESET_OWNER: row(4, 'Deprecated; disables all rings.'),
  SET_MEM_TABLE: row(5, 'Shares guest memory: replaces all regions, one descriptor for each.', {
    request: 'memory table',
    fds: { min: 0, max: MEM_TABLE_REGIONS_MAX, by: 'regions' },
  }),
  SET_LOG_BASE: row(6, 'Shares the bitmap of dirty pages for a migration.', {
    request: 'log',
    fds: MAYBE_FD,
    answer: 'replyIfLogShmfd',
    // DPDK replies with a header alone, libvhost-user with 8 bytes that mean nothing.
    replyMayBeEmpty: true,
  }),
  SET_LOG_FD: row(7, 'Gives the eventfd to signal when the dirty bitmap has changed.', { fds: 1 }),
  SET_VRING_NUM: row(8, 'Sets the size of a ring.', { request: 'vring state' }),
  SET_VRING_ADDR: row(9, 'Says where the three parts of a ring lie.', {
    request: 'vring address',
  }),
  SET_VRING_BASE: row(10, 'Sets the position from which a ring is processed.', {
    request: 'vring state',
  }),
  GET_VRING_BASE: row(11, 'Stops a ring and asks for its position.', {
    request: 'vring state',
    reply: 'vring state',
  }),
  SET_VRING_KICK: row(12, 'Starts a ring and gives the eventfd on which the driver kicks.', {
    request: 'u64',
    fds: NO_FD_BIT,
    meaning: 'vringFd',
  }),
  SET_VRING_CALL: row(13, 'Gives the eventfd on which the device tells of used buffers.', {
    request: 'u64',
    fds: NO_FD_BIT,
    meaning: 'vringFd',
  }),
  SET_VRING_ERR: row(14, 'Gives the eventfd on which the device tells of a broken ring.', {
    request: 'u64',
    fds: NO_FD_BIT,
    meaning: 'vringFd',
  }),
  GET_PROTOCOL_FEATURES: row(15, 'Asks which protocol features the back end offers.', {
    reply: 'u64',
    gate: OFFERED,
    meaning: 'protocolFeatures',
  }),
  SET_PROTOCOL_FEATURES: row(16, 'Sets the protocol features in use.', {
    request: 'u64',
    gate: OFFERED,
    meaning: 'protocolFeatures',
  }),
  GET_QUEUE_NUM: row(17, 'Asks how many queues the device has.', {
    reply: 'u64',
    gate: { protocolFeature: 'MQ', offered: true },
    meaning: 'count',
  }),
  SET_VRING_ENABLE: row(18, 'Enables (1) or disables (0) a ring.', {
    request: 'vring state',
    gate: { virtioFeature: 'PROTOCOL_FEATURES' },
  }),
  SEND_RARP: row(19, 'Asks for a RARP broadcast of a MAC address after a migration.', {
    request: 'u64',
    gate: { protocolFeature: 'RARP', offered: true },
    refused: true,
  }),
  NET_SET_MTU: row(20, 'Tells the MTU that the guest sees.', {
    request: 'u64',
    gate: { protocolFeature: 'MTU', offered: true },
    meaning: 'count',
    refused: true,
  }),
  SET_BACKEND_REQ_FD: row(21, 'Gives the socket for requests of the back end.', {
    fds: 1,
    gate: { protocolFeature: 'BACKEND_REQ', offered: true },
  }),
  IOTLB_MSG: row(22, 'Updates or invalidates an entry of the IOTLB.', {
    request: 'iotlb',
    reply: 'u64',
    failure: 'nonZero',
    gate: IOMMU,
    meaning: 'result',
    refused: true,
  }),
  SET_VRING_ENDIAN: row(23, "Sets a legacy ring's byte order: 0 is little, 1 is big.", {
    request: 'vring state',
    gate: 'CROSS_ENDIAN',
    refused: true,
  }),
  GET_CONFIG: row(24, 'Reads config space; the reply is as long as the request.', {
    request: 'config',
    reply: 'config',
    replyMayBeEmpty: true,
    failure: 'empty',
    gate: 'CONFIG',
  }),
  SET_CONFIG: row(25, 'Writes config space.', { request: 'config', gate: 'CONFIG' }),
  CREATE_CRYPTO_SESSION: row(26, 'Opens a session of a crypto device.', {
    request: 'crypto session',
    reply: 'crypto session',
    failure: 'minusOne',
    gate: 'CRYPTO_SESSION',
    refused: true,
  }),
  CLOSE_CRYPTO_SESSION: row(27, 'Closes a session of a crypto device.', {
    request: 'u64',
    gate: 'CRYPTO_SESSION',
    meaning: 'count',
    refused: true,
  }),
  POSTCOPY_ADVISE: row(28, 'Announces a postcopy migration; asks for a userfaultfd.', {
    reply: 'none',
    replyFds: MAYBE_FD,
    failure: 'empty',
    gate: 'PAGEFAULT',
    refused: true,
  }),
  POSTCOPY_LISTEN: row(29, 'Says that the guest runs before its memory is all there.', {
    gate: 'PAGEFAULT',
    refused: true,
  }),
  POSTCOPY_END: row(30, 'Says that a postcopy migration is over.', {
    reply: 'u64',
    failure: 'nonZero',
    gate: 'PAGEFAULT',
    meaning: 'result',
    refused: true,
  }),
  GET_INFLIGHT_FD: row(31, 'Asks for memory that remembers the requests under way.', {
    request: 'inflight',
    reply: 'inflight',
    replyFds: MAYBE_FD,
    failure: 'zeroed',
    gate: 'INFLIGHT_SHMFD',
  }),
  SET_INFLIGHT_FD: row(32, 'Hands that memory to the successor of a back end.', {
    request: 'inflight',
    fds: 1,
    gate: 'INFLIGHT_SHMFD',
  }),
  GPU_SET_SOCKET: row(33, 'Gives the socket of the GPU protocol.', { fds: 1, refused: true }),
  RESET_DEVICE: row(34, 'Disables all rings and brings the device to its first state.', {
    gate: { protocolFeature: 'RESET_DEVICE', offered: true },
  }),
  VRING_KICK: row(35, 'Kicks a ring in place of its eventfd.', {
    request: 'vring state',
    gate: 'INBAND_NOTIFICATIONS',
  }),
  GET_MAX_MEM_SLOTS: row(36, 'Asks how many memory regions can be added.', {
    reply: 'u64',
    gate: 'CONFIGURE_MEM_SLOTS',
    meaning: 'count',
  }),
  ADD_MEM_REG: row(37, 'Adds one region of guest memory.', {
    request: 'memory region',
    fds: 1,
    gate: 'CONFIGURE_MEM_SLOTS',
  }),
  REM_MEM_REG: row(38, 'Removes one region of guest memory; a descriptor sent along is closed.', {
    request: 'memory region',
    fds: MAYBE_FD,
    gate: 'CONFIGURE_MEM_SLOTS',
  }),
  SET_STATUS: row(39, 'Tells the device status that the driver has set; 0 is a reset.', {
    request: 'u64',
    gate: 'STATUS',
    meaning: 'status',
  }),
  GET_STATUS: row(40, 'Asks for the device status.', {
    reply: 'u64',
    gate: 'STATUS',
    meaning: 'status',
  }),
  GET_SHARED_OBJECT: row(41, 'Asks for the DMA buffer with a UUID.', {
    request: 'uuid',
    reply: 'uuid',
    replyFds: MAYBE_FD,
    replyMayBeEmpty: true,
    failure: 'empty',
    gate: 'SHARED_OBJECT',
    refused: true,
  }),
  SET_DEVICE_STATE_FD: row(42, "Opens a channel to save or load the device's state.", {
    request: 'device state',
    fds: 1,
    reply: 'u64',
    replyFds: NO_FD_BIT,
    failure: 'noFdBit',
    gate: 'DEVICE_STATE',
    refused: true,
  }),
  CHECK_DEVICE_STATE: row(43, 'Asks whether the transfer of state went well.', {
    reply: 'u64',
    failure: 'nonZero',
    gate: 'DEVICE_STATE',
    meaning: 'result',
    refused: true,
  }),
  GET_SHMEM_CONFIG: row(44, "Asks for the sizes of the device's shared memory regions.", {
    reply: 'shared memory',
    failure: 'zeroed',
    gate: 'SHMEM',
    refused: true,
  }),
});

/** Requests of the back end on its own socket, and the front end's replies to them. */
export const BACK_END_MESSAGES = table('backEnd', {
  BACKEND_IOTLB_MSG: row(1, 'Tells of a miss, or of an access that is not allowed.', {
    request: 'iotlb',
    gate: IOMMU,
    refused: true,
  }),
  BACKEND_CONFIG_CHANGE_MSG: row(2, 'Says that config space has changed.', { gate: 'CONFIG' }),
  BACKEND_VRING_HOST_NOTIFIER_MSG: row(3, "Offers a page to map as a ring's doorbell.", {
    request: 'vring area',
    fds: NO_FD_BIT,
    gate: 'HOST_NOTIFIER',
    meaning: 'vringFd',
    refused: true,
  }),
  BACKEND_VRING_CALL: row(4, 'Tells of used buffers in place of the eventfd.', {
    request: 'vring state',
    gate: 'INBAND_NOTIFICATIONS',
  }),
  BACKEND_VRING_ERR: row(5, 'Tells of a broken ring in place of the eventfd.', {
    request: 'vring state',
    gate: 'INBAND_NOTIFICATIONS',
  }),
  BACKEND_SHARED_OBJECT_ADD: row(6, 'Registers a UUID for a DMA buffer.', {
    request: 'uuid',
    gate: 'SHARED_OBJECT',
    refused: true,
  }),
  BACKEND_SHARED_OBJECT_REMOVE: row(7, 'Takes a UUID back.', {
    request: 'uuid',
    gate: 'SHARED_OBJECT',
    refused: true,
  }),
  BACKEND_SHARED_OBJECT_LOOKUP: row(8, "Asks for another back end's DMA buffer by UUID.", {
    request: 'uuid',
    reply: 'u64',
    replyFds: MAYBE_FD,
    failure: 'nonZero',
    gate: 'SHARED_OBJECT',
    meaning: 'result',
    refused: true,
  }),
  BACKEND_SHMEM_MAP: row(9, 'Maps a file into a shared memory region.', {
    request: 'mmap',
    fds: 1,
    gate: 'SHMEM',
    refused: true,
  }),
  BACKEND_SHMEM_UNMAP: row(10, 'Unmaps what BACKEND_SHMEM_MAP has mapped.', {
    request: 'mmap',
    gate: 'SHMEM',
    refused: true,
  }),
});

/** The front end's requests and the back end's: names differ, so one name is enough. */
export const MESSAGES = { ...FRONT_END_MESSAGES, ...BACK_END_MESSAGES };

type Messages = typeof MESSAGES;
export type FrontEndMessage = keyof typeof FRONT_END_MESSAGES;
export type BackEndMessage = keyof typeof BACK_END_MESSAGES;
export type MessageName = keyof Messages;

type ValueOf<L> = L extends { readonly fields: infer T extends FieldTable }
  ? LayoutValue<T>
  : never;
/** Payload of a request. */
export type Payload<N extends MessageName> = ValueOf<Messages[N]['request']>;
/** Payload of a reply, or of the acknowledgement. */
export type ReplyPayload<N extends MessageName> = ValueOf<Messages[N]['reply']>;

/** A row of the table whose name can be switched upon. */
export type FrontEndSpec = MessageSpec & { readonly name: FrontEndMessage };
export type BackEndSpec = MessageSpec & { readonly name: BackEndMessage };

function byId<S extends MessageSpec>(rows: Readonly<Record<string, S>>): (S | undefined)[] {
  const specs: (S | undefined)[] = [];
  for (const spec of Object.values(rows)) specs[spec.id] = spec;
  return specs;
}

const frontEndById = byId<FrontEndSpec>(FRONT_END_MESSAGES);
const backEndById = byId<BackEndSpec>(BACK_END_MESSAGES);

/** The front end's request with that id; undefined if there is none. */
export function frontEndMessage(id: number): FrontEndSpec | undefined {
  return frontEndById[id];
}

/** The back end's request with that id; undefined if there is none. */
export function backEndMessage(id: number): BackEndSpec | undefined {
  return backEndById[id];
}
