/**
 * What an adapter has to know of a type of device to show it to a kernel: its id, its config space,
 * how many queues its driver will ask for. From virtio 1.3, chapter 5, and Linux's drivers; the
 * devices themselves are back ends that anybody may have written.
 */
import { createHash } from 'node:crypto';
import { VIRTIO_ID } from '../virtio/index.js';
import { limitBlk, limitScsi } from './request-limits.js';

const MIB = 2 ** 20;

/** Bytes of pool for a type that is not slow or small. */
const POOL_SIZE = 16 * MIB;
/** Bytes of pool for each entry of a queue: the frame that the kernel has for a small request. */
const FRAME_SIZE = 8192;
/**
 * Bytes of pool for requests that are larger than a frame. Measured in instructions against a pool
 * of 64 MiB: 2 jobs that read 128 KiB at depth 32 lose 2 % of a disk, and 9 % with 8 MiB for data;
 * file systems and networks lose nothing.
 */
const DISK_DATA = 12 * MIB;
const FILES_DATA = 6 * MIB;
const PACKET_DATA = 4 * MIB;
/** Frames for many queues are not worth more than this, in bytes; without them all is shared. */
const POOL_SIZE_MAX = 32 * MIB;
/** Bytes of pool for a buffer in which a network driver expects a packet of 64 KiB. */
const BIG_PACKET_SIZE = 72 * 1024;
/** Entries of a queue where a type has no other habit: what most back ends are written for. */
const QUEUE_SIZE = 64;

/** A field of config space that says how many queues there are. */
interface CountField {
  readonly offset: number;
  readonly size: 2 | 4;
  /** The field counts units of this many queues. */
  readonly queuesEach: number;
  /** Queues besides. */
  readonly queuesMore: number;
  /** Feature without which the field means nothing, and stands for 1. */
  readonly feature: bigint;
}

export interface DeviceType {
  readonly name: string;
  readonly deviceId: number;
  /** Bytes of config space, as the features have it. */
  configSize(features: bigint): number;
  /** Queues of a device without {@link DeviceType.count}. */
  readonly queues: number;
  readonly count: CountField | null;
  readonly queueSize: number;
  /**
   * Bytes of pool for a device with so many queue entries in all. A pool that is full costs time
   * only: requests wait. But each byte is the machine's memory from the start.
   */
  poolSize(entries: number, features: bigint): number;
  /**
   * Changes what config space says of sizes, so that a request has no more than that many bytes;
   * returns features to offer besides. Null: the driver's largest request fits in any case.
   */
  readonly limitRequests: ((config: Uint8Array, features: bigint, bytes: number) => bigint) | null;
  /**
   * Features of the type that are not offered here, of those that a back end offers: they need a
   * front end of their own, or the driver would wait for the device in the kernel.
   */
  refused(offered: bigint): bigint;
  /** Config space where the back end has none, and the features that go with it. */
  readonly substitute: ((name: string) => { config: Uint8Array; features: bigint }) | null;
  /**
   * Queues that hold buffers for the device to fill. The driver waits for none of them, so they do
   * not fail when the device goes.
   */
  isInbound(index: number): boolean;
  /**
   * Queues whose driver waits for the device without giving the processor away, with the features
   * in use. The kernel completes their requests itself.
   */
  isEarly(index: number, features: bigint): boolean;
  /** The device fills buffers by whole sectors, or not at all. */
  readonly fillsSectors: boolean;
  /**
   * Time in µs that the end of a request may wait for that of others, so that one interrupt tells
   * of several; 0 for devices whose requests may take any time.
   */
  readonly callUs: number;
  /** Fields that a driver writes to set something, and the feature by which it may. */
  readonly writable: readonly { offset: number; size: number; feature: bigint }[];
  /** Writes to config space choose what reads show: the back end is asked after each of them. */
  readonly isConfigWindow: boolean;
}

const bits = (...numbers: number[]): bigint =>
  numbers.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);

const BLK_CONFIG_WCE = bits(11);
const BLK_MQ = bits(12);
const BLK_SECURE_ERASE = bits(16);
const BLK_ZONED = bits(17);
const NET_MAC = bits(5);
/** Packets of 64 KiB may come: GUEST_TSO4, TSO6, ECN, UFO, USO4, USO6. */
const NET_GUEST_GSO = bits(7, 8, 9, 10, 54, 55);
const NET_MRG_RXBUF = bits(15);
const CONSOLE_MULTIPORT = bits(1);
const SOUND_CTLS = bits(0);

