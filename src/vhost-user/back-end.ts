/**
 * The back end's side of one vhost-user connection, over a {@link BackEndDevice} that serves the
 * requests: takes messages one at a time, judges them, has them handled, answers.
 *
 * A message that fails is answered as the specification has it for that message. Where there is no
 * answer the front end would go on in the belief that all is well: the connection is closed.
 */
import { VloError } from '../errors.js';
import { type Fd, signalEvent } from '../native/index.js';
import { type DeviceQueue, type DriverFault, STATUS } from '../virtio/index.js';
import type { BackEndDevice } from './back-end-device.js';
import { HANDLERS, type HandlerResult, offeredProtocolFeatures } from './back-end-handlers.js';
import { BackEndState } from './back-end-state.js';
import {
  answerTo,
  decodeRequest,
  encodeAck,
  encodeFailure,
  encodeReply,
  type Header,
  isGateOpen,
  messageLabel,
} from './codec.js';
import { Connection, closeAll, type IncomingMessage } from './connection.js';
import {
  type FrontEndMessage,
  type FrontEndSpec,
  frontEndMessage,
  type Payload,
  type ReplyPayload,
} from './messages.js';
import { HEADER_BYTES, HEADER_FLAGS, PROTOCOL_FEATURE } from './messages-constants.js';

/** Longest wait in milliseconds for requests in flight before an orderly end of a session. */
const DRAIN_MS_MAX = 1000;

/** What happens to a session, for whoever runs it. */
export interface BackEndSessionEvents {
  /**
   * The session is over and everything of it was released. Null when this end closed it;
   * VLO_DISCONNECTED when the front end left; else what the front end did wrong.
   */
  onClose(error: VloError | null): void;
  /** Each message, whole, for traces; the decoder in decode.ts takes the same arguments. */
  onMessage?(from: 'frontEnd' | 'backEnd', bytes: Uint8Array, fdCount: number): void;
}

export interface BackEndSessionOptions {
  /** Offer INBAND_NOTIFICATIONS; default false. */
  readonly inBandNotifications?: boolean;
  /** Takes one line of the log. */
  readonly log?: (line: string) => void;
}

/** A message as it came over the wire. */
function encodeFrame({ request, flags, size }: Header, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + size);
  new Uint32Array(bytes.buffer, 0, 3).set([request, flags, size]);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

type AnyHandler = (
  state: BackEndState,
  payload: Payload<FrontEndMessage>,
  fds: Fd[],
) => ReturnType<NonNullable<(typeof HANDLERS)['GET_FEATURES']>>;

export class BackEndSession {
  private readonly state: BackEndState;
  private readonly connection: Connection;
  private readonly events: BackEndSessionEvents;
  private readonly log: (line: string) => void;
  private readonly released: Promise<void>;
  private resolveReleased!: () => void;

