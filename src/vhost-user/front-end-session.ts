/**
 * One connection of a front end: the hand-shake, and what was agreed on.
 *
 *   owner ─► features ─► protocol features ─► queue count ─► channel ─► features ─► status
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import { F, STATUS } from '../virtio/index.js';
import { type ChannelEvents, FrontEndChannel } from './front-end-channel.js';
import { FrontEndLink } from './front-end-link.js';
import {
  PROTOCOL_FEATURE,
  type ProtocolFeature,
  VIRTIO_FEATURE,
  VIRTIO_FEATURE_BIT,
} from './messages-constants.js';

/** What a front end wants of a back end. */
export interface SessionWishes {
  /** Virtio features that are used where they are offered. */
  readonly wanted: bigint;
  /** Virtio features without which there is no session. */
  readonly required: bigint;
  /** After a reconnect: the features in use, which have to be offered again. Null at first. */
  readonly fixed: bigint | null;
  readonly inBand: boolean;
}

/**
 * Protocol features that this front end knows how to use. GPA_ADDRESSES (bit 21) is not among them:
 * back ends of old offer that bit and mean another feature.
 */
const KNOWN: readonly ProtocolFeature[] = [
  'MQ',
  'LOG_SHMFD',
  'REPLY_ACK',
  'BACKEND_REQ',
  'CONFIG',
  'BACKEND_SEND_FD',
  'INFLIGHT_SHMFD',
  'RESET_DEVICE',
  'CONFIGURE_MEM_SLOTS',
  'STATUS',
];

const ACKNOWLEDGED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK;

function featureNames(word: bigint): string {
  const bits = { ...VIRTIO_FEATURE_BIT };
  const names = new Map<number, string>(Object.entries(bits).map(([name, bit]) => [bit, name]));
  for (const [name, mask] of Object.entries(F)) names.set(mask.toString(2).length - 1, name);
  const found: string[] = [];
  for (let bit = 0; bit < 64; bit += 1) {
    if ((word >> BigInt(bit)) & 1n) found.push(names.get(bit) ?? `bit ${bit}`);
  }
  return found.join(', ');
}

export class FrontEndSession {
  readonly link: FrontEndLink;
  /** Virtio features offered, and in use (with PROTOCOL_FEATURES, without LOG_ALL). */
  offered = 0n;
  features = 0n;
  /** Protocol features in use. */
  protocol = 0n;
  /** Queues that the back end has; 256 where it cannot say. */
  queueCount = 256;
  /** Memory regions that can be shared at a time. */
  memorySlots = 8;
  private channel: FrontEndChannel | null = null;

  /** Takes over the socket. Call {@link negotiate} next. */
  constructor(socket: Fd, timeoutMs: number, onClose: (error: VloError | null) => void) {
    this.link = new FrontEndLink(socket, timeoutMs, (error) => {
      this.channel?.close();
      onClose(error);
    });
  }

  has(name: ProtocolFeature): boolean {
    return (this.protocol & PROTOCOL_FEATURE[name]) !== 0n;
  }

  /** True when rings have to be enabled by message. */
  get hasRingEnable(): boolean {
    return (this.features & VIRTIO_FEATURE.PROTOCOL_FEATURES) !== 0n;
  }

  /**
   * The hand-shake.
   * @throws VloError VLO_BACKEND_FEATURES, or as {@link FrontEndLink.request}
   */
  async negotiate(wishes: SessionWishes, events: ChannelEvents): Promise<void> {
    await this.explore(wishes, events);
    await this.sendFeatures();
  }

  /**
   * The hand-shake up to the features, which are chosen and not yet sent: all that a back end tells
   * of itself is known then, and the features in use may still become fewer.
   */
  async explore(wishes: SessionWishes, events: ChannelEvents): Promise<void> {
    const { link } = this;
    link.send('SET_OWNER', {});
    this.offered = await this.word('GET_FEATURES');
    this.chooseFeatures(wishes);
    if (this.hasRingEnable) await this.negotiateProtocol(wishes);
    if (this.has('MQ')) {
      this.queueCount = Number(await this.word('GET_QUEUE_NUM'));
      if (this.queueCount < 1 || this.queueCount > 65535) {
        throw new VloError('VLO_PROTOCOL', `the back end has ${this.queueCount} queues`);
      }
    }
    if (this.has('BACKEND_REQ')) await this.openChannel(events);
    if (this.has('CONFIGURE_MEM_SLOTS')) {
      this.memorySlots = Number(await this.word('GET_MAX_MEM_SLOTS'));
    }
  }