/**
 * All that needs the control queue of a network device, which vhost-user has no messages for, and
 * STATUS, which the front end would have to make up.
 */
const NET_REFUSED = bits(2, 16, 17, 18, 19, 20, 21, 22, 23, 53, 57, 60);

/** A MAC address of one's own (locally administered), the same for the same name. */
function macOf(name: string): Uint8Array {
  const mac = Uint8Array.from(createHash('sha256').update(name).digest().subarray(0, 6));
  mac[0] = (mac[0]! & 0xfc) | 0x02;
  return mac;
}

function netSubstitute(name: string): { config: Uint8Array; features: bigint } {
  const config = new Uint8Array(24);
  config.set(macOf(name));
  return { config, features: NET_MAC };
}

/** A file system without a config space of its own is known by the device's name. */
function fsSubstitute(name: string): { config: Uint8Array; features: bigint } {
  const config = new Uint8Array(40);
  config.set(new TextEncoder().encode(name).subarray(0, 36));
  config[36] = 1;
  return { config, features: 0n };
}

/** A frame for each request, and room for those that are larger. */
const withFrames = (entries: number, data: number): number =>
  Math.min(entries * FRAME_SIZE + data, POOL_SIZE_MAX);

const diskPool = (entries: number): number => withFrames(entries, DISK_DATA);
const filesPool = (entries: number): number => withFrames(entries, FILES_DATA);
const packetPool = (entries: number): number => withFrames(entries, PACKET_DATA);

/**
 * Buffers for receiving keep their places until packets come. There must be room beside all of
 * them, or nothing is sent any more.
 */
function netPool(entries: number, features: bigint): number {
  const hasBigPackets = (features & NET_GUEST_GSO) !== 0n && (features & NET_MRG_RXBUF) === 0n;
  const received = hasBigPackets ? (entries / 2) * BIG_PACKET_SIZE : 0;
  return packetPool(entries) + received;
}

const isFirst = (index: number): boolean => index === 0;
const isSecond = (index: number): boolean => index === 1;
const isEven = (index: number): boolean => index % 2 === 0;

/**
 * EMERG_WRITE: config space follows what differs, and two equal characters do not. SIZE with ports:
 * without it no port of our device is a terminal, to which the driver sends with interrupts off.
 */
function consoleRefused(offered: bigint): bigint {
  return bits(2) | ((offered & CONSOLE_MULTIPORT) !== 0n ? bits(0) : 0n);
}

/**
 * What Linux's console driver sends to a terminal (`/dev/hvcN`), and its control messages. Ports
 * that are no terminals wait as others do.
 */
function isConsoleOutput(index: number, features: bigint): boolean {
  const isMultiport = (features & CONSOLE_MULTIPORT) !== 0n;
  return index === (isMultiport ? 3 : 1);
}

type Traits = Partial<Omit<DeviceType, 'name' | 'deviceId' | 'configSize' | 'poolSize'>> & {
  readonly id: number;
  readonly poolSize?: number | DeviceType['poolSize'];
  readonly config: number | ((features: bigint) => number);
};

/** virtio's id of types that Linux and vhost-user know and this package has no name for. */
const ID = { ...VIRTIO_ID, rtc: 17, scmi: 32 };

