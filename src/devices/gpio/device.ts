/**
 * The requests and interrupts of the GPIO device (virtio 1.3, sections 5.16.6 and 5.16.7).
 *
 *   requestq:  readable type, line, value | writable status, value
 *   eventq:    readable line              | writable status
 *
 * A buffer in eventq unmasks the interrupt of its line; it goes back when the interrupt comes, and
 * so masks it again. An edge that comes meanwhile is latched, a level is looked at when unmasked.
 */
import {
  HeldRequests,
  LATER,
  type OpenDevice,
  type Request,
  type ServedQueue,
} from '../../kit/index.js';
import { DriverFault } from '../../virtio/index.js';
import type { GpioChip } from './backend.js';
import type { LineStore } from './line-store.js';
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

const { OK, ERR } = GPIO_STATUS;
const IS_TRIGGER = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 8);

/** What the driver made of a line. */
class Line {
  direction: number;
  /** The driver has set the direction: the line is its own. */
  isActive = false;
  /** What the line is to drive, as soon as it is an output. */
  output = 0;
  trigger: number = TRIGGER.NONE;
  /** An edge came while the interrupt was masked. */
  isLatched = false;
  /** A buffer came before its interrupt was enabled, and went back. */
  isWarned = false;

  constructor(direction: number) {
    this.direction = direction;
  }
}

export class GpioDevice {
  private readonly chip: GpioChip;
  private readonly lines: Line[] = [];
  /** The buffers by which interrupts are unmasked, by line. */
  private readonly buffers: HeldRequests;
  private readonly names: Uint8Array;
  private readonly store: LineStore | null;
  private hasInterrupts = false;

