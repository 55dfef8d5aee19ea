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
  type HandlerResult,
  LATER,
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
import { FrameFifo } from './frame-fifo.js';
import {
  CAN_F,
  CAN_FLAG,
  CAN_FLAGS_KNOWN,
  CAN_MESSAGE,
  CAN_RESULT,
  CanConfig,
  CanControl,
  CanHeader,
  DATA_SIZE_CLASSIC,
  DATA_SIZE_FD,
  ID_MAX_EXTENDED,
  ID_MAX_STANDARD,
  STATUS_BUS_OFF,
} from './wire.js';

/** The most frames that can be on their way; more wait in the queue. */
const PENDING_MAX = 256;
/** How long a bus waits for a driver that takes no frames; then they are lost. */
const STALL_MS = 100;
/** How soon a bus that could not be joined is tried again. */
const RETRY_MS = 1000;

export interface CanDeviceOptions {
  readonly setConfig: (bytes: Uint8Array) => void;
  readonly log: (line: string) => void;
}

/** A frame on its way, and the request that waits for it: null once that was answered early. */
interface Slot {
  request: Request | null;
  queue: ServedQueue | null;
  /** The bus has the token, and will name it once more, or is left. */
  isTaken: boolean;
}

/** A controller on a bus. */
export class CanDevice implements CanListener {
  private readonly bus: CanBus;
  private readonly options: CanDeviceOptions;
  private readonly frame = new CanFrame();
  private readonly fifo = new FrameFifo();
  /** Since when a bus waits for room; 0 while none does. */
  private fullAt = 0;
  private readonly slots: Slot[] = [];
  private readonly freeTokens: number[] = [];
  /** The receive queue, while it runs. */
  private rxq: ServedQueue | null = null;
  /** The transmit queue, while it waits for the bus. */
  private waiting: ServedQueue | null = null;
  private timer: NodeJS.Timeout | null = null;
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

  constructor(bus: CanBus, options: CanDeviceOptions) {
    this.bus = bus;
    this.options = options;
    for (let token = PENDING_MAX - 1; token >= 0; token -= 1) {
      this.slots[token] = { request: null, queue: null, isTaken: false };
      this.freeTokens.push(token);
    }
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
      buffersAdded: () => this.deliver(),
      queueStarted: (queue) => this.queueStarted(queue),
      queueStopping: (queue) => this.queueStopping(queue),
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
    this.options.setConfig(this.configBytes());
  }

  private queueStarted(queue: ServedQueue): void {
    if (queue.name === 'rxq') {
      this.rxq = queue;
      this.deliver();
    }
    if (queue.name !== 'controlq' || this.isModeKnown) return;
    if (queue.isFresh) this.setBusOff(false);
    if (queue.isFresh || this.wasStarted === false) this.modeIsKnown();
    else this.goOn();
  }

  private queueStopping(queue: ServedQueue): void {
    if (queue === this.rxq) this.rxq = null;
    else this.cancel(queue);
  }

  /**
   * A driver that goes on after its front end came back, or where another process has left off (a
   * crash, a migration), does not say once more that it has started the controller.
   */
  private goOn(): void {
    this.stopGoingOn();
    if (this.isModeKnown) return;
    if (this.start()) this.modeIsKnown();
    else this.timer = setTimeout(() => this.goOn(), RETRY_MS);
  }

