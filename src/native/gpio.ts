/**
 * GPIO character devices, by version 2 of their ABI (linux/gpio.h). Failures of what is done while
 * a chip works are values (negative errno), as on any data path.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, ERRNO, lastErrno, libc, retry } from './libc.js';

const GET_CHIPINFO = 0x8044b401;
const GET_LINEINFO = 0xc100b405;
const GET_LINE = 0xc250b407;
const SET_CONFIG = 0xc110b40d;
const GET_VALUES = 0xc010b40e;
const SET_VALUES = 0xc010b40f;

/** Flags of a line. */
export const GPIO_LINE = {
  USED: 1,
  INPUT: 4,
  OUTPUT: 8,
  EDGE_RISING: 16,
  EDGE_FALLING: 32,
} as const;

const NAME_SIZE = 32;
/** Bytes of `struct gpio_v2_line_request`, and where its members lie. */
const REQUEST = { size: 592, consumer: 256, config: 288, lineCount: 560, fd: 588 } as const;
/** Where the members of `struct gpio_v2_line_config` lie: one attribute has the output's value. */
const CONFIG = { size: 272, flags: 0, attributeCount: 8, id: 32, value: 40, mask: 48 } as const;
const ATTRIBUTE_OUTPUT_VALUES = 2;
const EVENT_SIZE = 48;
const EVENT_COUNT = 16;
const EVENT_RISING = 1;

const scratch = new NativeBuffer(4096);
/** Events are read here. */
const EVENTS = 2048;

function text(at: number): string {
  const bytes = scratch.bytes.slice(at, at + NAME_SIZE);
  const end = bytes.indexOf(0);
  return Buffer.from(bytes.subarray(0, end < 0 ? NAME_SIZE : end)).toString('latin1');
}

function call(fd: number, request: number): number {
  const result = retry(() => libc.ioctl(fd, request, scratch.address));
  return result >= 0 ? 0 : -lastErrno();
}

/** Writes a `struct gpio_v2_line_config` for one line. */
function writeConfig(at: number, flags: number, value: number): void {
  scratch.bytes.fill(0, at, at + CONFIG.size);
  scratch.setU64(at + CONFIG.flags, flags);
  if ((flags & GPIO_LINE.OUTPUT) === 0) return;
  scratch.u32[(at + CONFIG.attributeCount) >> 2] = 1;
  scratch.u32[(at + CONFIG.id) >> 2] = ATTRIBUTE_OUTPUT_VALUES;
  scratch.setU64(at + CONFIG.value, value);
  scratch.setU64(at + CONFIG.mask, 1);
}

/** What the kernel says of a line. */
export interface GpioLineInfo {
  readonly name: string;
  /** {@link GPIO_LINE} flags. */
  readonly flags: number;
}

/** An open `/dev/gpiochipN`. */
export class GpioChipFile {
  readonly name: string;
  readonly label: string;
  readonly lineCount: number;
  private readonly fd: Fd;

  /** @throws SystemError when it is no GPIO chip, an error of node:fs when it cannot be opened */
  constructor(path: string) {
    const fd = openSync(path, constants.O_RDWR);
    try {
      check(libc.ioctl(fd, GET_CHIPINFO, scratch.address), 'GPIO_GET_CHIPINFO', path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.fd = new Fd(fd);
    this.name = text(0);
    this.label = text(NAME_SIZE);
    this.lineCount = scratch.u32[(2 * NAME_SIZE) >> 2]!;
  }

  /** What is known of a line; null when the chip is gone. */
  info(line: number): GpioLineInfo | null {
    scratch.bytes.fill(0, 0, 256);
    scratch.u32[(2 * NAME_SIZE) >> 2] = line;
    if (call(this.fd.number, GET_LINEINFO) < 0) return null;
    return { name: text(0), flags: scratch.u32[72 >> 2]! };
  }

  /** Takes a line; flags without a direction leave it as it is. @returns it, or an errno below 0 */
  request(line: number, flags: number, value: number, consumer: string): GpioLine | number {
    scratch.bytes.fill(0, 0, REQUEST.size);
    scratch.u32[0] = line;
    const label = Buffer.from(consumer, 'latin1').subarray(0, NAME_SIZE - 1);
    scratch.bytes.set(label, REQUEST.consumer);
    scratch.u32[REQUEST.lineCount >> 2] = 1;
    writeConfig(REQUEST.config, flags, value);
    const result = call(this.fd.number, GET_LINE);
    return result < 0 ? result : new GpioLine(new Fd(scratch.i32[REQUEST.fd >> 2]!));
  }

  close(): void {
    this.fd.close();
  }
}

/** A line that this process has. */
export class GpioLine {
  private readonly file: Fd;

  /** @internal */
  constructor(file: Fd) {
    this.file = file;
    file.setNonBlocking();
  }

  /** Readable when there are events. */
  get fd(): number {
    return this.file.number;
  }

  /** Changes direction and edges. @returns 0 or a negative errno, as all of these */
  configure(flags: number, value: number): number {
    writeConfig(0, flags, value);
    return call(this.fd, SET_CONFIG);
  }

  /** 0, 1, or a negative errno. */
  get(): number {
    scratch.setU64(0, 0);
    scratch.setU64(8, 1);
    const result = call(this.fd, GET_VALUES);
    return result < 0 ? result : scratch.u32[0]! & 1;
  }

  set(value: number): number {
    scratch.setU64(0, value);
    scratch.setU64(8, 1);
    return call(this.fd, SET_VALUES);
  }

  /**
   * Takes the edges that are there: `onEdge` is called for each, in order. What it does may use
   * lines, but not take edges.
   * @returns how many, or a negative errno: -ENODEV when the chip is gone
   */
  takeEdges(onEdge: (isRising: boolean) => void): number {
    const size = EVENT_SIZE * EVENT_COUNT;
    const result = libc.read(this.fd, scratch.address + EVENTS, size);
    if (result < 0) {
      const errno = lastErrno();
      return errno === ERRNO.EAGAIN || errno === ERRNO.EINTR ? 0 : -errno;
    }
    const count = Math.floor(result / EVENT_SIZE);
    for (let i = 0; i < count; i += 1) {
      onEdge(scratch.u32[(EVENTS + i * EVENT_SIZE + 8) >> 2] === EVENT_RISING);
    }
    return count;
  }

  close(): void {
    this.file.close();
  }
}