  /** With a store, the lines are what a predecessor's driver has made of them. */
  constructor(chip: GpioChip, store: LineStore | null = null) {
    this.chip = chip;
    this.store = store;
    this.buffers = new HeldRequests(chip.lineCount);
    for (let i = 0; i < chip.lineCount; i += 1) {
      const line = new Line(chip.initialDirection(i));
      this.lines.push(Object.assign(line, store?.load(i)));
    }
    this.names = encodeNames(chip.names);
    chip.onEdge = (line, isRising) => this.edge(line, isRising);
    chip.onReturn = () => this.restore();
    if (store !== null) this.restore();
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'requestq' | 'eventq'> {
    const { chip, names, store } = this;
    return {
      features: GPIO_F.IRQ,
      config: GpioConfig.encode({ ngpio: chip.lineCount, gpioNamesSize: names.length }),
      handlers: {
        requestq: (request) => this.serve(request),
        eventq: (request, queue) => this.unmask(request, queue),
      },
      setFeatures: (features) => {
        this.hasInterrupts = (features & GPIO_F.IRQ) !== 0n;
      },
      queueStopping: (queue) => this.buffers.answerAll(IRQ_STATUS.INVALID, queue),
      reset: (cause) => {
        this.hasInterrupts = false;
        // The driver may live, and come back by another front end.
        if (cause === 'driver' || store === null) this.reset();
      },
      close: () => {
        store?.close();
        return chip.close();
      },
    };
  }

  private serve({ reader, writer }: Request): undefined {
    if (writer.remaining < GpioResponse.size) {
      throw new DriverFault('short', 'a GPIO request without room for its response');
    }
    if (reader.remaining < GpioRequest.size) {
      throw new DriverFault('short', `a GPIO request of ${reader.remaining} bytes`);
    }
    const type = reader.readU16();
    const index = reader.readU16();
    const value = reader.readU32();
    const line = this.lines[index];
    let result = -1;
    if (type === GPIO_MSG.GET_LINE_NAMES) {
      if (this.names.length > 0 && writer.remaining > this.names.length) {
        writer.writeU8(OK);
        writer.write(this.names);
        return;
      }
    } else if (line !== undefined) {
      result = this.answer(type, index, line, value);
    }
    writer.writeU8(result < 0 ? ERR : OK);
    writer.writeU8(Math.max(result, 0));
  }

  /** The value of a response; below 0 for a failure. */
  private answer(type: number, index: number, line: Line, value: number): number {
    if (type === GPIO_MSG.GET_VALUE) return this.chip.value(index);
    if (type === GPIO_MSG.GET_DIRECTION) return line.direction;
    let result = -1;
    if (type === GPIO_MSG.SET_VALUE) result = this.setValue(index, line, value);
    if (type === GPIO_MSG.SET_DIRECTION) result = this.setDirection(index, line, value);
    if (type === GPIO_MSG.SET_IRQ_TYPE) result = this.setTrigger(index, line, value);
    if (result >= 0) this.store?.save(index, line);
    return result;
  }

  private setValue(index: number, line: Line, value: number): number {
    if (value > 1) return -1;
    // A line that is no output yet drives the value from when it is one.
    const isDriven = line.isActive && line.direction === DIRECTION.OUT;
    const result = isDriven ? this.chip.setValue(index, value) : 0;
    if (result >= 0) line.output = value;
    return result;
  }

  private setDirection(index: number, line: Line, direction: number): number {
    if (direction === DIRECTION.NONE) return this.release(index, line);
    if (direction !== DIRECTION.IN && direction !== DIRECTION.OUT) return -1;
    if (direction === DIRECTION.OUT && line.trigger !== TRIGGER.NONE) return -1;
    const result = this.chip.setDirection(index, direction, line.output);
    if (result < 0) return result;
    line.direction = direction;
    line.isActive = true;
    return 0;
  }

  /** Forgets all of a line: also where its chip is gone. */
  private release(index: number, line: Line): number {
    this.disable(index, line);
    this.chip.setDirection(index, DIRECTION.NONE, 0);
    line.direction = DIRECTION.NONE;
    line.isActive = false;
    line.output = 0;
    return 0;
  }

  private setTrigger(index: number, line: Line, trigger: number): number {
    if (!this.hasInterrupts || trigger > TRIGGER.LOW || ((IS_TRIGGER >> trigger) & 1) === 0) {
      return -1;
    }
    if (trigger === TRIGGER.NONE) {
      this.disable(index, line);
      return 0;
    }
    if (line.direction === DIRECTION.OUT) return -1;
    const result = this.chip.watch(index, edgesOf(trigger));
    if (result < 0) return result;
    line.trigger = trigger;
    line.isLatched = false;
    line.isWarned = false;
    this.deliver(index, line);
    return 0;
  }

  private disable(index: number, line: Line): void {
    if (line.trigger !== TRIGGER.NONE) this.chip.watch(index, TRIGGER.NONE);
    line.trigger = TRIGGER.NONE;
    line.isLatched = false;
    line.isWarned = false;
    this.buffers.answer(index, IRQ_STATUS.INVALID);
  }

  /** A buffer of eventq. */
  private unmask(request: Request, queue: ServedQueue): typeof LATER | undefined {
    const { reader, writer } = request;
    if (reader.remaining < GpioIrqRequest.size || writer.remaining < IRQ_RESPONSE_SIZE) {
      throw new DriverFault('short', 'a buffer for an interrupt is too short');
    }
    const index = reader.readU16();
    const line = this.lines[index];
    const isEarly = line !== undefined && line.trigger === TRIGGER.NONE && !line.isWarned;
    if (line === undefined || this.buffers.isHeld(index) || isEarly) {
      // An early one goes back only once: a driver that does not know that its interrupt is off
      // (this process was replaced) would bring it again, and again.
      if (isEarly) line.isWarned = true;
      writer.writeU8(IRQ_STATUS.INVALID);
      return undefined;
    }
    this.buffers.hold(index, request, queue);
    this.deliver(index, line);
    return LATER;
  }

  private edge(index: number, isRising: boolean): void {
    const line = this.lines[index]!;
    const wanted = isRising ? TRIGGER.RISING : TRIGGER.FALLING;
    if ((line.trigger & wanted) !== 0) line.isLatched = true;
    this.deliver(index, line);
  }

  /** Gives the interrupt to the driver, if there is one and it is unmasked. */
  private deliver(index: number, line: Line): void {
    if (!this.buffers.isHeld(index) || line.trigger === TRIGGER.NONE) return;
    const isLevel = (line.trigger & (TRIGGER.HIGH | TRIGGER.LOW)) !== 0;
    const active = line.trigger === TRIGGER.HIGH ? 1 : 0;
    if (isLevel ? this.chip.value(index) !== active : !line.isLatched) return;
    line.isLatched = false;
    this.buffers.answer(index, IRQ_STATUS.VALID);
  }

  /** The driver has nothing any more: the lines are as they were. */
  private reset(): void {
    for (const [index, line] of this.lines.entries()) {
      this.release(index, line);
      line.direction = this.chip.initialDirection(index);
      this.store?.save(index, line);
    }
  }

  /** The chip, or this process, knows of nothing: what the driver has set is set again. */
  private restore(): void {
    for (const [index, line] of this.lines.entries()) {
      const { direction, trigger, output } = line;
      if (line.isActive) this.chip.setDirection(index, direction, output);
      if (trigger === TRIGGER.NONE) continue;
      this.chip.watch(index, edgesOf(trigger));
      this.deliver(index, line);
    }
  }
}

/** A level is seen by both of its edges. */
const edgesOf = (trigger: number): number =>
  (trigger & TRIGGER.BOTH) === 0 ? TRIGGER.BOTH : trigger;

/** Zero-terminated names of all lines; nothing where no line has one. */
function encodeNames(names: readonly string[]): Uint8Array {
  if (names.every((name) => name === '')) return new Uint8Array(0);
  return Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1');
}
