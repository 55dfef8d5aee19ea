/**
 * The front end's socket: requests out, replies matched to them.
 *
 * Replies carry no number, so they answer the requests in the order of sending. A back end that
 * does not answer in time is cut off: a late reply would be taken for the answer to something else.
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import { answerTo, checkReplyHeader, decodeReply, encodeRequest } from './codec.js';
import { Connection, closeAll, type IncomingMessage } from './connection.js';
import type { FrontEndMessage, Payload, ReplyPayload } from './messages.js';
import { FRONT_END_MESSAGES } from './messages.js';
import { HEADER_FLAGS } from './messages-constants.js';

/** A reply: its payload, and the descriptors that came with it, which are the caller's. */
export interface Reply<N extends FrontEndMessage> {
  readonly payload: ReplyPayload<N>;
  readonly fds: Fd[];
}

interface Pending {
  readonly name: FrontEndMessage;
  readonly isAck: boolean;
  readonly timer: NodeJS.Timeout;
  resolve(reply: { payload: unknown; fds: Fd[] }): void;
  reject(error: VloError): void;
}

export class FrontEndLink {
  /** Negotiated protocol features: they say what is answered. */
  protocol = 0n;
  private readonly connection: Connection;
  private readonly timeoutMs: number;
  private readonly pending: Pending[] = [];
  private readonly onClose: (error: VloError | null) => void;
  private closeError: VloError | null = null;

  /**
   * Takes over the connected, non-blocking socket.
   * @param onClose called once when the connection has ended; null when this end closed it.
   */
  constructor(socket: Fd, timeoutMs: number, onClose: (error: VloError | null) => void) {
    this.timeoutMs = timeoutMs;
    this.onClose = onClose;
    const role = { requester: 'frontEnd', receives: 'reply' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => this.answered(message),
      onClose: (error) => this.closed(error),
    });
  }

  get isClosed(): boolean {
    return this.connection.isClosed;
  }

  /** Sends a request whose success nobody waits for. The descriptors stay the caller's. */
  send<N extends FrontEndMessage>(name: N, payload: Payload<N>, fds: readonly Fd[] = []): void {
    this.connection.send(encodeRequest(name, payload), fds);
  }

  /**
   * Sends a request that has a reply of its own.
   * @throws VloError VLO_TIMEOUT, VLO_DISCONNECTED or VLO_PROTOCOL
   */
  request<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[] = [],
  ): Promise<Reply<N>> {
    return this.transmit(name, payload, fds, false) as Promise<Reply<N>>;
  }

  /**
   * Sends a request and waits until the back end has carried it out. Without REPLY_ACK nobody can
   * know: the reply to a harmless question then shows that the request was taken.
   * @throws VloError VLO_BACKEND_REFUSED, or as {@link request}
   */
  async ack<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[] = [],
  ): Promise<void> {
    const spec = FRONT_END_MESSAGES[name];
    const header = { request: spec.id, flags: HEADER_FLAGS.NEED_REPLY, size: 0 };
    const answer = answerTo(spec, header, this.protocol);
    if (answer === 'none') {
      this.send(name, payload, fds);
      await this.request('GET_FEATURES', {});
      return;
    }
    const reply = await this.transmit(name, payload, fds, answer === 'ack');
    closeAll(reply.fds);
    if (answer !== 'ack') return;
    const { value } = reply.payload as { value: bigint };
    if (value === 0n) return;
    throw new VloError('VLO_BACKEND_REFUSED', `the back end refused ${name} (${value})`);
  }

  /** Ends the connection: whoever waits for a reply gets the error. Idempotent. */
  close(error: VloError | null = null): void {
    this.closeError ??= error;
    this.connection.close(error);
  }

  private transmit<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[],
    isAck: boolean,
  ): Promise<{ payload: unknown; fds: Fd[] }> {
    if (this.isClosed) return Promise.reject(this.gone());
    const flags = isAck ? HEADER_FLAGS.NEED_REPLY : 0;
    const bytes = encodeRequest(name, payload, flags);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.expired(name), this.timeoutMs);
      this.pending.push({ name, isAck, timer, resolve, reject });
      this.connection.send(bytes, fds);
    });
  }

  private expired(name: FrontEndMessage): void {
    this.close(
      new VloError('VLO_TIMEOUT', `the back end did not answer ${name} in ${this.timeoutMs} ms`),
    );
  }

  private answered({ header, payload, fds }: IncomingMessage): void {
    const [first] = this.pending;
    if (first === undefined) {
      throw new VloError('VLO_PROTOCOL', `a reply (${header.request}) that nobody asked for`);
    }
    checkReplyHeader(first.name, header);
    const { name, isAck } = first;
    // An acknowledgement has the same layout whatever it acknowledges.
    const value = decodeReply(isAck ? 'GET_FEATURES' : name, payload, fds.length);
    this.pending.shift();
    clearTimeout(first.timer);
    first.resolve({ payload: value, fds: fds.splice(0) });
  }

  private closed(error: VloError | null): void {
    this.closeError ??= error;
    for (const { timer, reject } of this.pending.splice(0)) {
      clearTimeout(timer);
      reject(this.gone());
    }
    this.onClose(error);
  }

  private gone(): VloError {
    return this.closeError ?? new VloError('VLO_CLOSED', 'the connection was closed');
  }
}
