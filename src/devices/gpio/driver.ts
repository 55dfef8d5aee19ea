/**
 * The GPIO driver: lines of any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const gpio = await GpioDriver.connect({ path: '/tmp/gpio.sock' });
 * await gpio.setDirection(0, 'out');
 * await gpio.setValue(0, 1);
 * await gpio.watch(1, TRIGGER.BOTH, () => …);
 * await gpio.close();
 * ```
 */
import { assert, VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { DriverLoop } from '../../kit/driver-loop.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import {
  DIRECTION,
  GPIO_F,
  GPIO_MSG,
  GPIO_STATUS,
  GpioConfig,
  GpioIrqRequest,
  GpioRequest,
  GpioResponse,
  IRQ_RESPONSE_SIZE,
  IRQ_STATUS,
  TRIGGER,
} from './wire.js';

/** Requests in flight at a time. */
const SLOT_COUNT = 16;
/** Bytes of a slot: a request, and a response behind it. */
const SLOT_SIZE = 16;
/** Bytes of a line's buffer of eventq: request, and status behind it. */
const EVENT_SIZE = 4;
/** Entries of each queue: a request takes two of them where there are no indirect tables. */
const QUEUE_SIZE_MIN = 2 * SLOT_COUNT;
const QUEUE_SIZE_MAX = 1024;
/** Longest block of names that is asked for: 64 bytes for each of the most lines. */
const NAMES_SIZE_MAX = 2 ** 22;

/** A request that waits for a slot or for its response. */
interface Call {
  readonly type: number;
  readonly line: number;
  readonly value: number;
  readonly resolve: (value: number) => void;
  readonly reject: (error: VloError) => void;
}

/** What was made of a line, to be made of it again by another device process. */
interface LineState {
  direction: number | null;
  output: number | null;
  trigger: number;
  onInterrupt: () => void;
  /** Its buffer is in eventq. */
  isUnmasked: boolean;
}

export class GpioDriver implements DriverClient {
  /** Number of lines. */
  readonly lineCount: number;
  /** A name for each line, empty for none. */
  names: readonly string[];
  private readonly host: DriverHost;
  private readonly lines: LineState[] = [];
  private readonly slots: (Call | null)[] = new Array<Call | null>(SLOT_COUNT).fill(null);
  private readonly waiting: Call[] = [];
  private readonly namesSize: number;
  private memory!: SharedBlock;
  private isOpen = false;

  private constructor(host: DriverHost, config: { ngpio: number; gpioNamesSize: number }) {
    this.host = host;
    this.lineCount = config.ngpio;
    this.namesSize = config.gpioNamesSize;
    this.names = new Array<string>(config.ngpio).fill('');
    for (let i = 0; i < config.ngpio; i += 1) this.lines.push(emptyLine());
  }

  /**
   * Connects to a back end and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: DriverOptions): Promise<GpioDriver> {
    let driver: GpioDriver | null = null;
    const onConnection = (isConnected: boolean): void => {
      if (isConnected) driver?.restore(options.log);
      options.onConnection?.(isConnected);
    };
    const host = await DriverHost.connect({ ...options, onConnection }, GPIO_F.IRQ);
    try {
      const config = GpioConfig.decode(await host.readConfig(0, GpioConfig.size));
      if (config.ngpio === 0 || config.gpioNamesSize > NAMES_SIZE_MAX) {
        const given = `${config.ngpio} lines and ${config.gpioNamesSize} bytes of names`;
        throw new VloError('VLO_PROTOCOL', `the GPIO device says that it has ${given}`);
      }
      driver = new GpioDriver(host, config);
      await driver.open();
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  private async open(): Promise<void> {
    const { host, lineCount, namesSize } = this;
    const count = this.hasInterrupts ? 2 : 1;
    let size = QUEUE_SIZE_MIN;
    while (size < 2 * lineCount && size < QUEUE_SIZE_MAX) size *= 2;
    const bytes = SLOT_COUNT * SLOT_SIZE + lineCount * EVENT_SIZE + 1 + namesSize;
    await host.open({ count, size, tableLength: 2, extraBytes: bytes + 4096 }, this);
    this.memory = host.allocate(bytes);
    this.isOpen = true;
    if (namesSize > 0) await this.readNames();
  }

  private async readNames(): Promise<void> {
    await this.ask(GPIO_MSG.GET_LINE_NAMES, 0, 0);
    const at = this.namesOffset + 1;
    const block = Buffer.from(this.memory.bytes.subarray(at, at + this.namesSize));
    const names = block.toString('latin1').split('\0');
    this.names = this.names.map((_, line) => names[line] ?? '');
  }

  private get namesOffset(): number {
    return SLOT_COUNT * SLOT_SIZE + this.lineCount * EVENT_SIZE;
  }

  /** @internal The loop that publishes what is placed, for whoever brings requests. */
  get loop(): DriverLoop {
    return this.host.loop;
  }

