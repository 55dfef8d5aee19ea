/** /dev/virtio-loopback by its ioctls, for jobs that want the outcome of each, good or bad. */

import { closeSync, constants, openSync } from 'node:fs';
import { NativeBuffer } from '../../../dist/native/index.js';
import { ERRNO, errnoName, lastErrno, libc } from '../../../dist/native/libc.js';
import {
  featureBytes,
  LOOPBACK_NODE,
  queueSizeBytes,
} from '../../../dist/transports/loopback/control.js';
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
} from '../../../dist/transports/loopback/uapi.js';

/** Feature that every device has to offer. */
export const VERSION_1 = 1n << 32n;
const VENDOR = 0x564c;

/** What each ioctl takes; ACK takes a number, REMOVE nothing. */
export const STRUCTS = {
  CREATE: VloCreate,
  ATTACH: VloAttach,
  GET_INFO: VloInfo,
  GET_QUEUE: VloQueue,
  GET_MEMORY: VloMemory,
  SET_KICK: VloFd,
  SET_CALL: VloFd,
  GET_CONFIG: VloConfig,
  SET_CONFIG: VloConfig,
  START: VloSession,
};
const BUFFER_BYTES = Math.max(...Object.values(STRUCTS).map(({ size }) => size));

const nameBytes = (name) => new TextEncoder().encode(name);

/**
 * The argument of CREATE for a device.
 * @param {{ id: number, name: string, features?: bigint, queues?: readonly number[],
 *   queueFlags?: readonly number[], config?: Uint8Array, flags?: number, poolSize?: number,
 *   takeoverMs?: number, stopMs?: number }} what `queues`: sizes
 */
export function describeDevice({ id, name, features = 0n, queues = [8], ...more }) {
  const { queueFlags = [], config = new Uint8Array(0), flags = 0 } = more;
  const { poolSize = VLO.POOL_SIZE_MIN, takeoverMs = 0, stopMs = 0 } = more;
  return {
    ...{ abiVersion: VLO.ABI_VERSION, flags, deviceId: id, vendorId: VENDOR },
    ...{ features: featureBytes(features | VERSION_1), poolSize, takeoverMs, stopMs },
    ...{ queueCount: queues.length, configSize: config.length, name: nameBytes(name) },
    queueSizes: queueSizeBytes(queues),
    ...{ queueFlags: Uint8Array.from(queueFlags), config },
  };
}

export class ModuleFile {
  /** @param {number} fd an open file of the module */
  constructor(fd) {
    this.fd = fd;
    this.buffer = new NativeBuffer(BUFFER_BYTES);
  }

  static open() {
    const { O_RDWR, O_NONBLOCK, O_CLOEXEC = 0 } = constants;
    return new ModuleFile(openSync(LOOPBACK_NODE, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  }

  /**
   * Makes a call.
   * @param {keyof typeof VLO_IOCTL} name
   * @param {object} value fields of the structure; those left out are 0
   * @returns {{ error: string | null, value: object | null }} name of the error, or what came back
   */
  call(name, value = {}) {
    const { buffer } = this;
    const struct = STRUCTS[name];
    if (struct !== undefined) buffer.bytes.set(struct.encode(value));
    if (libc.ioctl(this.fd, VLO_IOCTL[name], buffer.address) < 0) {
      return { error: errnoName(lastErrno()), value: null };
    }
    return { error: null, value: struct?.decode(buffer.bytes) ?? null };
  }

  /** The same, where it has to work. */
  must(name, value = {}) {
    const { error, value: answer } = this.call(name, value);
    if (error !== null) throw new Error(`VLO_${name}: ${error}`);
    return answer;
  }

  /** Takes a device over. @returns {string | null} the error */
  attach(name) {
    return this.call('ATTACH', { abiVersion: VLO.ABI_VERSION, name: nameBytes(name) }).error;
  }

  /** @returns {string | null} the error */
  acknowledge(sequence) {
    this.buffer.u32[0] = sequence;
    return this.call('ACK').error;
  }

  /** What has happened; null when nothing has. @returns {object | null} */
  event() {
    const size = libc.read(this.fd, this.buffer.address, VloEvent.size);
    if (size === VloEvent.size) return VloEvent.decode(this.buffer.bytes);
    const errno = lastErrno();
    if (errno === ERRNO.EAGAIN || errno === ERRNO.EINTR) return null;
    throw new Error(`read: ${errnoName(errno)}`);
  }

  close() {
    if (this.fd < 0) return;
    closeSync(this.fd);
    this.fd = -1;
    this.buffer.free();
  }
}
