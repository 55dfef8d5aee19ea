/** The file of a device of the kernel module: its ioctls, typed. One call at a time. */
import { closeSync, openSync } from 'node:fs';
import { SystemError, VloError } from '../../errors.js';
import { ERRNO, errnoName, Fd, ioctl, NativeBuffer, readInto } from '../../native/index.js';
import type { Struct } from '../../virtio/index.js';
import {
  VLO,
  VLO_IOCTL,
  VloAttach,
  VloConfig,
  VloCreate,
  VloEvent,
  VloFd,
  VloInfo,
  VloMemory,
  VloQueue,
  VloSession,
} from './uapi.js';

export const LOOPBACK_NODE = '/dev/virtio-loopback';

const O_RDWR = 2;
const O_NONBLOCK = 0o4000;

type Ioctl = keyof typeof VLO_IOCTL;
type StructValueOf<S> = S extends Struct<infer T> ? T : never;

export type LoopbackInfo = StructValueOf<typeof VloInfo>;
export type LoopbackEvent = StructValueOf<typeof VloEvent>;
export type LoopbackQueue = StructValueOf<typeof VloQueue>;
export type LoopbackSession = StructValueOf<typeof VloSession>;

/** A feature word as the module's bytes. */
export function featureBytes(features: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, features, true);
  return bytes;
}

/** The feature word in bytes of the module. */
export function featureWord(bytes: Uint8Array): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
}

/** Sizes of queues as the module's bytes. */
export function queueSizeBytes(sizes: readonly number[]): Uint8Array {
  return new Uint8Array(Uint16Array.from(sizes).buffer);
}

/** The first `count` sizes in bytes of the module. */
export function queueSizes(bytes: Uint8Array, count: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, i) => view.getUint16(i * 2, true));
}

/** Room for the largest structure. */
const BUFFER_SIZE = Math.max(VloCreate.size, VloInfo.size, VloConfig.size);

/** Why the module cannot be used; null when it can. Nothing stays open. */
export function loopbackProblem(): VloError | null {
  try {
    closeSync(openSync(LOOPBACK_NODE, O_RDWR | O_NONBLOCK));
    return null;
  } catch (error) {
    return unavailable((error as NodeJS.ErrnoException).code ?? 'EIO');
  }
}

function unavailable(errno: string): VloError {
  const why =
    errno === 'EACCES' || errno === 'EPERM'
      ? `${LOOPBACK_NODE} is for root: run this as root, or with 'sudo'`
      : errno === 'ENOENT' || errno === 'ENXIO' || errno === 'ENODEV'
        ? "the kernel module is not loaded: 'modprobe virtio_loopback' as root loads it, and " +
          'kernel/ in the source of this package builds it'
        : `${LOOPBACK_NODE} cannot be opened (${errno})`;
  return new VloError('VLO_TRANSPORT_UNAVAILABLE', why);
}

export class LoopbackControl {
  readonly fd: Fd;
  private readonly buffer = new NativeBuffer(BUFFER_SIZE);

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** Opens the module. @throws VloError VLO_TRANSPORT_UNAVAILABLE */
  static open(): LoopbackControl {
    try {
      return new LoopbackControl(new Fd(openSync(LOOPBACK_NODE, O_RDWR | O_NONBLOCK)));
    } catch (error) {
      throw unavailable((error as NodeJS.ErrnoException).code ?? 'EIO');
    }
  }

  create(value: Parameters<typeof VloCreate.encode>[0]): void {
    this.put('CREATE', VloCreate, { abiVersion: VLO.ABI_VERSION, ...value });
  }

  attach(name: string): void {
    const value = { abiVersion: VLO.ABI_VERSION, name: new TextEncoder().encode(name) };
    this.put('ATTACH', VloAttach, value);
  }

  info(): LoopbackInfo {
    return this.exchange('GET_INFO', VloInfo, {});
  }

  queue(index: number): LoopbackQueue {
    return this.exchange('GET_QUEUE', VloQueue, { index });
  }

  /** A part of the device's memory. The descriptor is the caller's. */
  memory(index: number): { fd: Fd; address: number; size: number } {
    const { fd, address, size } = this.exchange('GET_MEMORY', VloMemory, { index, fd: -1 });
    return { fd: new Fd(fd), address, size };
  }

  setKick(index: number, fd: Fd): void {
    this.put('SET_KICK', VloFd, { index, fd: fd.number });
  }

  setCall(index: number, fd: Fd): void {
    this.put('SET_CALL', VloFd, { index, fd: fd.number });
  }

  readConfig(offset: number, size: number): Uint8Array {
    return this.exchange('GET_CONFIG', VloConfig, { offset, size }).bytes.slice(0, size);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.put('SET_CONFIG', VloConfig, { offset, size: bytes.length, bytes });
  }

  /**
   * Returns what has happened since the last call; null when nothing has.
   * @throws SystemError ENODEV when the kernel has removed the device, and has said so before
   */
  readEvent(): LoopbackEvent | null {
    const { buffer } = this;
    const size = readInto(this.fd.number, buffer.address, VloEvent.size);
    if (size === VloEvent.size) return VloEvent.decode(buffer.bytes);
    if (size === -ERRNO.EAGAIN! || size === -ERRNO.EINTR!) return null;
    throw new SystemError('read', errnoName(-size), LOOPBACK_NODE);
  }

  acknowledge(sequence: number): void {
    this.buffer.u32[0] = sequence;
    this.call('ACK', this.buffer.address);
  }

  /** Begins a session whose rings have these features. */
  start(ringFeatures: bigint): LoopbackSession {
    return this.exchange('START', VloSession, { ringFeatures: featureBytes(ringFeatures) });
  }

  remove(): void {
    this.call('REMOVE', 0);
  }

  /** Closes the file: a device that was not removed waits for another adapter. Idempotent. */
  close(): void {
    this.fd.close();
    this.buffer.free();
  }

  private call(name: Ioctl, argument: number): number {
    return ioctl(this.fd.number, VLO_IOCTL[name], argument, `VLO_${name}`);
  }

  private put<T>(name: Ioctl, struct: Struct<T>, value: Partial<T>): void {
    this.buffer.bytes.set(struct.encode(value));
    this.call(name, this.buffer.address);
  }

  private exchange<T>(name: Ioctl, struct: Struct<T>, value: Partial<T>): T {
    this.put(name, struct, value);
    return struct.decode(this.buffer.bytes);
  }
}

/** The name of the error with which an ioctl failed; anything else is thrown on. */
export function errnoOf(error: unknown): string {
  if (error instanceof SystemError) return error.errno;
  throw error;
}
