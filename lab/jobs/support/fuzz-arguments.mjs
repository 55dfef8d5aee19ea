/** Arguments for the module's ioctls: valid, valid but for one word, and random ones. */

import { featureBytes } from '../../../dist/transports/loopback/control.js';
import { VLO, VLO_IOCTL } from '../../../dist/transports/loopback/uapi.js';
import { describeDevice, STRUCTS } from './module-file.mjs';

/** Names that all processes share, so that they meet at the same devices. */
const NAMES = 16;
/** Types with drivers in the guest, more often types that no driver of the guest takes. */
const DISK = 2;
const DISK_RING = 64;
const DEVICE_IDS = [DISK, 3, 4, 4, 4, 18, 20, 32, 45];
const VALUES = [
  ...[0, 1, 2, 3, 7, 8, 63, 64, 65, 255, 256, 257, 1024, 4095, 4096, 65535, 65536],
  ...[2 ** 20, 2 ** 24, 2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 4096, 2 ** 32 - 1],
];
/** How often each is called: those that make or end something less often, as they take longer. */
const WEIGHTS = {
  ...{ CREATE: 4, ATTACH: 3, START: 6, REMOVE: 1 },
  ...{ GET_INFO: 10, GET_QUEUE: 14, GET_MEMORY: 6, SET_KICK: 12, SET_CALL: 12 },
  ...{ GET_CONFIG: 10, SET_CONFIG: 10, ACK: 12 },
};
/** One of each hundred ioctls has another number. */
const WRONG_CODE_PERCENT = 3;
const WRONG_ADDRESS_PERCENT = 2;
const RING_FEATURES = [0n, 1n << 28n, 1n << 29n, 3n << 28n, 1n << 34n, (3n << 28n) | (1n << 34n)];
const CONFIG_BYTES = 64;

const calls = Object.entries(WEIGHTS).flatMap(([name, weight]) => Array(weight).fill(name));
for (const name of Object.keys(VLO_IOCTL)) {
  if (!(name in WEIGHTS)) throw new Error(`fuzz does not know VLO_${name}`);
}

const sizeOf = (name) => STRUCTS[name]?.size ?? (name === 'ACK' ? 4 : 0);
export const ARGUMENT_BYTES = Math.max(...Object.keys(VLO_IOCTL).map(sizeOf));

/** A description that the module takes. */
function device(random) {
  const id = random.of(DEVICE_IDS);
  const queues = Array.from({ length: 1 + random.next(4) }, () => random.of([2, 8, 64, 256]));
  const flags = random.of([0, 0, 0, 0, VLO.F_DIRECT, VLO.F_CONFIG_WAIT]);
  return describeDevice({
    ...{ id, name: `fuzz${random.next(NAMES)}`, queues, flags },
    features: random.of([0n, 1n << 28n, 1n << 40n, (1n << 28n) | (1n << 40n)]),
    queueFlags: queues.map(() => random.of([0, 0, VLO.Q_INBOUND, VLO.Q_EARLY, VLO.Q_SECTORS])),
    // The drivers take what they find there, so it is zero but for a disk's capacity.
    config: new Uint8Array(CONFIG_BYTES).fill(id === DISK ? 1 : 0, 0, 1),
    takeoverMs: random.of([0, 1, 50, 1000]),
    stopMs: random.of([0, 0, 20]),
  });
}

export class Arguments {
  /**
   * @param {ReturnType<import('./random.mjs').generator>} random
   * @param {import('../../../dist/native/index.js').NativeBuffer} buffer the argument
   */
  constructor(random, buffer) {
    this.random = random;
    this.buffer = buffer;
  }

  /**
   * Draws a call: fills the argument.
   * @param {() => number} anyFd
   * @param {string} name of a call that it has to be
   */
  draw(anyFd, name = this.random.of(calls)) {
    const { random, buffer } = this;
    const size = sizeOf(name);
    const kind = random.next(100);
    if (kind < 10) this.fillRandom(size);
    else this.fillValid(name, anyFd);
    if (kind >= 80 && size >= 4) buffer.u32[random.next(size >> 2)] = random.of(VALUES);
    if (name === 'CREATE') this.spareDisk();
    const code = VLO_IOCTL[name];
    const isWrong = random.chance(WRONG_CODE_PERCENT);
    return {
      name,
      code: isWrong ? (code ^ (1 << random.next(32))) >>> 0 : code,
      address: random.chance(WRONG_ADDRESS_PERCENT)
        ? random.of([0, 1, 4095, 2 ** 46, buffer.address + 1])
        : buffer.address,
    };
  }

  /**
   * A disk's requests have to fail with the device, and its ring to hold them, as the kernel's code
   * for disks waits for ever and warns otherwise. Both are promises of the adapter's: it must not
   * call a disk's queue one in which the driver waits for nothing.
   */
  spareDisk() {
    const { bytes, u32, u16 } = this.buffer;
    const { deviceId, queueSizes, queueFlags } = STRUCTS.CREATE.offsets;
    if (u32[deviceId >> 2] !== DISK) return;
    bytes.fill(0, queueFlags, queueFlags + VLO.QUEUES_MAX);
    u16[queueSizes >> 1] = DISK_RING;
  }

  fillRandom(size) {
    const { random, buffer } = this;
    for (let at = 0; at < size >> 2; at += 1) buffer.u32[at] = random.of(VALUES);
  }

  fillValid(name, anyFd) {
    const { random, buffer } = this;
    const index = random.next(4);
    switch (name) {
      case 'CREATE':
        buffer.bytes.set(STRUCTS.CREATE.encode(device(random)));
        break;
      case 'ATTACH':
        buffer.bytes.fill(0, 0, sizeOf(name));
        buffer.u32[0] = VLO.ABI_VERSION;
        buffer.bytes.set(Buffer.from(`fuzz${random.next(NAMES)}`), STRUCTS.ATTACH.offsets.name);
        break;
      case 'START':
        buffer.bytes.fill(0, 0, sizeOf(name));
        buffer.u32[0] = random.of([0, 0, VLO.S_FAIL]);
        buffer.bytes.set(
          featureBytes(random.of(RING_FEATURES)),
          STRUCTS.START.offsets.ringFeatures,
        );
        break;
      case 'GET_MEMORY':
        buffer.u32[0] = random.of([0, 0, 1]);
        break;
      case 'SET_KICK':
      case 'SET_CALL':
        buffer.u32[0] = index;
        buffer.i32[1] = anyFd();
        break;
      case 'GET_CONFIG':
      case 'SET_CONFIG':
        buffer.u32[0] = 8 + random.next(CONFIG_BYTES - 8);
        buffer.u32[1] = random.next(CONFIG_BYTES - buffer.u32[0] + 1);
        break;
      default:
        // The index of a queue, or a sequence number.
        buffer.u32[0] = index;
    }
  }
}