  /** Takes over the connected, non-blocking socket, and the device until `onClose`. */
  constructor(
    socket: Fd,
    device: BackEndDevice,
    events: BackEndSessionEvents,
    options: BackEndSessionOptions = {},
  ) {
    this.events = events;
    this.log = options.log ?? (() => {});
    const offered = offeredProtocolFeatures(device, options.inBandNotifications === true);
    this.state = new BackEndState(device, offered, this.log);
    this.released = new Promise((resolve) => {
      this.resolveReleased = resolve;
    });
    const role = { requester: 'frontEnd', receives: 'request' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => this.handle(message),
      onClose: (error) => void this.finish(error),
    });
  }

  /** Ends the session; resolves when the device is idle and everything was released. */
  async close(): Promise<void> {
    // The rings are drained before the socket closes: a successor that the front end turns to must
    // not serve again what is still being served here. A device that hangs may not hold that up.
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, DRAIN_MS_MAX);
    });
    await Promise.race([this.state.stopRings(), limit]);
    clearTimeout(timer);
    this.connection.close();
    await this.released;
  }

  /** A driver's fault, or a bug of the device (null), stopped a queue: tells the front end. */
  reportFault(queue: DeviceQueue, _fault: DriverFault | null): void {
    const { state } = this;
    const ring = state.rings[queue.index];
    if (ring === undefined || this.connection.isClosed) return;
    if (ring.errFd !== null) signalEvent(ring.errFd.number);
    else if (state.hasProtocol('INBAND_NOTIFICATIONS')) state.channel?.vringErr(queue.index);
    if (!state.hasProtocol('STATUS')) return;
    state.status |= STATUS.DEVICE_NEEDS_RESET;
    // The specification's notification of a changed status is the one of a changed config space.
    this.configChanged();
  }

  /** The device's config space has changed: tells the front end, if it wants to know. */
  configChanged(): void {
    const { state } = this;
    if (state.hasProtocol('CONFIG')) state.channel?.configChanged();
  }

  private async finish(error: VloError | null): Promise<void> {
    if (error !== null && error.code !== 'VLO_DISCONNECTED') {
      this.log(`connection closed: ${error.message}`);
    }
    await this.state.release();
    this.resolveReleased();
    this.events.onClose(error);
  }

  private async handle(message: IncomingMessage): Promise<void> {
    const { header, payload, fds } = message;
    if (this.events.onMessage !== undefined) {
      this.events.onMessage('frontEnd', encodeFrame(header, payload), fds.length);
    }
    const spec = frontEndMessage(header.request);
    try {
      if (spec === undefined) throw this.unsupported(header);
      await this.dispatch(spec, message);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      this.refuse(spec, message, error);
    }
  }

  private unsupported(header: Header): VloError {
    const label = messageLabel('frontEnd', header.request);
    return new VloError('VLO_PROTOCOL', `${label} is not supported or was not negotiated`);
  }

  private async dispatch(spec: FrontEndSpec, message: IncomingMessage): Promise<void> {
    const { state } = this;
    const { header, fds } = message;
    const handler = HANDLERS[spec.name] as AnyHandler | undefined;
    // Some front ends enable rings although they did not acknowledge PROTOCOL_FEATURES among the
    // virtio features (QEMU before 7.2): the offer has to be enough.
    const isOpen = spec.name === 'SET_VRING_ENABLE' || isGateOpen(spec, state);
    if (handler === undefined || !isOpen) throw this.unsupported(header);
    const payload = decodeRequest(spec.name, message.payload, fds.length);
    // As it was when the request was sent: SET_PROTOCOL_FEATURES may change it.
    const protocol = state.protocol;
    const result = await handler(state, payload, fds);
    const answer = answerTo(spec, header, protocol | state.protocol);
    if (answer === 'none') return;
    if (answer === 'ack') this.send(encodeAck(header.request, 0));
    else this.reply(spec.name, result as HandlerResult<FrontEndMessage>);
  }

  private reply<N extends FrontEndMessage>(name: N, result: HandlerResult<N>): void {
    const fds = [...(result.fds ?? [])];
    this.send(encodeReply(name, result.payload as ReplyPayload<N>), fds);
    closeAll(fds);
  }

  /** Answers a message that failed, in the way that it has for that, or closes the connection. */
  private refuse(spec: FrontEndSpec | undefined, message: IncomingMessage, error: VloError): void {
    const { header, payload } = message;
    const label = messageLabel('frontEnd', header.request);
    const { protocol } = this.state;
    const replyAck = (protocol & PROTOCOL_FEATURE.REPLY_ACK) !== 0n;
    const wantsAck = replyAck && (header.flags & HEADER_FLAGS.NEED_REPLY) !== 0;
    const answer =
      spec === undefined ? (wantsAck ? 'ack' : 'none') : answerTo(spec, header, protocol);
    let bytes: Uint8Array | null = null;
    if (answer === 'ack') bytes = encodeAck(header.request, 1);
    // A front end does not look at the reply of SET_LOG_BASE, and would lose what we write.
    else if (answer === 'reply' && spec!.name !== 'SET_LOG_BASE') {
      bytes = encodeFailure(spec!, payload);
    }
    if (bytes !== null) {
      this.log(`refused ${label}: ${error.message}`);
      this.send(bytes);
      return;
    }
    // A field of the config space that stays as it was does no harm.
    if (spec?.name === 'SET_CONFIG') this.log(`refused ${label}: ${error.message}`);
    else this.connection.close(error);
  }

  private send(bytes: Uint8Array, fds: readonly Fd[] = []): void {
    this.events.onMessage?.('backEnd', bytes, fds.length);
    this.connection.send(bytes, fds);
  }
}
