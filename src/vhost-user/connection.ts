/**
 * One end of a vhost-user socket: whole messages in and out, with their descriptors.
 *
 *   header (12 bytes) ──► payload (header.size) ──► handler ──► header …
 *
 * Never more is read than the part under way, so descriptors that arrive belong to the message
 * whose bytes they came with. A message is handed over when the one before it is finished with.
 */
import { VloError } from '../errors.js';
import { type Fd, receiveMessage, sendMessage, Watch } from '../native/index.js';
import { decodeHeader, type Header, messageLabel, messageSpec, type Sender } from './codec.js';
import { FDS_MAX, HEADER_BYTES } from './messages-constants.js';

/** Most bytes that wait for a peer which does not read; beyond it is broken or hostile. */
export const SEND_QUEUE_BYTES_MAX = 256 * 1024;
/** Messages taken in one turn of the event loop, so that a chatty peer does not hold it. */
const MESSAGES_PER_TURN = 64;

/** A message as it came. Descriptors that are still in `fds` after its handling are closed. */
export interface IncomingMessage {
  readonly header: Header;
  readonly payload: Uint8Array;
  readonly fds: Fd[];
}

export interface ConnectionHandlers {
  /** Handles a message; the next one is read when the promise is settled. */
  onMessage(message: IncomingMessage): void | Promise<void>;
  /**
   * The connection ended, for whatever reason; called once, after the message being handled is
   * finished with. Null when this end closed it; VLO_DISCONNECTED when the peer did; else what the
   * peer did wrong.
   */
  onClose(error: VloError | null): void;
}

/** Which messages come in over a connection. */
export interface ConnectionRole {
  /** Who sends the requests on this socket. */
  readonly requester: Sender;
  /** What this end receives. */
  readonly receives: 'request' | 'reply';
}

interface Outgoing {
  bytes: Uint8Array;
  /** Duplicates that the queue owns, not yet sent. */
  fds: Fd[];
}

export class Connection {
  private readonly socket: Fd;
  private readonly role: ConnectionRole;
  private readonly handlers: ConnectionHandlers;
  private readonly watch: Watch;
  private readonly headerBytes = new Uint8Array(HEADER_BYTES);
  private header: Header | null = null;
  private part: Uint8Array = this.headerBytes;
  private received = 0;
  private fds: Fd[] = [];
  private queue: Outgoing[] = [];
  private queuedBytes = 0;
  private isHandling = false;
  private closed = false;
  private closeError: VloError | null = null;

  /** Takes over the ownership of `socket`, which has to be non-blocking. */
  constructor(socket: Fd, role: ConnectionRole, handlers: ConnectionHandlers) {
    this.socket = socket;
    this.role = role;
    this.handlers = handlers;
    this.watch = new Watch(socket.number, () => this.ready());
  }

  get isClosed(): boolean {
    return this.closed;
  }

  /**
   * Sends a message: all bytes of it, then the next. The descriptors stay the caller's. A peer that
   * does not read makes messages wait; too many close the connection.
   */
  send(bytes: Uint8Array, fds: readonly Fd[] = []): void {
    if (this.closed) return;
    this.queue.push({ bytes, fds: fds.map((fd) => fd.duplicate()) });
    this.queuedBytes += bytes.length;
    this.flush();
    if (this.queuedBytes > SEND_QUEUE_BYTES_MAX) {
      this.close(new VloError('VLO_PROTOCOL', 'the peer does not read its messages'));
    }
  }

  /** Ends the connection; `onClose` gets the error. Idempotent. */
  close(error: VloError | null = null): void {
    if (this.closed) return;
    this.closed = true;
    this.closeError = error;
    this.watch.close();
    this.socket.close();
    closeAll(this.fds);
    for (const { fds } of this.queue) closeAll(fds);
    this.queue = [];
    if (!this.isHandling) this.handlers.onClose(error);
  }

  private ready(): void {
    if (this.closed) return;
    try {
      this.flush();
      for (let i = 0; i < MESSAGES_PER_TURN && !this.isHandling; i += 1) {
        if (!this.receive()) return;
      }
    } catch (error) {
      this.fail(error);
    }
  }

