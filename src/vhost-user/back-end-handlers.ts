/**
 * What a back end does with each message: one line or a few for each, in the order of their ids.
 * The protocol features that are offered follow from this table, so the two cannot drift apart.
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import type { BackEndDevice } from './back-end-device.js';
import type { BackEndState } from './back-end-state.js';
import { decodeVringFd } from './codec.js';
import {
  FRONT_END_MESSAGES,
  type FrontEndMessage,
  type Payload,
  type ReplyPayload,
} from './messages.js';
import {
  CONFIG_FLAG,
  MEM_SLOTS_MAX,
  PROTOCOL_FEATURE,
  type ProtocolFeature,
} from './messages-constants.js';

/** The answer of a handler: nothing (a success), or a reply's payload, with descriptors. */
export interface HandlerResult<N extends FrontEndMessage> {
  readonly payload: ReplyPayload<N>;
  /** Closed after they were sent. */
  readonly fds?: readonly Fd[];
}

type Result<T> = T | Promise<T>;

/**
 * Handles a message. Descriptors that it keeps it takes out of `fds`; the rest is closed.
 * @throws VloError to refuse
 */
type Handler<N extends FrontEndMessage> = (
  state: BackEndState,
  payload: Payload<N>,
  fds: Fd[],
) => Result<HandlerResult<N> | undefined> | Result<void>;

const word = (value: bigint | number) => ({ payload: { value: BigInt(value) } });

/** The descriptor of a SET_VRING_… message, taken out of the list; null when none came. */
function takeFd(payload: Payload<'SET_VRING_KICK'>, fds: Fd[]): { index: number; fd: Fd | null } {
  const { index, hasFd } = decodeVringFd(payload);
  return { index, fd: hasFd ? fds.shift()! : null };
}

/** GET_CONFIG and SET_CONFIG. */
const config = {
  get(state: BackEndState, { offset, size, flags }: Payload<'GET_CONFIG'>) {
    const { device } = state;
    if (size === 0 || offset >= device.configSize) {
      throw new VloError('VLO_PROTOCOL', `config space: ${size} bytes at ${offset}`);
    }
    // Front ends ask for all that their version of the device type has. What we have not is zero.
    const bytes = new Uint8Array(size);
    bytes.set(device.readConfig(offset, Math.min(size, device.configSize - offset)));
    return { payload: { offset, size, flags, bytes } };
  },
  set(state: BackEndState, { offset, size, flags, bytes }: Payload<'SET_CONFIG'>) {
    const { device } = state;
    if (size === 0 || offset + size > device.configSize) {
      throw new VloError('VLO_PROTOCOL', `config space: ${size} bytes at ${offset}`);
    }
    device.writeConfig(offset, bytes.slice(0, size), flags === CONFIG_FLAG.LIVE_MIGRATION);
  },
};

/** One handler for each message that is implemented. */
export const HANDLERS: { readonly [N in FrontEndMessage]?: Handler<N> } = {
  GET_FEATURES: (state) => word(state.offered),
  SET_FEATURES: (state, { value }) => state.setFeatures(value),
  SET_OWNER: () => undefined,
  RESET_OWNER: (state) => state.disableRings(),
  SET_MEM_TABLE: (state, { regions }, fds) => state.setMemoryTable(regions, fds),
  SET_LOG_BASE: (state, { size, offset }, fds) => {
    if (fds.length === 0) throw new VloError('VLO_PROTOCOL', 'a dirty log without a descriptor');
    state.setLogBase(fds[0]!, offset, size);
    return word(0);
  },
  SET_LOG_FD: (state, _, fds) => state.setLogFd(fds.shift()!),
  SET_VRING_NUM: (state, { index, num }) => state.ring(index).setSize(num),
  SET_VRING_ADDR: async (state, { index, ...addresses }) => {
    const ring = state.ring(index);
    await ring.setAddresses(addresses);
    await ring.settle(true);
  },
  SET_VRING_BASE: (state, { index, num }) => state.ring(index).setBase(num),
  GET_VRING_BASE: async (state, { index }) => {
    const ring = state.ring(index);
    await ring.stop();
    return { payload: { index, num: ring.currentBase } };
  },
  SET_VRING_KICK: async (state, payload, fds) => {
    const ring = state.ring(decodeVringFd(payload).index);
    if (fds.length > 0) state.checkPollable(fds[0]!);
    await ring.setKick(takeFd(payload, fds).fd);
    await ring.settle(true);
  },
  SET_VRING_CALL: (state, payload, fds) => {
    const ring = state.ring(decodeVringFd(payload).index);
    ring.setCall(takeFd(payload, fds).fd);
  },
  SET_VRING_ERR: (state, payload, fds) => {
    const ring = state.ring(decodeVringFd(payload).index);
    ring.setErr(takeFd(payload, fds).fd);
  },
  GET_PROTOCOL_FEATURES: (state) => word(state.offeredProtocol),
  SET_PROTOCOL_FEATURES: (state, { value }) => state.setProtocolFeatures(value),
  GET_QUEUE_NUM: (state) => word(state.device.queueCount),
  SET_VRING_ENABLE: async (state, { index, num }) => {
    const ring = state.ring(index);
    if (num > 1) throw new VloError('VLO_PROTOCOL', `queue ${index} is enabled with ${num}`);
    ring.enabled = num === 1;
    await ring.settle(true);
  },
  SET_BACKEND_REQ_FD: (state, _, fds) => state.setChannel(fds.shift()!),
  GET_CONFIG: config.get,
  SET_CONFIG: config.set,
  GET_INFLIGHT_FD: (state, { queueCount, queueSize }) => {
    const { fd, description } = state.createInflight(queueCount, queueSize);
    return { payload: description, fds: [fd] };
  },
  SET_INFLIGHT_FD: (state, payload, fds) => state.setInflight(fds[0]!, payload),
  RESET_DEVICE: (state) => state.reset(),
  VRING_KICK: (state, { index }) => state.ring(index).kickInBand(),
  GET_MAX_MEM_SLOTS: () => word(MEM_SLOTS_MAX),
  ADD_MEM_REG: (state, region, fds) => state.addMemoryRegion(region, fds[0]!),
  REM_MEM_REG: (state, region) => state.removeMemoryRegion(region),
  SET_STATUS: (state, { value }) => state.setStatus(Number(value & 0xffn)),
  GET_STATUS: (state) => word(state.status),
};

/** Protocol features that no message of the table stands for by its gate. */
const UNGATED: readonly ProtocolFeature[] = ['LOG_SHMFD', 'REPLY_ACK', 'BACKEND_SEND_FD'];

/** The protocol features that are offered for a device. */
export function offeredProtocolFeatures(device: BackEndDevice, inBand: boolean): bigint {
  let features = 0n;
  for (const name of UNGATED) features |= PROTOCOL_FEATURE[name];
  for (const name of Object.keys(HANDLERS) as FrontEndMessage[]) {
    const feature = FRONT_END_MESSAGES[name].gate?.protocolFeature;
    if (feature !== undefined) features |= PROTOCOL_FEATURE[feature];
  }
  if (device.configSize === 0) features &= ~PROTOCOL_FEATURE.CONFIG;
  return inBand ? features : features & ~PROTOCOL_FEATURE.INBAND_NOTIFICATIONS;
}
