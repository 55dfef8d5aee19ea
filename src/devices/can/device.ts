/**
 * The requests of the CAN device (virtio 1.4, section "CAN Device").
 *
 *   txq:       header (16 bytes) | data               | result (1 byte, writable)
 *   rxq:       (the driver's buffers)                 | header | data
 *   controlq:  message (2 bytes)                      | result
 *
 *               START (the bus can be joined)
 *   STOPPED ──────────────────────────────────► STARTED
 *      ▲  ▲      STOP, reset                       │ │
 *      │  └────────────────────────────────────────┘ │
 *      └──── bus-off: BUSOFF in `status` until START ─┘
 */
import {
  Alarm,
  type DeviceHost,
  type HandlerResult,
  HeldRequests,
  LATER,
  MessageFifo,
  NO_PLACE,
  NOT_NOW,
  type OpenDevice,
  type Request,
  type ResetCause,
  type ServedQueue,
} from '../../kit/index.js';
import { DriverFault } from '../../virtio/index.js';
import {
  type CanBus,
  CanFrame,
  type CanListener,
  SEND_DONE,
  SEND_FAILED,
  SEND_FULL,
  SEND_PENDING,
} from './backend.js';
import { pushFrame, readFrame } from './frame-codec.js';
import {
  CAN_F,
  CAN_FLAG,
  CAN_MESSAGE,
  CAN_RESULT,
  CanConfig,
  CanControl,
  FRAME_MESSAGE_SIZE_MAX,
  STATUS_BUS_OFF,
} from './wire.js';

/** The most frames that can be on their way; more wait in the queue. */
const PENDING_MAX = 256;
/** Received frames that may wait for the driver; as in a controller, more are lost. */
export const FIFO_FRAMES = 1024;
/** How long a bus waits for a driver that takes no frames; then they are lost. */
const STALL_MS = 100;
/** How soon a bus that could not be joined is tried again. */
const RETRY_MS = 1000;

/** A controller on a bus. */
export class CanDevice implements CanListener {
  private readonly bus: CanBus;
  private readonly host: DeviceHost;
  private readonly frame = new CanFrame();
  private readonly fifo = new MessageFifo(FIFO_FRAMES, FRAME_MESSAGE_SIZE_MAX);
  /** Since when a bus waits for room; 0 while none does. */
  private fullAt = 0;
  /** The requests whose frames are on their way, by token. */
  private readonly held = new HeldRequests(PENDING_MAX);
  /** The transmit queue, while it waits for the bus. */
  private waiting: ServedQueue | null = null;
  private readonly retry = new Alarm(() => this.goOn());
  private isStarted = false;
  /** False until the driver has said what it wants the controller to be. */
  private isModeKnown = false;
  /** What the controller was when the front end went away, which may come back; null: unknown. */
  private wasStarted: boolean | null = null;
  private isBusOff = false;
  private takesClassic = false;
  private takesFd = false;
  private takesRemote = false;
  private confirms = false;