  /** Moves bytes in until a message is whole and was handed over; false when there are no more. */
  private receive(): boolean {
    while (!this.closed) {
      if (this.received === this.part.length) {
        if (!this.finishPart()) continue;
        return true;
      }
      const size = receiveMessage(this.socket.number, this.part.subarray(this.received), this.fds);
      if (size < 0) return false;
      if (size === 0) {
        const isWhole = this.header === null && this.received === 0;
        const detail = isWhole ? '' : ' in the middle of a message';
        this.close(new VloError('VLO_DISCONNECTED', `the peer closed the connection${detail}`));
        return false;
      }
      this.received += size;
      this.checkFdCount();
    }
    return false;
  }

  /** Ends header or payload; true when a message was handed over. */
  private finishPart(): boolean {
    const { role } = this;
    this.received = 0;
    if (this.header === null) {
      this.header = decodeHeader(this.headerBytes, role.receives, role.requester);
      this.part = new Uint8Array(this.header.size);
      this.checkFdCount();
      return false;
    }
    const message = { header: this.header, payload: this.part, fds: this.fds };
    this.header = null;
    this.part = this.headerBytes;
    this.fds = [];
    this.handOver(message);
    return true;
  }

  /** Refuses descriptors as soon as there are too many: a peer must not make us collect them. */
  private checkFdCount(): void {
    let max = FDS_MAX;
    const { header, role } = this;
    if (header !== null) {
      const spec = messageSpec(role.requester, header.request);
      if (spec !== undefined) {
        max = (role.receives === 'request' ? spec.requestFds : spec.replyFds).max;
      }
    }
    if (this.fds.length <= max) return;
    const label = header === null ? 'a message' : messageLabel(role.requester, header.request);
    throw new VloError(
      'VLO_PROTOCOL',
      `${label}: ${this.fds.length} file descriptors came along; expected at most ${max}`,
    );
  }

  private handOver(message: IncomingMessage): void {
    this.isHandling = true;
    let result: void | Promise<void>;
    try {
      result = this.handlers.onMessage(message);
    } catch (error) {
      this.handled(message);
      throw error;
    }
    if (result === undefined) {
      this.handled(message);
      return;
    }
    if (!this.closed) this.watch.pause();
    result.then(
      () => {
        this.handled(message);
        this.resume();
      },
      (error: unknown) => {
        this.handled(message);
        this.fail(error);
      },
    );
  }

  private handled(message: IncomingMessage): void {
    closeAll(message.fds);
    this.isHandling = false;
    if (this.closed) this.handlers.onClose(this.closeError);
    else if (this.queue.length > 0) this.watch.setWritable(true);
  }

  private resume(): void {
    if (this.closed) return;
    this.watch.setWritable(this.queue.length > 0);
    this.ready(); // Without waiting for the event loop to look again.
  }

  private flush(): void {
    if (this.queue.length === 0) return;
    try {
      this.sendQueued();
    } catch (error) {
      this.fail(error);
      return;
    }
    if (!this.isHandling && !this.closed) this.watch.setWritable(this.queue.length > 0);
  }

  private sendQueued(): void {
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      const fds = first.fds.map((fd) => fd.number);
      const size = sendMessage(this.socket.number, first.bytes, fds);
      if (size === 0) return;
      // The descriptors went with the first byte.
      closeAll(first.fds);
      this.queuedBytes -= size;
      first.bytes = first.bytes.subarray(size);
      if (first.bytes.length === 0) this.queue.shift();
    }
  }

  private fail(error: unknown): void {
    if (error instanceof VloError) {
      this.close(error);
      return;
    }
    this.close(new VloError('VLO_CLOSED', 'a message met a bug of this program'));
    // A bug is nobody's to catch; thrown from here it would be lost in the event loop's callback.
    setImmediate(() => {
      throw error;
    });
  }
}

/** Closes descriptors and empties the list. */
export function closeAll(fds: Fd[]): void {
  for (const fd of fds) fd.close();
  fds.length = 0;
}