  get queueCount(): number {
    return this.host.rings.length;
  }

  /** True when lines can be watched. */
  get hasInterrupts(): boolean {
    return (this.host.features & GPIO_F.IRQ) !== 0n;
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /** One of DIRECTION. @throws VloError VLO_DEVICE_FAILED, as all of these do; VLO_CLOSED */
  direction(line: number): Promise<number> {
    return this.ask(GPIO_MSG.GET_DIRECTION, line, 0);
  }

  /** What is sensed on the line: 0 or 1. */
  value(line: number): Promise<number> {
    return this.ask(GPIO_MSG.GET_VALUE, line, 0);
  }

  /** Makes the line an input, an output, or gives it back (NONE). */
  async setDirection(line: number, direction: number): Promise<void> {
    await this.ask(GPIO_MSG.SET_DIRECTION, line, direction);
    const state = this.lines[line]!;
    state.direction = direction;
    if (direction === DIRECTION.NONE) Object.assign(state, { output: null, trigger: TRIGGER.NONE });
  }

  /** What an output drives, or will drive when it is one. */
  async setValue(line: number, value: number): Promise<void> {
    await this.ask(GPIO_MSG.SET_VALUE, line, value);
    this.lines[line]!.output = value;
  }

  /** Calls `onInterrupt` at each interrupt; TRIGGER.NONE ends it. */
  async watch(line: number, trigger: number, onInterrupt: () => void = () => {}): Promise<void> {
    if (!this.hasInterrupts) {
      throw new VloError('VLO_BACKEND_FEATURES', 'the device has no interrupts (GPIO_F_IRQ)');
    }
    const state = this.lineState(line);
    if (this.host.rings[1]!.freeCount < 2) {
      throw new VloError('VLO_REQUEST_INVALID', 'no more lines can be watched at a time');
    }
    // The specification has a trigger changed by disabling it first.
    if (state.trigger !== TRIGGER.NONE) await this.ask(GPIO_MSG.SET_IRQ_TYPE, line, TRIGGER.NONE);
    state.trigger = TRIGGER.NONE;
    if (trigger === TRIGGER.NONE) return;
    state.onInterrupt = onInterrupt;
    await this.ask(GPIO_MSG.SET_IRQ_TYPE, line, trigger);
    state.trigger = trigger;
    this.unmask(line);
  }

  /** What the line is watched for: one of TRIGGER. */
  trigger(line: number): number {
    return this.lineState(line).trigger;
  }

  /** Gives the back end up: what is under way fails with `error`, and so does all that follows. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver: what is under way fails with VLO_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private lineState(line: number): LineState {
    const state = this.lines[line];
    if (state !== undefined) return state;
    const range = `there are 0 to ${this.lineCount - 1}`;
    throw new VloError('VLO_REQUEST_INVALID', `there is no line ${line}; ${range}`);
  }

  private async ask(type: number, line: number, value: number): Promise<number> {
    if (this.error !== null) throw this.error;
    this.lineState(line);
    return new Promise<number>((resolve, reject) => {
      this.waiting.push({ type, line, value, resolve, reject });
      this.pump();
    });
  }

  private pump(): void {
    for (let slot = 0; slot < SLOT_COUNT && this.waiting.length > 0; slot += 1) {
      if (this.slots[slot] !== null) continue;
      const call = this.waiting.shift()!;
      this.slots[slot] = call;
      const request = GpioRequest.encode({ type: call.type, gpio: call.line, value: call.value });
      this.memory.bytes.set(request, slot * SLOT_SIZE);
      this.place(this.host.rings[0]!, slot);
      this.host.loop.wake();
    }
  }

  private unmask(line: number): void {
    const state = this.lines[line]!;
    const ring = this.host.rings[1]!;
    if (state.isUnmasked || this.error !== null || ring.freeCount === 0) return;
    state.isUnmasked = true;
    const at = SLOT_COUNT * SLOT_SIZE + line * EVENT_SIZE;
    this.memory.bytes.set(GpioIrqRequest.encode({ gpio: line }), at);
    this.place(ring, SLOT_COUNT + line);
    this.host.loop.wake();
  }

  /** @internal Tokens are slots of requestq, and behind them the lines of eventq. */
  place(ring: DriverQueue, token: number): void {
    const { address } = this.memory;
    ring.begin();
    if (token >= SLOT_COUNT) {
      const at = address + SLOT_COUNT * SLOT_SIZE + (token - SLOT_COUNT) * EVENT_SIZE;
      ring.addReadable(at, GpioIrqRequest.size);
      ring.addWritable(at + GpioIrqRequest.size, IRQ_RESPONSE_SIZE);
    } else {
      const at = address + token * SLOT_SIZE;
      ring.addReadable(at, GpioRequest.size);
      if (this.slots[token]!.type === GPIO_MSG.GET_LINE_NAMES) {
        ring.addWritable(address + this.namesOffset, 1 + this.namesSize);
      } else ring.addWritable(at + GpioRequest.size, GpioResponse.size);
    }
    assert(ring.commit(token), 'the ring has no room for a request');
  }

  /** @internal */
  used(token: number, length: number): void {
    if (token >= SLOT_COUNT) {
      this.interrupted(token - SLOT_COUNT, length);
      return;
    }
    const call = this.slots[token]!;
    this.slots[token] = null;
    const isNames = call.type === GPIO_MSG.GET_LINE_NAMES;
    const at = isNames ? this.namesOffset : token * SLOT_SIZE + GpioRequest.size;
    const size = isNames ? 1 + this.namesSize : GpioResponse.size;
    const [status, value] = [this.memory.bytes[at]!, this.memory.bytes[at + 1]!];
    if (length >= size && status === GPIO_STATUS.OK) call.resolve(value);
    else call.reject(refused(call, length < 1 ? -1 : status));
    this.pump();
    this.host.loop.yieldSoon();
  }

  private interrupted(line: number, length: number): void {
    const state = this.lines[line]!;
    const at = SLOT_COUNT * SLOT_SIZE + line * EVENT_SIZE + GpioIrqRequest.size;
    const isValid = length === IRQ_RESPONSE_SIZE && this.memory.bytes[at] === IRQ_STATUS.VALID;
    state.isUnmasked = false;
    if (state.trigger === TRIGGER.NONE) return;
    if (isValid) state.onInterrupt();
    // What comes back invalid although it is watched comes from a device that was replaced.
    this.unmask(line);
  }

  /** Another device process knows nothing of what the last one was told. */
  private restore(log: (line: string) => void = () => {}): void {
    if (!this.isOpen) return;
    for (const [line, { direction, output, trigger }] of this.lines.entries()) {
      const again: [number, number | null][] = [
        [GPIO_MSG.SET_VALUE, output],
        [GPIO_MSG.SET_DIRECTION, direction],
        [GPIO_MSG.SET_IRQ_TYPE, trigger === TRIGGER.NONE ? null : trigger],
      ];
      for (const [type, value] of again) {
        if (value === null) continue;
        this.ask(type, line, value).catch((error: VloError) => log(error.message));
      }
    }
  }

  /** @internal */
  failed(error: VloError): void {
    const calls = [...this.slots, ...this.waiting];
    this.slots.fill(null);
    this.waiting.length = 0;
    for (const call of calls) call?.reject(error);
  }

  /** @internal */
  configChanged(): void {}
}

const emptyLine = (): LineState => ({
  direction: null,
  output: null,
  trigger: TRIGGER.NONE,
  onInterrupt: () => {},
  isUnmasked: false,
});

function refused({ type, line }: Call, status: number): VloError {
  const name = Object.entries(GPIO_MSG).find(([, known]) => known === type)![0];
  const what = status < 0 ? 'without a status' : `with status ${status}`;
  return new VloError('VLO_DEVICE_FAILED', `${name} of line ${line} was answered ${what}`);
}