  constructor(bus: CanBus, host: DeviceHost) {
    this.bus = bus;
    this.host = host;
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'txq' | 'rxq' | 'controlq'> {
    const fd = this.bus.hasFd ? CAN_F.CAN_FD : 0n;
    return {
      features: CAN_F.CAN_CLASSIC | CAN_F.RTR_FRAMES | CAN_F.LATE_TX_ACK | fd,
      config: this.configBytes(),
      handlers: {
        txq: (request, queue) => this.transmit(request, queue),
        controlq: (request) => this.control(request),
      },
      setFeatures: (features) => this.setFeatures(features),
      supplied: () => this.deliver(),
      queueStarted: (queue) => this.queueStarted(queue),
      queueStopping: (queue) => this.held.answerAll(CAN_RESULT.NOT_OK, queue),
      reset: (cause) => this.reset(cause),
      close: () => this.close(),
    };
  }

  private setFeatures(features: bigint): void {
    this.takesClassic = (features & CAN_F.CAN_CLASSIC) !== 0n;
    this.takesFd = (features & CAN_F.CAN_FD) !== 0n;
    this.takesRemote = this.takesClassic && (features & CAN_F.RTR_FRAMES) !== 0n;
    this.confirms = (features & CAN_F.LATE_TX_ACK) !== 0n;
  }

  private configBytes(): Uint8Array {
    return CanConfig.encode({ status: this.isBusOff ? STATUS_BUS_OFF : 0 });
  }

  private setBusOff(isBusOff: boolean): void {
    if (this.isBusOff === isBusOff) return;
    this.isBusOff = isBusOff;
    this.host.setConfig(this.configBytes());
  }

  private queueStarted(queue: ServedQueue): void {
    if (queue.name !== 'controlq' || this.isModeKnown) return;
    if (queue.isFresh) this.setBusOff(false);
    if (queue.isFresh || this.wasStarted === false) this.modeIsKnown();
    else this.goOn();
  }

  /**
   * A driver that goes on after its front end came back, or where another process has left off (a
   * crash, a migration), does not say once more that it has started the controller.
   */
  private goOn(): void {
    if (this.start()) this.modeIsKnown();
    else this.retry.set(RETRY_MS);
  }

  private modeIsKnown(): void {
    this.retry.clear();
    this.isModeKnown = true;
    this.writable();
  }

  private reset(cause: ResetCause): void {
    this.retry.clear();
    const mayGoOn = cause === 'disconnect';
    if (!mayGoOn) this.wasStarted = null;
    else if (this.isModeKnown) this.wasStarted = this.isStarted;
    this.stop();
    this.isModeKnown = false;
    if (!mayGoOn) this.setBusOff(false);
  }

  private close(): void {
    this.reset('driver');
    this.bus.close();
  }

  private control({ reader, writer }: Request): undefined {
    if (writer.remaining === 0) throw new DriverFault('request', 'no room for a result');
    const isWhole = reader.remaining >= CanControl.size;
    const type = isWhole ? reader.readU16() : 0;
    let isOk = type === CAN_MESSAGE.SET_CTRL_MODE_STOP;
    if (type === CAN_MESSAGE.SET_CTRL_MODE_START) isOk = this.start();
    else if (isOk) this.stop();
    // Config space is up to date before the driver hears of the change.
    if (isOk) this.setBusOff(false);
    if (isOk) this.modeIsKnown();
    writer.writeU8(isOk ? CAN_RESULT.OK : CAN_RESULT.NOT_OK);
  }

  private start(): boolean {
    if (this.isStarted) return true;
    if (!this.takesClassic && !this.takesFd) return false;
    this.isStarted = this.bus.join(this, this.confirms);
    return this.isStarted;
  }

  private stop(): void {
    if (!this.isStarted) return;
    this.isStarted = false;
    this.bus.leave();
    this.held.answerAll(CAN_RESULT.NOT_OK);
    this.held.releaseAll(); // A bus that was left names no token any more.
    const { lostCount } = this.fifo;
    if (lostCount > 0) this.host.log(`${lostCount} frames were lost since the start`);
    this.fifo.clear();
    this.fullAt = 0;
    this.writable(); // What waits in the ring is answered now.
  }

  private transmit(request: Request, queue: ServedQueue): HandlerResult {
    const { writer } = request;
    if (writer.remaining === 0) throw new DriverFault('request', 'no room for a result');
    // The queues start one by one: what is sent waits for the one that says the mode.
    const isValid = this.isModeKnown && this.isStarted && this.read(request);
    const otherwise = this.isModeKnown ? SEND_FAILED : SEND_FULL;
    const result = isValid ? this.send(request, queue) : otherwise;
    if (result === SEND_PENDING) return LATER;
    if (result === SEND_FULL) {
      this.waiting = queue;
      return NOT_NOW;
    }
    writer.writeU8(result === SEND_DONE ? CAN_RESULT.OK : CAN_RESULT.NOT_OK);
    return undefined;
  }

  private send(request: Request, queue: ServedQueue): number {
    const token = this.held.claim();
    // A ring may be larger than it should be: as good as a bus that is full.
    if (token === NO_PLACE) return SEND_FULL;
    const result = this.bus.send(this.frame, token);
    if (result === SEND_PENDING) this.held.hold(token, request, queue);
    else this.held.release(token);
    return result;
  }

  /** False when the frame is not one that the device takes. */
  private read({ reader }: Request): boolean {
    return readFrame(reader, this.frame) && this.takes(this.frame.flags);
  }

  /** A type of frame that was negotiated. */
  private takes(flags: number): boolean {
    const isFd = (flags & CAN_FLAG.FD) !== 0;
    if ((flags & CAN_FLAG.RTR) !== 0) return this.takesRemote && !isFd;
    return isFd ? this.takesFd : this.takesClassic;
  }

  ended(token: number, isSent: boolean): void {
    this.held.answer(token, isSent ? CAN_RESULT.OK : CAN_RESULT.NOT_OK);
    this.held.release(token); // Only now may it stand for another frame.
    if (this.waiting !== null) this.writable(); // There is a token again.
  }

  writable(): void {
    const queue = this.waiting;
    this.waiting = null;
    queue?.resume();
  }

  busOff(): void {
    this.host.log('the controller is off the bus, until the driver starts it again');
    this.stop();
    this.setBusOff(true);
  }

  received(frame: CanFrame): void {
    if (!this.takes(frame.flags)) return;
    const { fifo } = this;
    if (!pushFrame(fifo, frame) && fifo.lostCount === 1) {
      this.host.log('frames are lost: the driver does not take them in time');
    }
    this.deliver();
  }

  hasRoomFor(count: number): boolean {
    if (this.fifo.room >= count) return true;
    if (this.fullAt === 0) this.fullAt = performance.now();
    return performance.now() - this.fullAt > STALL_MS;
  }

  private deliver(): void {
    // A driver that takes frames, however slowly, is waited for.
    if (this.fifo.deliverTo(this.host.queue('rxq')) > 0) this.fullAt = 0;
  }
}
