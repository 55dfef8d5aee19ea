/**
 * The lines of a real chip, `/dev/gpiochipN`. Each line that the driver uses is requested by itself.
 * A chip that goes away (a USB adapter) makes calls fail with ENODEV, and is looked for until it is
 * there again.
 */
import { readdirSync } from 'node:fs';
import { SystemError, VloError } from '../../errors.js';
import {
  ERRNO,
  errnoName,
  GPIO_LINE,
  GpioChipFile,
  type GpioLine,
  Watch,
} from '../../native/index.js';
import type { GpioChip } from './backend.js';
import { DIRECTION, TRIGGER } from './wire.js';

const CONSUMER = 'virtio-loopback';
/** Time in milliseconds between two looks for a chip that is away. */
const RETRY_MS = 500;
/** Lines that the config space can count. */
const LINE_COUNT_MAX = 65535;

/** A line that was requested. */
interface Held {
  readonly line: GpioLine;
  watch: Watch | null;
  flags: number;
}

/** Opens a chip by its path or label. @throws VloError VLO_CHIP_ACCESS */
export function openChip(nameOrPath: string): GpioChipFile {
  if (nameOrPath.startsWith('/')) return openPath(nameOrPath);
  for (const name of chipNames()) {
    const chip = tryOpen(`/dev/${name}`);
    if (chip?.label === nameOrPath || chip?.name === nameOrPath) return chip;
    chip?.close();
  }
  const message = `there is no GPIO chip with the label '${nameOrPath}'; gpiodetect lists them`;
  throw new VloError('VLO_CHIP_ACCESS', message);
}

const chipNames = (): string[] =>
  readdirSync('/dev')
    .filter((name) => /^gpiochip\d+$/.test(name))
    .sort();

function tryOpen(path: string): GpioChipFile | null {
  try {
    return openPath(path);
  } catch (error) {
    if (error instanceof VloError) return null;
    throw error;
  }
}

function openPath(path: string): GpioChipFile {
  try {
    return new GpioChipFile(path);
  } catch (error) {
    const errno = error instanceof SystemError ? 'ENOTTY' : (error as NodeJS.ErrnoException).code;
    const hint =
      errno === 'EACCES'
        ? 'its group may be allowed to open it'
        : errno === 'ENOTTY'
          ? 'it is no GPIO chip'
          : 'gpiodetect lists those that are there';
    throw new VloError('VLO_CHIP_ACCESS', `cannot use '${path}' (${errno}): ${hint}`);
  }
}

export class RealChip implements GpioChip {
  readonly lineCount: number;
  readonly names: readonly string[];
  onEdge: (line: number, isRising: boolean) => void = () => {};
  onReturn: () => void = () => {};
  private readonly place: string;
  private readonly log: (line: string) => void;
  private readonly directions: number[] = [];
  private readonly held = new Map<number, Held>();
  /** Lines whose failure was told, so that it is told once. */
  private readonly refused = new Set<number>();
  private chip: GpioChipFile | null;
  private timer: NodeJS.Timeout | null = null;

  /** @throws VloError VLO_CHIP_ACCESS */
  constructor(place: string, log: (line: string) => void) {
    this.place = place;
    this.log = log;
    const chip = openChip(place);
    this.chip = chip;
    this.lineCount = chip.lineCount;
    if (this.lineCount < 1 || this.lineCount > LINE_COUNT_MAX) {
      chip.close();
      const range = `1 to ${LINE_COUNT_MAX} are possible`;
      throw new VloError('VLO_CHIP_ACCESS', `'${place}' has ${this.lineCount} lines; ${range}`);
    }
    const infos = Array.from({ length: this.lineCount }, (_, line) => chip.info(line));
    const seen = new Set<string>();
    // The specification wants names in ASCII, and each only once.
    this.names = infos.map((info) => {
      const name = (info?.name ?? '').replace(/[^\x20-\x7e]/g, '?');
      if (seen.has(name)) return '';
      seen.add(name);
      return name;
    });
    for (const info of infos) {
      const isOutput = ((info?.flags ?? 0) & GPIO_LINE.OUTPUT) !== 0;
      this.directions.push(isOutput ? DIRECTION.OUT : DIRECTION.IN);
    }
  }

  initialDirection(line: number): number {
    return this.directions[line]!;
  }