const TRAITS: Readonly<Record<string, Traits>> = {
  net: {
    ...{ id: ID.net, config: 24, queues: 2, queueSize: 256 },
    ...{ refused: () => NET_REFUSED, substitute: netSubstitute },
    ...{ isInbound: isEven, poolSize: netPool },
  },
  blk: {
    id: ID.blk,
    config: (features) => {
      if ((features & BLK_ZONED) !== 0n) return 96;
      return (features & BLK_SECURE_ERASE) !== 0n ? 72 : 60;
    },
    ...{ queueSize: 256, poolSize: diskPool, limitRequests: limitBlk },
    ...{ fillsSectors: true, callUs: 200 },
    count: { offset: 34, size: 2, queuesEach: 1, queuesMore: 0, feature: BLK_MQ },
    writable: [{ offset: 32, size: 1, feature: BLK_CONFIG_WCE }],
  },
  console: {
    ...{ id: ID.console, config: 12, refused: consoleRefused },
    // The first port has its queues with or without the field; control queues come with it.
    count: { offset: 4, size: 4, queuesEach: 2, queuesMore: 2, feature: CONSOLE_MULTIPORT },
    ...{ queues: 2, isInbound: isEven, isEarly: isConsoleOutput },
  },
  rng: { id: ID.rng, config: 0, poolSize: MIB },
  scsi: {
    ...{ id: ID.scsi, config: 36, queueSize: 128, isInbound: isSecond },
    ...{ poolSize: diskPool, limitRequests: limitScsi },
    count: { offset: 0, size: 4, queuesEach: 1, queuesMore: 2, feature: 0n },
  },
  rtc: { id: ID.rtc, config: 0, poolSize: MIB, isInbound: isSecond },
  input: {
    ...{ id: ID.input, config: 136, queues: 2, poolSize: MIB },
    ...{ isConfigWindow: true, isInbound: isFirst },
  },
  vsock: {
    ...{ id: ID.vsock, config: 8, queues: 3, queueSize: 128, poolSize: packetPool },
    isInbound: (index) => index !== 1,
  },
  crypto: {
    ...{ id: ID.crypto, config: 56 },
    count: { offset: 4, size: 4, queuesEach: 1, queuesMore: 1, feature: 0n },
  },
  sound: {
    ...{ id: ID.sound, queues: 4, isInbound: isSecond },
    config: (features) => ((features & SOUND_CTLS) !== 0n ? 16 : 12),
  },
  fs: {
    ...{ id: ID.fs, config: 40, queueSize: 128, poolSize: filesPool },
    substitute: fsSubstitute,
    count: { offset: 36, size: 4, queuesEach: 1, queuesMore: 1, feature: 0n },
    // Notifications of the file system and its shared memory have no way through here.
    refused: () => bits(0),
  },
  scmi: { id: ID.scmi, config: 0, queues: 2, poolSize: MIB, isInbound: isSecond },
  i2c: { id: ID.i2c, config: 0, poolSize: MIB },
  can: { id: ID.can, config: 2, queues: 3, poolSize: 4 * MIB, isInbound: isSecond },
  // Linux's driver has a buffer for each interrupt in the queue at once.
  gpio: {
    ...{ id: ID.gpio, config: 8, queues: 2, queueSize: 256, poolSize: 2 * MIB },
    isInbound: isSecond,
  },
};

function complete(name: string, { id, config, poolSize, ...traits }: Traits): DeviceType {
  return {
    name,
    deviceId: id,
    configSize: typeof config === 'number' ? () => config : config,
    poolSize: typeof poolSize === 'function' ? poolSize : () => poolSize ?? POOL_SIZE,
    ...{ queues: 1, count: null, queueSize: QUEUE_SIZE, limitRequests: null },
    ...{ refused: () => 0n, substitute: null, writable: [] },
    ...{ isConfigWindow: false, fillsSectors: false, callUs: 0 },
    ...{ isInbound: () => false, isEarly: () => false },
    ...traits,
  };
}

/** The types of devices that a kernel transport can show, by name. */
export const DEVICE_TYPES: ReadonlyMap<string, DeviceType> = new Map(
  Object.entries(TRAITS).map(([name, traits]) => [name, complete(name, traits)]),
);

/**
 * How many queues the driver will ask for, at most `max`; where config space promises more, it is
 * changed to promise that many.
 */
export function planQueues(
  type: DeviceType,
  features: bigint,
  config: Uint8Array,
  max: number,
): number {
  const { count } = type;
  if (count === null) return type.queues;
  if ((features & count.feature) !== count.feature) return type.queues;
  const { offset, size, queuesEach, queuesMore } = count;
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const promised = size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
  const unitsMax = Math.floor((max - queuesMore) / queuesEach);
  const units = Math.max(1, Math.min(promised, unitsMax));
  if (size === 2) view.setUint16(offset, units, true);
  else view.setUint32(offset, units, true);
  return units * queuesEach + queuesMore;
}
