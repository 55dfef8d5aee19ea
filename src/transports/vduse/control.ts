/** `/dev/vduse/control`: makes and destroys devices; and whether there is VDUSE at all. */
import { closeSync, existsSync, openSync } from 'node:fs';
import { SystemError, VloError } from '../../errors.js';
import { Fd, ioctl, NativeBuffer } from '../../native/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import { VDUSE_IOCTL, VDUSE_NUMBER, VduseDevConfig } from './uapi.js';

const NODE = '/dev/vduse/control';
/** The driver that makes a virtio device of a vDPA device. */
const DRIVER = '/sys/bus/vdpa/drivers/virtio_vdpa';
const LOAD = "'modprobe -a vduse virtio_vdpa' as root";

const O_RDWR = 2;
const CONFIG_SIZE_MAX = 4096;
/** Alignment of the parts of a ring, in bytes: no two of them share a cache line. */
const RING_ALIGNMENT = 64;

/**
 * Types of devices that VDUSE takes. Its list of ids has the file system too, but the management
 * device, through which all devices go, has only these two.
 */
export const VDUSE_TYPES: ReadonlyMap<string, number> = new Map([
  ['blk', VIRTIO_ID.blk],
  ['net', VIRTIO_ID.net],
]);

/** The device that is to be made. */
export interface VduseDevice {
  readonly name: string;
  readonly deviceId: number;
  /** With ACCESS_PLATFORM, without which VDUSE makes none. */
  readonly features: bigint;
  readonly queueCount: number;
  readonly config: Uint8Array;
}

/** Why VDUSE refuses a type; null when it does not. */
export function vduseTypeProblem(type: string): VloError | null {
  if (VDUSE_TYPES.has(type)) return null;
  const known = [...VDUSE_TYPES.keys()].join(' and ');
  return new VloError(
    'VLO_TRANSPORT_UNAVAILABLE',
    `VDUSE takes devices of the types ${known} only, not '${type}': use the transport 'loopback'` +
      (type === 'rng' ? " or 'user'" : ''),
  );
}

/** Why VDUSE cannot be used for a type; null when it can. Nothing stays open. */
export function vduseProblem(type: string): VloError | null {
  const problem = vduseTypeProblem(type);
  if (problem !== null) return problem;
  try {
    closeSync(openSync(NODE, O_RDWR));
  } catch (error) {
    return unavailable((error as NodeJS.ErrnoException).code ?? 'EIO');
  }
  if (existsSync(DRIVER)) return null;
  const why = `the kernel module virtio_vdpa is not loaded: ${LOAD} loads it`;
  return new VloError('VLO_TRANSPORT_UNAVAILABLE', why);
}

function unavailable(errno: string): VloError {
  const why =
    errno === 'EACCES' || errno === 'EPERM'
      ? `${NODE} is for root: run this as root, or with 'sudo'`
      : errno === 'ENOENT' || errno === 'ENXIO' || errno === 'ENODEV'
        ? `the kernel module vduse is not loaded: ${LOAD} loads what is needed; Linux 5.15 and ` +
          "newer have it where the distribution built it (Debian from 13 on; not 6.12's on riscv64)"
        : `${NODE} cannot be opened (${errno})`;
  return new VloError('VLO_TRANSPORT_UNAVAILABLE', why);
}

export class VduseControl {
  private readonly fd: Fd;
  private readonly buffer = new NativeBuffer(VduseDevConfig.size + CONFIG_SIZE_MAX);

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** Opens it. @throws VloError VLO_TRANSPORT_UNAVAILABLE */
  static open(): VduseControl {
    let fd: Fd;
    try {
      fd = new Fd(openSync(NODE, O_RDWR));
    } catch (error) {
      throw unavailable((error as NodeJS.ErrnoException).code ?? 'EIO');
    }
    const control = new VduseControl(fd);
    control.setVersion();
    return control;
  }

  /** Says which version of the interface is spoken; the oldest is still understood by all. */
  private setVersion(): void {
    this.buffer.setU64(0, VDUSE_NUMBER.API_VERSION);
    this.call('SET_API_VERSION');
  }

  /** Makes a device. Its name is taken from then on. @throws SystemError EEXIST, EINVAL, EPERM */
  create({ name, deviceId, features, queueCount, config }: VduseDevice): void {
    const word = new Uint8Array(8);
    new DataView(word.buffer).setBigUint64(0, features, true);
    const head = VduseDevConfig.encode({
      name: new TextEncoder().encode(name),
      deviceId,
      features: word,
      vqNum: queueCount,
      vqAlign: RING_ALIGNMENT,
      configSize: config.length,
    });
    this.buffer.bytes.set(head);
    this.buffer.bytes.set(config, head.length);
    this.call('CREATE_DEV');
  }

  /**
   * Destroys a device; false while something still has it: its file, or the vDPA bus.
   * @throws SystemError
   */
  destroy(name: string): boolean {
    const { bytes } = this.buffer;
    bytes.fill(0, 0, VDUSE_NUMBER.NAME_MAX);
    bytes.set(new TextEncoder().encode(name));
    try {
      this.call('DESTROY_DEV');
      return true;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.errno === 'EBUSY') return false;
      // There is none of that name.
      if (error.errno === 'EINVAL') return true;
      throw error;
    }
  }

  /** Idempotent. */
  close(): void {
    this.fd.close();
    this.buffer.free();
  }

  private call(name: keyof typeof VDUSE_IOCTL): void {
    ioctl(this.fd.number, VDUSE_IOCTL[name], this.buffer.address, `VDUSE_${name}`);
  }
}
