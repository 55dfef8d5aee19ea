/** `/dev/vduse/NAME`: requests of the kernel, answered one by one, and the ioctls of a device. */
import { openSync } from 'node:fs';
import { SystemError } from '../../errors.js';
import { Fd, ioctl, NativeBuffer, readInto, writeFrom } from '../../native/index.js';
import type { Struct } from '../../virtio/index.js';
import {
  VDUSE_IOCTL,
  VDUSE_NUMBER,
  VduseConfigData,
  VduseIotlbEntry,
  VduseRequest,
  VduseResponse,
  VduseVqConfig,
  VduseVqEventfd,
  VduseVqInfo,
} from './uapi.js';

const FOLDER = '/dev/vduse';
const O_RDWR = 2;
const O_NONBLOCK = 0o4000;
const BUFFER_SIZE = 8192;
/** Beyond all addresses of a device: VDUSE gives them out below 1.2 GiB. */
const ADDRESS_MAX = 2 ** 52;

type StructValueOf<S> = S extends Struct<infer T> ? T : never;
export type VduseQueue = StructValueOf<typeof VduseVqInfo>;

/** What the kernel asks of a device, and waits for. */
export type VduseMessage =
  | { readonly kind: 'status'; readonly id: number; readonly status: number }
  /** Memory was mapped otherwise. */
  | { readonly kind: 'memory'; readonly id: number }
  /** Anything else: how far a queue is, which only a virtual machine over vhost-vdpa asks. */
  | { readonly kind: 'other'; readonly id: number };

/** A range of device addresses and the file that it lies in. The descriptor is the caller's. */
export interface VduseMemory {
  readonly fd: Fd;
  /** First device address and the one behind the last. */
  readonly start: number;
  readonly end: number;
  /** Where the first byte is in the file. */
  readonly offset: number;
}

/** The file of a device. */
export const deviceNode = (name: string): string => `${FOLDER}/${name}`;

/** What a request says. */
export function decodeMessage(bytes: Uint8Array): VduseMessage {
  const { type, requestId: id, union } = VduseRequest.decode(bytes);
  if (type === VDUSE_NUMBER.SET_STATUS) return { kind: 'status', id, status: union[0]! };
  return { kind: type === VDUSE_NUMBER.UPDATE_IOTLB ? 'memory' : 'other', id };
}

export class VduseFile {
  readonly fd: Fd;
  private readonly buffer = new NativeBuffer(BUFFER_SIZE);

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** Opens a device, which only one at a time can have open. @throws Error ENOENT, EBUSY */
  static open(name: string): VduseFile {
    return new VduseFile(new Fd(openSync(deviceNode(name), O_RDWR | O_NONBLOCK)));
  }

  /** What the kernel asks next; null when nothing. */
  next(): VduseMessage | null {
    const { buffer, fd } = this;
    const size = readInto(fd.number, buffer.address, VduseRequest.size);
    return size === VduseRequest.size ? decodeMessage(buffer.bytes) : null;
  }

  /** Answers; an answer that comes too late is nobody's any more. */
  answer({ id }: VduseMessage, isOk: boolean): void {
    const { REQ_RESULT_OK, REQ_RESULT_FAILED } = VDUSE_NUMBER;
    const result = isOk ? REQ_RESULT_OK : REQ_RESULT_FAILED;
    this.buffer.bytes.set(VduseResponse.encode({ requestId: id, result }));
    writeFrom(this.fd.number, this.buffer.address, VduseResponse.size);
  }

  /** Features that the driver accepted. */
  features(): bigint {
    this.call('DEV_GET_FEATURES');
    const { bytes } = this.buffer;
    return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  }

  /** Says how many entries a queue has at most. Before the device is on the bus. */
  setupQueue(index: number, maxSize: number): void {
    this.put('VQ_SETUP', VduseVqConfig, { index, maxSize });
  }

  queue(index: number): VduseQueue {
    this.put('VQ_GET_INFO', VduseVqInfo, { index });
    return VduseVqInfo.decode(this.buffer.bytes);
  }

  /** Has the driver's kicks signal an eventfd, until the device is reset. */
  setKick(index: number, fd: Fd): void {
    this.put('VQ_SETUP_KICKFD', VduseVqEventfd, { index, fd: fd.number });
  }

  /** Interrupts the driver of a queue; false when it is not ready to be. */
  interrupt(index: number): boolean {
    this.buffer.u32[0] = index;
    return this.tell('VQ_INJECT_IRQ');
  }

  /** Changes config space, and says so; a driver that is not ready yet will read it anyway. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    const head = VduseConfigData.encode({ offset, length: bytes.length });
    this.buffer.bytes.set(head);
    this.buffer.bytes.set(bytes, head.length);
    this.call('DEV_SET_CONFIG');
    this.tell('DEV_INJECT_CONFIG_IRQ');
  }

  /** The first memory at or behind an address; null when there is none. */
  memory(from: number): VduseMemory | null {
    this.buffer.bytes.set(VduseIotlbEntry.encode({ start: from, last: ADDRESS_MAX }));
    let received: Fd;
    try {
      received = new Fd(this.call('IOTLB_GET_FD'));
    } catch (error) {
      if (error instanceof SystemError && error.errno === 'EINVAL') return null;
      throw error;
    }
    // The kernel's descriptor stays open in programs that are started.
    const fd = received.duplicate();
    received.close();
    const { start, last, offset } = VduseIotlbEntry.decode(this.buffer.bytes);
    return { fd, start, end: last + 1, offset };
  }

  /** The kernel has given the device up: it waited too long for an answer. */
  isBroken(): boolean {
    try {
      this.features();
      return false;
    } catch (error) {
      if (error instanceof SystemError && error.errno === 'EPERM') return true;
      throw error;
    }
  }

  /** Closes the file: whoever opens it next gets the requests that are not answered. Idempotent. */
  close(): void {
    this.fd.close();
    this.buffer.free();
  }

  private call(name: keyof typeof VDUSE_IOCTL): number {
    return ioctl(this.fd.number, VDUSE_IOCTL[name], this.buffer.address, `VDUSE_${name}`);
  }

  /** A call that fails while the driver is not ready. */
  private tell(name: 'VQ_INJECT_IRQ' | 'DEV_INJECT_CONFIG_IRQ'): boolean {
    try {
      this.call(name);
      return true;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      // EPERM: the kernel gave the device up, and says so when its file is read.
      if (error.errno === 'EINVAL' || error.errno === 'EPERM') return false;
      throw error;
    }
  }

  private put<T>(name: keyof typeof VDUSE_IOCTL, struct: Struct<T>, value: Partial<T>): void {
    this.buffer.bytes.set(struct.encode(value));
    this.call(name);
  }
}