  /** Takes other features into use: those given, and what the messages need. */
  async useFeatures(features: bigint): Promise<void> {
    this.features = features | (this.offered & VIRTIO_FEATURE.PROTOCOL_FEATURES);
    await this.sendFeatures();
  }

  /** Has the device forget its driver, where there is a message for it. All rings are stopped. */
  async resetDevice(): Promise<void> {
    if (this.has('STATUS')) await this.link.ack('SET_STATUS', { value: 0n });
    else if (this.has('RESET_DEVICE')) await this.link.ack('RESET_DEVICE', {});
  }

  /** Sends the features in use, and goes through the device status where it is negotiated. */
  async sendFeatures(): Promise<void> {
    await this.link.ack('SET_FEATURES', { value: this.features });
    if (!this.has('STATUS')) return;
    await this.link.ack('SET_STATUS', { value: BigInt(ACKNOWLEDGED) });
    const status = await this.word('GET_STATUS');
    if ((status & BigInt(STATUS.FEATURES_OK)) !== 0n) return;
    throw new VloError('VLO_BACKEND_REFUSED', 'the back end refused the features');
  }

  /** Tells that the driver is ready. */
  async sendDriverOk(): Promise<void> {
    if (!this.has('STATUS')) return;
    await this.link.ack('SET_STATUS', { value: BigInt(ACKNOWLEDGED | STATUS.DRIVER_OK) });
  }

  /** Asks a question whose answer is one number. */
  async word(
    name:
      | 'GET_FEATURES'
      | 'GET_PROTOCOL_FEATURES'
      | 'GET_QUEUE_NUM'
      | 'GET_MAX_MEM_SLOTS'
      | 'GET_STATUS',
  ): Promise<bigint> {
    return (await this.link.request(name, {})).payload.value;
  }

  /** Ends the connection. Idempotent. */
  close(error: VloError | null = null): void {
    this.link.close(error);
  }

  private chooseFeatures({ wanted, required, fixed }: SessionWishes): void {
    const needed = fixed ?? required;
    const missing = needed & ~this.offered;
    if (missing !== 0n) {
      const again = fixed === null ? '' : ' any more';
      throw new VloError(
        'VLO_BACKEND_FEATURES',
        `the back end does not offer ${featureNames(missing)}${again}`,
      );
    }
    const protocol = this.offered & VIRTIO_FEATURE.PROTOCOL_FEATURES;
    this.features = fixed ?? ((wanted | required) & this.offered) | protocol;
  }

  private async negotiateProtocol({ inBand }: SessionWishes): Promise<void> {
    const offered = await this.word('GET_PROTOCOL_FEATURES');
    let wanted = 0n;
    for (const name of KNOWN) wanted |= PROTOCOL_FEATURE[name];
    if (inBand) wanted |= PROTOCOL_FEATURE.INBAND_NOTIFICATIONS;
    this.protocol = offered & wanted;
    if (inBand) {
      const { INBAND_NOTIFICATIONS, BACKEND_REQ, REPLY_ACK } = PROTOCOL_FEATURE;
      const needed = INBAND_NOTIFICATIONS | BACKEND_REQ | REPLY_ACK;
      if ((this.protocol & needed) !== needed) {
        throw new VloError(
          'VLO_BACKEND_FEATURES',
          'the back end does not offer what in-band notifications need',
        );
      }
    }
    this.link.send('SET_PROTOCOL_FEATURES', { value: this.protocol });
    this.link.protocol = this.protocol;
  }

  private async openChannel(events: ChannelEvents): Promise<void> {
    const { channel, theirs } = FrontEndChannel.open(this.has('REPLY_ACK'), events);
    this.channel = channel;
    try {
      await this.link.ack('SET_BACKEND_REQ_FD', {}, [theirs]);
    } finally {
      theirs.close();
      if (this.link.isClosed) channel.close();
    }
  }
}
