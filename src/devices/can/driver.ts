/**
 * The CAN driver: a controller behind any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const onFrame = ({ id, data, length }) => handle(id, data.subarray(0, length));
 * const can = await CanDriver.connect({ path: '/tmp/can.sock', onFrame });
 * await can.start();
 * const frame = new CanFrame();
 * frame.id = 0x123;
 * can.send(frame, (isSent) => report(isSent));
 * ```
 */
import { assert, VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import { CanFrame } from './backend.js';
import {
  CAN_F,
  CAN_FLAG,
  CAN_FLAGS_KNOWN,
  CAN_MESSAGE,
  CAN_RESULT,
  CanConfig,
  CanHeader,
  DATA_SIZE_FD,
  FRAME_MESSAGE_SIZE_MAX,
  STATUS_BUS_OFF,
} from './wire.js';

export interface CanDriverOptions extends DriverOptions {
  /** A frame was received; the object is used again. */
  readonly onFrame?: (frame: CanFrame) => void;
  /** The controller is off the bus, until {@link CanDriver.start}. */
  readonly onBusOff?: () => void;
}

/** What {@link CanDriver.send} tells: the frame was sent, or refused or given up. */
export type SendResult = (isSent: boolean) => void;

/** Entries of each ring, and so buffers for what is received. */
const RING_SIZE = 256;
/** Frames on their way: each takes two entries, for the frame and for its result. */
const SEND_COUNT = RING_SIZE / 2;

// Tokens, and slots in shared memory: received frames, then sent ones, then the control message.
const TX_FIRST = RING_SIZE;
const CONTROL = TX_FIRST + SEND_COUNT;
const SLOT_SIZE = 96;
/** The result of what is sent lies behind the largest frame. */
const RESULT = FRAME_MESSAGE_SIZE_MAX;

const AT = CanHeader.offsets;
const WANTED = CAN_F.CAN_CLASSIC | CAN_F.CAN_FD | CAN_F.RTR_FRAMES | CAN_F.LATE_TX_ACK;

export class CanDriver implements DriverClient {
  /** txq, rxq and controlq. */
  readonly queueCount = 3;
  /** Called for each frame that was received. */
  onFrame: (frame: CanFrame) => void;
  onBusOff: () => void;
  private readonly host: DriverHost;
  private readonly frame = new CanFrame();
  private memory!: SharedBlock;
  private view!: DataView;
  private readonly freeSlots: number[] = [];
  private readonly results: (SendResult | null)[] = new Array<null>(SEND_COUNT).fill(null);
  private readonly sizes = new Uint8Array(SEND_COUNT);
  private controlled: { resolve: () => void; reject: (error: VloError) => void } | null = null;
  private controlTurn: Promise<void> = Promise.resolve();
  private isBusOff = false;

  private constructor(host: DriverHost, options: CanDriverOptions) {
    this.host = host;
    this.onFrame = options.onFrame ?? (() => {});
    this.onBusOff = options.onBusOff ?? (() => {});
    for (let slot = SEND_COUNT - 1; slot >= 0; slot -= 1) this.freeSlots.push(slot);
  }

  /**
   * Connects to a back end. The controller is then stopped.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: CanDriverOptions): Promise<CanDriver> {
    const host = await DriverHost.connect(options, WANTED);
    try {
      const driver = new CanDriver(host, options);
      const size = (CONTROL + 1) * SLOT_SIZE;
      await host.open(
        { count: driver.queueCount, size: RING_SIZE, tableLength: 0, extraBytes: size },
        driver,
      );
      driver.memory = host.allocate(size);
      const { buffer, byteOffset } = driver.memory.bytes;
      driver.view = new DataView(buffer, byteOffset, size);
      for (let token = 0; token < RING_SIZE; token += 1) driver.place(host.rings[1]!, token);
      host.loop.wake();
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /** True when FD frames can be sent and received. */
  get hasFd(): boolean {
    return (this.host.features & CAN_F.CAN_FD) !== 0n;
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /** True while {@link send} takes a frame. */
  get hasRoom(): boolean {
    return this.hasRoomFor(1);
  }

  /** True while it takes so many of them. */
  hasRoomFor(count: number): boolean {
    return this.freeSlots.length >= count;
  }

  /** Joins the bus. @throws VloError VLO_DEVICE_FAILED when the device cannot. */
  start(): Promise<void> {
    return this.control(CAN_MESSAGE.SET_CTRL_MODE_START);
  }

  /** Leaves the bus. @throws VloError VLO_DEVICE_FAILED */
  stop(): Promise<void> {
    return this.control(CAN_MESSAGE.SET_CTRL_MODE_STOP);
  }

  private control(type: number): Promise<void> {
    const turn = this.controlTurn.then(
      () =>
        new Promise<void>((resolve, reject) => {
          if (this.error !== null) throw this.error;
          this.isBusOff = false;
          this.controlled = { resolve, reject };
          this.view.setUint16(CONTROL * SLOT_SIZE, type, true);
          this.place(this.host.rings[2]!, CONTROL);
          this.host.loop.wake();
        }),
    );
    this.controlTurn = turn.catch(() => {});
    return turn;
  }

  /**
   * Sends a frame, a copy of it. @returns false when as many as possible are on their way.
   * @throws VloError VLO_REQUEST_INVALID for more bytes of data than fit into any frame
   */
  send({ id, flags, length, data }: CanFrame, result: SendResult | null = null): boolean {
    if (length > DATA_SIZE_FD) {
      throw new VloError('VLO_REQUEST_INVALID', `${length} bytes of data; ${DATA_SIZE_FD} fit`);
    }
    const slot = this.error === null ? this.freeSlots.pop() : undefined;
    if (slot === undefined) return false;
    const at = (TX_FIRST + slot) * SLOT_SIZE;
    const { view } = this;
    view.setUint16(at + AT.messageType, CAN_MESSAGE.TX, true);
    view.setUint16(at + AT.length, length, true);
    view.setUint32(at + AT.flags, flags, true);
    view.setUint32(at + AT.id, id, true);
    for (let i = 0; i < length; i += 1) this.memory.bytes[at + CanHeader.size + i] = data[i]!;
    this.results[slot] = result;
    this.sizes[slot] = CanHeader.size + length;
    this.place(this.host.rings[0]!, TX_FIRST + slot);
    this.host.loop.wake();
    return true;
  }

  /** @internal */
  place(ring: DriverQueue, token: number): void {
    const address = this.memory.address + token * SLOT_SIZE;
    ring.begin();
    if (token < TX_FIRST) {
      ring.addWritable(address, FRAME_MESSAGE_SIZE_MAX);
    } else {
      const size = token === CONTROL ? 2 : this.sizes[token - TX_FIRST]!;
      this.memory.bytes[token * SLOT_SIZE + RESULT] = CAN_RESULT.NOT_OK;
      ring.addReadable(address, size);
      ring.addWritable(address + RESULT, 1);
    }
    assert(ring.commit(token), 'the ring has no room for a slot');
  }

  /** @internal */
  used(token: number, length: number): void {
    if (token < TX_FIRST) {
      this.received(token, length);
      this.place(this.host.rings[1]!, token);
      return;
    }
    const isOk = length === 1 && this.memory.bytes[token * SLOT_SIZE + RESULT] === CAN_RESULT.OK;
    if (token === CONTROL) {
      const { controlled } = this;
      this.controlled = null;
      if (isOk) controlled!.resolve();
      else controlled!.reject(new VloError('VLO_DEVICE_FAILED', 'the device answered NOT_OK'));
      this.host.loop.yieldSoon();
      return;
    }
    this.end(token - TX_FIRST, isOk);
  }

  private end(slot: number, isSent: boolean): void {
    const result = this.results[slot]!;
    this.results[slot] = null;
    this.freeSlots.push(slot);
    result?.(isSent);
  }

  /** Reads what the device wrote, each part of it once. What makes no sense is left out. */
  private received(token: number, size: number): void {
    const { view, frame, memory } = this;
    const at = token * SLOT_SIZE;
    if (size < CanHeader.size) return;
    const type = view.getUint16(at + AT.messageType, true);
    const length = view.getUint16(at + AT.length, true);
    const flags = view.getUint32(at + AT.flags, true);
    const isRemote = (flags & CAN_FLAG.RTR) !== 0;
    const needed = CanHeader.size + (isRemote ? 0 : length);
    const isKnown = type === CAN_MESSAGE.RX && (flags & ~CAN_FLAGS_KNOWN) === 0;
    if (!isKnown || length > DATA_SIZE_FD || size < needed) return;
    frame.id = view.getUint32(at + AT.id, true);
    frame.flags = flags;
    frame.length = length;
    const start = at + CanHeader.size;
    for (let i = 0; i < length; i += 1) frame.data[i] = isRemote ? 0 : memory.bytes[start + i]!;
    this.onFrame(frame);
  }

  /** @internal */
  configChanged(): void {
    void this.readStatus();
  }

  private async readStatus(): Promise<void> {
    const bytes = await this.host.readConfig(0, CanConfig.size).catch(() => null);
    if (bytes === null) return; // It is gone, which is told elsewhere.
    const isBusOff = (CanConfig.decode(bytes).status & STATUS_BUS_OFF) !== 0;
    if (isBusOff && !this.isBusOff) this.onBusOff();
    this.isBusOff = isBusOff;
  }

  /** @internal */
  failed(error: VloError): void {
    const { controlled } = this;
    this.controlled = null;
    controlled?.reject(error);
    for (let slot = 0; slot < SEND_COUNT; slot += 1) {
      const result = this.results[slot]!;
      this.results[slot] = null;
      result?.(false);
    }
  }

  /** Gives the back end up: what is under way fails, and so does all that follows. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