  setDirection(line: number, direction: number, value: number): number {
    if (direction === DIRECTION.NONE) {
      this.release(line);
      return 0;
    }
    if (direction === DIRECTION.OUT) return this.configure(line, GPIO_LINE.OUTPUT, value);
    const edges =
      (this.held.get(line)?.flags ?? 0) & (GPIO_LINE.EDGE_RISING | GPIO_LINE.EDGE_FALLING);
    return this.configure(line, GPIO_LINE.INPUT | edges, 0);
  }

  value(line: number): number {
    const held = this.held.get(line);
    if (held !== undefined) return this.checked(held.line.get());
    // Not the driver's: looked at as it is, and left so.
    const borrowed = this.request(line, 0, 0);
    if (typeof borrowed === 'number') return borrowed;
    const value = borrowed.get();
    borrowed.close();
    return this.checked(value);
  }

  setValue(line: number, value: number): number {
    const held = this.held.get(line);
    if (held === undefined) return this.configure(line, GPIO_LINE.OUTPUT, value);
    return this.checked(held.line.set(value));
  }

  watch(line: number, edges: number): number {
    if (edges === TRIGGER.NONE && !this.held.has(line)) return 0;
    const rising = (edges & TRIGGER.RISING) !== 0 ? GPIO_LINE.EDGE_RISING : 0;
    const falling = (edges & TRIGGER.FALLING) !== 0 ? GPIO_LINE.EDGE_FALLING : 0;
    return this.configure(line, GPIO_LINE.INPUT | rising | falling, 0);
  }

  close(): void {
    if (this.timer !== null) clearInterval(this.timer);
    for (const line of [...this.held.keys()]) this.release(line);
    this.chip?.close();
  }

  private request(line: number, flags: number, value: number): GpioLine | number {
    if (this.chip === null) return -ERRNO.ENODEV!;
    const result = this.chip.request(line, flags, value, CONSUMER);
    if (typeof result !== 'number') {
      this.refused.delete(line);
      return result;
    }
    if (result !== -ERRNO.ENODEV! && !this.refused.has(line)) {
      this.refused.add(line);
      const hint = result === -ERRNO.EBUSY! ? ': another program or driver has it' : '';
      this.log(`line ${line} cannot be used (${errnoName(-result)})${hint}`);
    }
    return this.checked(result);
  }

  /** Requests a line, or changes one that was requested. */
  private configure(line: number, flags: number, value: number): number {
    let held = this.held.get(line);
    if (held === undefined) {
      const result = this.request(line, flags, value);
      if (typeof result === 'number') return result;
      held = { line: result, watch: null, flags };
      this.held.set(line, held);
    } else {
      const result = held.line.configure(flags, value);
      if (result < 0) return this.checked(result);
      held.flags = flags;
    }
    const { line: file } = held;
    held.watch ??= new Watch(file.fd, () => this.edges(line, file));
    return 0;
  }

  private edges(line: number, file: GpioLine): void {
    const result = this.checked(file.takeEdges((isRising) => this.onEdge(line, isRising)));
    // Readable for ever: watched on, it would keep the process busy with nothing.
    if (result < 0) this.release(line);
  }

  private release(line: number): void {
    const held = this.held.get(line);
    if (held === undefined) return;
    this.held.delete(line);
    held.watch?.close();
    held.line.close();
  }

  /** Notices that the chip is gone. */
  private checked(result: number): number {
    if (result !== -ERRNO.ENODEV! || this.chip === null) return result;
    this.log(`the chip '${this.place}' is gone; it is waited for`);
    for (const line of [...this.held.keys()]) this.release(line);
    this.chip.close();
    this.chip = null;
    this.timer = setInterval(() => this.look(), RETRY_MS);
    this.timer.unref();
    return result;
  }

  /** Takes the chip again if it is there, and is the same. */
  private look(): void {
    let chip: GpioChipFile;
    try {
      chip = openChip(this.place);
    } catch (error) {
      if (error instanceof VloError) return;
      throw error;
    }
    if (chip.lineCount !== this.lineCount) {
      chip.close();
      return;
    }
    clearInterval(this.timer!);
    this.timer = null;
    this.chip = chip;
    this.log(`the chip '${this.place}' is there again`);
    this.onReturn();
  }
}