  private stopGoingOn(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private modeIsKnown(): void {
    this.isModeKnown = true;
    this.writable();
  }

  private reset(cause: ResetCause): void {
    this.stopGoingOn();
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
    this.cancel(null);
    for (let token = 0; token < PENDING_MAX; token += 1) this.free(token);
    const { lostCount } = this.fifo;
    if (lostCount > 0) this.options.log(`${lostCount} frames were lost since the start`);
    this.fifo.clear();
    this.fullAt = 0;
    this.writable(); // What waits in the ring is answered now.
  }

  /** Answers what is on its way: of one queue, or of all. */
  private cancel(queue: ServedQueue | null): void {
    for (let token = 0; token < PENDING_MAX; token += 1) {
      const slot = this.slots[token]!;
      if (slot.request !== null && (queue === null || slot.queue === queue)) {
        this.finish(token, CAN_RESULT.NOT_OK);
      }
    }
  }

  private transmit(request: Request, queue: ServedQueue): HandlerResult {
    const { writer } = request;
    if (writer.remaining === 0) throw new DriverFault('request', 'no room for a result');
    // The queues start one by one: what is sent waits for the one that says the mode.
    const isValid = this.isModeKnown && this.isStarted && this.readFrame(request);
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
    const token = this.freeTokens.pop();
    // A ring may be larger than it should be: as good as a bus that is full.
    if (token === undefined) return SEND_FULL;
    const result = this.bus.send(this.frame, token);
    if (result !== SEND_PENDING) {
      this.freeTokens.push(token);
      return result;
    }
    const slot = this.slots[token]!;
    slot.request = request;
    slot.queue = queue;
    slot.isTaken = true;
    return result;
  }

  /** False when the frame is not one that the device takes. */
  private readFrame({ reader }: Request): boolean {
    const { frame } = this;
    if (reader.remaining < CanHeader.size) return false;
    const type = reader.readU16();
    const length = reader.readU16();
    reader.readU32(); // Reserved for the length code of classic CAN, and for CAN XL.
    const flags = reader.readU32();
    const id = reader.readU32();
    if (type !== CAN_MESSAGE.TX || !this.takes(flags)) return false;
    const idMax = (flags & CAN_FLAG.EXTENDED) !== 0 ? ID_MAX_EXTENDED : ID_MAX_STANDARD;
    const lengthMax = (flags & CAN_FLAG.FD) !== 0 ? DATA_SIZE_FD : DATA_SIZE_CLASSIC;
    if (id > idMax || length > lengthMax) return false;
    const isRemote = (flags & CAN_FLAG.RTR) !== 0;
    if (!isRemote && reader.remaining < length) return false;
    frame.id = id;
    frame.flags = flags;
    frame.length = length;
    // What lies behind the data, or is left of the last frame, must not reach the bus.
    const dataSize = isRemote ? 0 : length;
    for (let i = 0; i < dataSize; i += 1) frame.data[i] = reader.readU8();
    frame.data.fill(0, dataSize);
    return true;
  }

  /** A type of frame that was negotiated. */
  private takes(flags: number): boolean {
    if ((flags & ~CAN_FLAGS_KNOWN) !== 0) return false;
    const isFd = (flags & CAN_FLAG.FD) !== 0;
    if ((flags & CAN_FLAG.RTR) !== 0) return this.takesRemote && !isFd;
    return isFd ? this.takesFd : this.takesClassic;
  }

  private finish(token: number, result: number): void {
    const slot = this.slots[token]!;
    const { request, queue } = slot;
    if (request === null) return;
    slot.request = null;
    slot.queue = null;
    request.writer.writeU8(result);
    queue!.complete(request);
  }

  /** The bus names the token no more: only now may it stand for another frame. */
  private free(token: number): void {
    const slot = this.slots[token]!;
    if (!slot.isTaken) return;
    slot.isTaken = false;
    this.freeTokens.push(token);
    if (this.waiting !== null) this.writable(); // There is a token again.
  }

  ended(token: number, isSent: boolean): void {
    this.finish(token, isSent ? CAN_RESULT.OK : CAN_RESULT.NOT_OK);
    this.free(token);
  }

  writable(): void {
    const queue = this.waiting;
    this.waiting = null;
    queue?.resume();
  }

  busOff(): void {
    this.options.log('the controller is off the bus, until the driver starts it again');
    this.stop();
    this.setBusOff(true);
  }

  received(frame: CanFrame): void {
    if (!this.takes(frame.flags)) return;
    const { fifo } = this;
    if (!fifo.push(frame) && fifo.lostCount === 1) {
      this.options.log('frames are lost: the driver does not take them in time');
    }
    this.deliver();
  }

  hasRoomFor(count: number): boolean {
    if (this.fifo.room >= count) return true;
    if (this.fullAt === 0) this.fullAt = performance.now();
    return performance.now() - this.fullAt > STALL_MS;
  }

  /** Hands frames to the driver as long as there are buffers. */
  private deliver(): void {
    const { fifo, rxq: queue } = this;
    while (queue !== null && fifo.count > 0) {
      const buffer = queue.take();
      if (buffer === null) return;
      const isShort = buffer.writer.remaining < fifo.firstSize;
      if (!isShort) {
        fifo.writeFirst(buffer.writer);
        fifo.shift();
        this.fullAt = 0; // A driver that takes frames, however slowly, is waited for.
      }
      queue.complete(buffer);
      if (!isShort) continue;
      const text = `a supplied buffer is smaller than a message of ${fifo.firstSize} bytes`;
      queue.blame(new DriverFault('short', text));
      return;
    }
  }
}
