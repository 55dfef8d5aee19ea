/**
 * The interface of the kernel module, as tables: field lists, from which offsets, sizes, and the
 * numbers of the ioctls come. `kernel/virtio_loopback.h` is the source; a test compares the
 * two through the C compiler. Fields have no gaps between them, so the layout is their order.
 */
import { defineStruct, type FieldTable } from '../../virtio/index.js';

/** Numbers of the header, without the prefix `VLO_`. */
export const VLO = {
  ABI_VERSION: 2,
  NAME_SIZE: 32,
  QUEUES_MAX: 64,
  QUEUE_SIZE_MAX: 1024,
  CONFIG_SIZE_MAX: 256,
  POOL_SIZE_MIN: 2 ** 20,
  POOL_SIZE_MAX: 2 ** 30,
  TAKEOVER_MS_MAX: 600_000,
  STOP_MS_MAX: 600_000,
  F_DIRECT: 1,
  F_CONFIG_WAIT: 2,
  Q_INBOUND: 1,
  Q_EARLY: 2,
  Q_SECTORS: 4,
  EVENT_STATUS: 1 << 0,
  EVENT_QUEUES: 1 << 1,
  EVENT_RESET: 1 << 2,
  EVENT_CONFIG: 1 << 3,
  EVENT_BROKEN: 1 << 4,
  EVENT_GONE: 1 << 5,
  S_FAIL: 1,
  QUEUE_MADE: 1,
  QUEUE_STARTED: 2,
} as const;

/** A word of feature bits: no number holds all of them. */
const WORD = { bytes: 8 } as const;
const NAME = { bytes: VLO.NAME_SIZE } as const;
const QUEUE_SIZES = { bytes: 2 * VLO.QUEUES_MAX } as const;
const QUEUE_FLAGS = { bytes: VLO.QUEUES_MAX } as const;
const CONFIG = { bytes: VLO.CONFIG_SIZE_MAX } as const;

/** Field lists of the structures, by the C name without `vlo_`; `fooBar` is `foo_bar` there. */
export const FIELDS = {
  create: {
    abiVersion: 'u32',
    flags: 'u32',
    deviceId: 'u32',
    vendorId: 'u32',
    features: WORD,
    reservedFeatures: WORD,
    poolSize: 'u64',
    takeoverMs: 'u32',
    stopMs: 'u32',
    queueCount: 'u32',
    configSize: 'u32',
    name: NAME,
    queueSizes: QUEUE_SIZES,
    queueFlags: QUEUE_FLAGS,
    config: CONFIG,
  },
  attach: { abiVersion: 'u32', reserved: 'u32', name: NAME },
  info: {
    abiVersion: 'u32',
    id: 'u32',
    flags: 'u32',
    deviceId: 'u32',
    vendorId: 'u32',
    queueCount: 'u32',
    configSize: 'u32',
    takeoverMs: 'u32',
    features: WORD,
    driverFeatures: WORD,
    poolSize: 'u64',
    stopMs: 'u32',
    reserved: 'u32',
    name: NAME,
    queueSizes: QUEUE_SIZES,
    queueFlags: QUEUE_FLAGS,
  },
  event: { events: 'u32', status: 'u32', sequence: 'u32', unacked: 'u32' },
  session: {
    flags: 'u32',
    number: 'u32',
    ringFeatures: WORD,
    replayed: 'u32',
    failed: 'u32',
  },
  queue: {
    index: 'u32',
    state: 'u32',
    size: 'u32',
    base: 'u32',
    descriptor: 'u64',
    driver: 'u64',
    device: 'u64',
  },
  fd: { index: 'u32', fd: 'i32' },
  memory: { index: 'u32', fd: 'i32', address: 'u64', size: 'u64' },
  config: { offset: 'u32', size: 'u32', bytes: CONFIG },
} as const satisfies Readonly<Record<string, FieldTable>>;

export const VloCreate = defineStruct(FIELDS.create);
export const VloAttach = defineStruct(FIELDS.attach);
export const VloInfo = defineStruct(FIELDS.info);
export const VloEvent = defineStruct(FIELDS.event);
export const VloQueue = defineStruct(FIELDS.queue);
export const VloFd = defineStruct(FIELDS.fd);
export const VloMemory = defineStruct(FIELDS.memory);
export const VloConfig = defineStruct(FIELDS.config);
export const VloSession = defineStruct(FIELDS.session);

// The direction of an ioctl, as <asm-generic/ioctl.h> has it on all our architectures.
const WRITES = 1;
const READS = 2;

/** `_IOC(direction, 'v', number, size)`. */
function code(direction: number, number: number, size: number): number {
  return ((direction << 30) | (size << 16) | (0x76 << 8) | number) >>> 0;
}

/** Numbers of the ioctls, without the prefix `VLO_`. */
export const VLO_IOCTL = {
  CREATE: code(WRITES, 0xc0, VloCreate.size),
  ATTACH: code(WRITES, 0xc1, VloAttach.size),
  GET_INFO: code(READS, 0xc2, VloInfo.size),
  GET_QUEUE: code(READS | WRITES, 0xc3, VloQueue.size),
  GET_MEMORY: code(READS | WRITES, 0xc4, VloMemory.size),
  SET_KICK: code(WRITES, 0xc5, VloFd.size),
  SET_CALL: code(WRITES, 0xc6, VloFd.size),
  GET_CONFIG: code(READS | WRITES, 0xc7, VloConfig.size),
  SET_CONFIG: code(WRITES, 0xc8, VloConfig.size),
  ACK: code(WRITES, 0xc9, 4),
  START: code(READS | WRITES, 0xca, VloSession.size),
  REMOVE: code(0, 0xcb, 0),
} as const;
