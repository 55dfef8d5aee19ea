/**
 * The front end's side of the back-end channel (section Back-end communication): notifications that
 * the back end sends on the socket of SET_BACKEND_REQ_FD, and their acknowledgements.
 */
import { VloError } from '../errors.js';
import { type Fd, socketPair } from '../native/index.js';
import { decodeRequest, encodeAck, messageLabel, needsReply } from './codec.js';
import { Connection, type IncomingMessage } from './connection.js';
import { backEndMessage } from './messages.js';

/** What the back end tells. */
export interface ChannelEvents {
  onConfigChange(): void;
  onVringCall(index: number): void;
  onVringErr(index: number): void;
  log(line: string): void;
}

export class FrontEndChannel {
  private readonly connection: Connection;
  private readonly events: ChannelEvents;
  private readonly hasReplyAck: boolean;

  private constructor(socket: Fd, hasReplyAck: boolean, events: ChannelEvents) {
    this.hasReplyAck = hasReplyAck;
    this.events = events;
    const role = { requester: 'backEnd', receives: 'request' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => this.handle(message),
      onClose: (error) => {
        if (error !== null && error.code !== 'VLO_DISCONNECTED') {
          events.log(`the back-end channel was closed: ${error.message}`);
        }
      },
    });
  }

  /** Opens a channel. The descriptor returned is for the back end; the caller closes it. */
  static open(
    hasReplyAck: boolean,
    events: ChannelEvents,
  ): { channel: FrontEndChannel; theirs: Fd } {
    const [ours, theirs] = socketPair();
    return { channel: new FrontEndChannel(ours, hasReplyAck, events), theirs };
  }

  close(): void {
    this.connection.close();
  }

  private handle({ header, payload, fds }: IncomingMessage): void {
    let failure: VloError | null = null;
    try {
      this.dispatch(header.request, payload, fds.length);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      failure = error;
    }
    const label = messageLabel('backEnd', header.request);
    if (failure !== null) this.events.log(`refused ${label}: ${failure.message}`);
    if (this.hasReplyAck && needsReply(header)) {
      this.connection.send(encodeAck(header.request, failure === null ? 0 : 1));
    }
  }

  private dispatch(request: number, payload: Uint8Array, fdCount: number): void {
    const name = backEndMessage(request)?.name;
    if (name === 'BACKEND_CONFIG_CHANGE_MSG') {
      decodeRequest(name, payload, fdCount);
      this.events.onConfigChange();
    } else if (name === 'BACKEND_VRING_CALL') {
      this.events.onVringCall(decodeRequest(name, payload, fdCount).index);
    } else if (name === 'BACKEND_VRING_ERR') {
      this.events.onVringErr(decodeRequest(name, payload, fdCount).index);
    } else {
      throw new VloError('VLO_PROTOCOL', 'it is not supported');
    }
  }
}
