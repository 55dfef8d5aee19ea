/**
 * Linux's event devices: those that are there (evdev), and one that this process makes (uinput).
 * Events are `struct input_event` of 64-bit systems: time (16 bytes), type, code, value.
 */
import { closeSync, constants, openSync, readdirSync } from 'node:fs';
import { NativeBuffer } from './buffer.js';
import { ioctl, readInto, writeFrom } from './file.js';
import { ERRNO } from './libc.js';
import { Watch } from './watch.js';

const READ = 2;
const WRITE = 1;
const request = (direction: number, group: string, number: number, size: number): number =>
  ((direction << 30) | (size << 16) | (group.charCodeAt(0) << 8) | number) >>> 0;

const EVENT_SIZE = 24;
/** Events of one read or write. */
const EVENTS_MAX = 64;
const SCRATCH_SIZE = 512;
const AXIS_SIZE = 24;

/** Memory for one call at a time. */
let scratch: NativeBuffer | null = null;
function useScratch(): NativeBuffer {
  scratch ??= new NativeBuffer(SCRATCH_SIZE);
  scratch.bytes.fill(0);
  return scratch;
}

/** Range and value of an absolute axis. */
export interface AxisInfo {
  readonly value: number;
  readonly min: number;
  readonly max: number;
  readonly fuzz: number;
  readonly flat: number;
  readonly res: number;
}

export interface DeviceIds {
  readonly bustype: number;
  readonly vendor: number;
  readonly product: number;
  readonly version: number;
}

/** Events in and out of an event device or uinput; both look the same. */
class EventFile {
  readonly fd: number;
  private readonly buffer: NativeBuffer;
  private readonly onReadable: () => void;
  private watch: Watch | null = null;
  /** Events that {@link read} found. */
  count = 0;

  constructor(path: string, onReadable: () => void) {
    this.fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    // After the file: a path that nothing is at is tried again and again.
    this.buffer = new NativeBuffer(EVENTS_MAX * EVENT_SIZE);
    this.onReadable = onReadable;
  }

  /** Calls `onReadable` from now on, or no more. */
  setWatched(isWatched: boolean): void {
    if (!isWatched) this.watch?.pause();
    else if (this.watch === null) this.watch = new Watch(this.fd, this.onReadable);
    else this.watch.resume();
  }

  /** Reads what is there into {@link type}, {@link code} and {@link value}. Below 0: an errno. */
  read(): number {
    const result = readInto(this.fd, this.buffer.address, EVENTS_MAX * EVENT_SIZE);
    this.count = result > 0 ? Math.floor(result / EVENT_SIZE) : 0;
    if (result === -ERRNO.EAGAIN! || result === -ERRNO.EINTR!) return 0;
    return result < 0 ? result : this.count;
  }

  type(index: number): number {
    return this.buffer.u16[index * 12 + 8]!;
  }

  code(index: number): number {
    return this.buffer.u16[index * 12 + 9]!;
  }

  value(index: number): number {
    return this.buffer.i32[index * 6 + 5]!;
  }

  /** Puts an event into the memory that {@link write} takes; at most {@link EVENTS_MAX}. */
  put(index: number, type: number, code: number, value: number): void {
    const { buffer } = this;
    buffer.u16[index * 12 + 8] = type;
    buffer.u16[index * 12 + 9] = code;
    buffer.i32[index * 6 + 5] = value;
  }

  /** Writes the first `count` events that were put. @returns bytes, or a negative errno */
  write(count: number): number {
    // The kernel takes the time of events that it is given.
    for (let i = 0; i < count; i += 1) this.buffer.u32.fill(0, i * 6, i * 6 + 4);
    return writeFrom(this.fd, this.buffer.address, count * EVENT_SIZE);
  }

  close(): void {
    this.watch?.close();
    closeSync(this.fd);
    this.buffer.free();
  }
}

/** Most events of one {@link EventFile.write}. */
export const EVENT_WRITE_MAX = EVENTS_MAX;

/** An event device: `/dev/input/eventN`. Failures throw Node's errors or {@link SystemError}. */
export class EvdevFile extends EventFile {
  private get(number: number, size: number, name: string): NativeBuffer {
    const memory = useScratch();
    ioctl(this.fd, request(READ, 'E', number, size), memory.address, name);
    return memory;
  }

  private text(number: number, name: string): string {
    try {
      const { bytes } = this.get(number, 256, name);
      return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString('utf8');
    } catch {
      return ''; // A device without one says ENOENT.
    }
  }

