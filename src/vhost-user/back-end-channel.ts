/**
 * The back end's requests to the front end (section Back-end communication), on the socket that
 * SET_BACKEND_REQ_FD gave.
 *
 * A notification that has not been answered yet is not sent again at once: another one is due when
 * the answer comes. So a front end that is slow, or never answers, costs no memory.
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import { encodeRequest } from './codec.js';
import { Connection, type IncomingMessage } from './connection.js';
import type { BackEndMessage, Payload } from './messages.js';
import { BACK_END_MESSAGES } from './messages.js';
import { HEADER_FLAGS } from './messages-constants.js';

/** A kind of notification, for one ring or for the device. */
interface Notification {
  readonly id: number;
  readonly bytes: Uint8Array;
  isPending: boolean;
  /** It is due once more when the pending one is answered. */
  isDue: boolean;
}

export class BackEndChannel {
  private readonly connection: Connection;
  private readonly wantsReplies: boolean;
  private readonly log: (line: string) => void;
  private readonly notifications = new Map<string, Notification>();
  private readonly pending: Notification[] = [];

  /**
   * Takes the socket over.
   * @param wantsReplies REPLY_ACK is negotiated: every message asks how it went.
   */
  constructor(socket: Fd, wantsReplies: boolean, log: (line: string) => void) {
    this.wantsReplies = wantsReplies;
    this.log = log;
    const role = { requester: 'backEnd', receives: 'reply' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => this.answered(message),
      onClose: (error) => {
        if (error !== null && error.code !== 'VLO_DISCONNECTED') {
          this.log(`back-end channel closed: ${error.message}`);
        }
      },
    });
  }

  /** The config space has changed. */
  configChanged(): void {
    this.notify('config', 'BACKEND_CONFIG_CHANGE_MSG', {});
  }

  /** Requests of a ring were completed, and the front end has no call descriptor. */
  vringCall(index: number): void {
    this.notify(`call ${index}`, 'BACKEND_VRING_CALL', { index, num: 0 });
  }

  /** A ring is broken, and the front end has no error descriptor. */
  vringErr(index: number): void {
    this.notify(`err ${index}`, 'BACKEND_VRING_ERR', { index, num: 0 });
  }

  close(): void {
    this.connection.close();
  }

  private notify<N extends BackEndMessage>(key: string, name: N, payload: Payload<N>): void {
    let notification = this.notifications.get(key);
    if (notification === undefined) {
      const flags = this.wantsReplies ? HEADER_FLAGS.NEED_REPLY : 0;
      const bytes = encodeRequest(name, payload, flags);
      const { id } = BACK_END_MESSAGES[name];
      notification = { id, bytes, isPending: false, isDue: false };
      this.notifications.set(key, notification);
    }
    if (notification.isPending) notification.isDue = true;
    else this.send(notification);
  }

  private send(notification: Notification): void {
    notification.isDue = false;
    if (this.wantsReplies) {
      notification.isPending = true;
      this.pending.push(notification);
    }
    this.connection.send(notification.bytes);
  }

  private answered({ header, payload }: IncomingMessage): void {
    const notification = this.pending.shift();
    if (notification === undefined || notification.id !== header.request) {
      throw new VloError('VLO_PROTOCOL', `a reply to request ${header.request} that was not sent`);
    }
    if (payload.some((byte) => byte !== 0)) {
      this.log(`the front end refused request ${header.request} of the back-end channel`);
    }
    notification.isPending = false;
    if (notification.isDue) this.send(notification);
  }
}