  /** Takes all events for this process. */
  grab(): void {
    ioctl(this.fd, request(WRITE, 'E', 0x90, 4), 1, 'EVIOCGRAB');
  }

  name(): string {
    return this.text(0x06, 'EVIOCGNAME');
  }

  serial(): string {
    return this.text(0x08, 'EVIOCGUNIQ');
  }

  ids(): DeviceIds {
    const { u16 } = this.get(0x02, 8, 'EVIOCGID');
    return { bustype: u16[0]!, vendor: u16[1]!, product: u16[2]!, version: u16[3]! };
  }

  properties(): Uint8Array {
    return this.get(0x09, 4, 'EVIOCGPROP').bytes.slice(0, 4);
  }

  /** Bitmap of the codes of a type. */
  codes(type: number, size: number): Uint8Array {
    return this.get(0x20 + type, size, 'EVIOCGBIT').bytes.slice(0, size);
  }

  axis(code: number): AxisInfo {
    const { i32 } = this.get(0x40 + code, AXIS_SIZE, 'EVIOCGABS');
    const [value, min, max, fuzz, flat, res] = i32;
    return { value: value!, min: min!, max: max!, fuzz: fuzz!, flat: flat!, res: res! };
  }

  /** Bitmap of the keys that are down. */
  keysDown(size: number): Uint8Array {
    return this.get(0x18, size, 'EVIOCGKEY').bytes.slice(0, size);
  }

  /** Bitmap of the switches that are on. */
  switchesOn(size: number): Uint8Array {
    return this.get(0x1b, size, 'EVIOCGSW').bytes.slice(0, size);
  }

  /** The value of an axis for each of the first contacts. */
  contactValues(code: number, count: number): Int32Array {
    const memory = useScratch();
    const size = Math.min((count + 1) * 4, SCRATCH_SIZE);
    memory.u32[0] = code;
    ioctl(this.fd, request(READ, 'E', 0x0a, size), memory.address, 'EVIOCGMTSLOTS');
    return memory.i32.slice(1, size >> 2);
  }
}

/** What `UI_SET_*BIT` takes a code of a type with. */
const SET_CODE: Readonly<Record<number, number>> = {
  ...{ 1: 101, 2: 102, 3: 103, 4: 104, 17: 105, 18: 106, 5: 109 },
};
const UI_SET_EVBIT = 100;
const UI_SET_PROPBIT = 110;
const NAME_SIZE = 80;

/** An event device of this process. The kernel removes it at {@link close}. */
export class UinputFile extends EventFile {
  private set(number: number, value: number, name: string): void {
    ioctl(this.fd, request(WRITE, 'U', number, 4), value, name);
  }

  /** The device will have events of that type, and of these codes. */
  addCodes(type: number, codes: readonly number[]): void {
    this.set(UI_SET_EVBIT, type, 'UI_SET_EVBIT');
    const number = SET_CODE[type];
    if (number === undefined) return;
    for (const code of codes) this.set(number, code, 'UI_SET_*BIT');
  }

  addProperties(properties: readonly number[]): void {
    for (const property of properties) this.set(UI_SET_PROPBIT, property, 'UI_SET_PROPBIT');
  }

  addAxis(code: number, { value, min, max, fuzz, flat, res }: AxisInfo): void {
    const memory = useScratch();
    memory.u16[0] = code;
    memory.i32.set([value, min, max, fuzz, flat, res], 1);
    ioctl(this.fd, request(WRITE, 'U', 4, 4 + AXIS_SIZE), memory.address, 'UI_ABS_SETUP');
  }

  /** Makes the device. @returns its node, such as `/dev/input/event3` */
  create(name: string, { bustype, vendor, product, version }: DeviceIds): string {
    const memory = useScratch();
    memory.u16.set([bustype, vendor, product, version]);
    memory.bytes.set(new TextEncoder().encode(name).subarray(0, NAME_SIZE - 1), 8);
    ioctl(this.fd, request(WRITE, 'U', 3, 8 + NAME_SIZE + 4), memory.address, 'UI_DEV_SETUP');
    ioctl(this.fd, request(0, 'U', 1, 0), 0, 'UI_DEV_CREATE');
    memory.bytes.fill(0);
    ioctl(this.fd, request(READ, 'U', 44, 64), memory.address, 'UI_GET_SYSNAME');
    const device = Buffer.from(memory.bytes.subarray(0, memory.bytes.indexOf(0))).toString();
    const names = readdirSync(`/sys/devices/virtual/input/${device}`);
    return `/dev/input/${names.find((entry) => entry.startsWith('event')) ?? device}`;
  }
}
