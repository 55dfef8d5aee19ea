/** From what a back end says of itself to the device that a kernel is to see. */
import { availableParallelism } from 'node:os';
import { VloError } from '../errors.js';
import type { Relay } from '../vhost-user/index.js';
import { VIRTIO_FEATURE } from '../vhost-user/index.js';
import { F } from '../virtio/index.js';
import type { AttachOptions } from './attachment.js';
import { DEVICE_TYPES, type DeviceType, planQueues } from './device-types.js';
import type { KernelTransport, PortIdentity, PortSpec } from './kernel-port.js';
import { requestMax } from './request-limits.js';

/** Most queues of a device: what the kernel's interface has room for. */
const QUEUES_MAX = 64;
/** How long requests wait for another adapter when this one dies, in ms. */
export const TAKEOVER_MS = 30_000;
/** How long a driver's reset waits for the back end to stop, in ms. */
const STOP_MS = 10_000;
/** Entries of a queue that is early: so many outputs are kept for a back end that lags behind. */
const EARLY_QUEUE_SIZE = 256;
/** Sizes of pools are multiples of it. */
const POOL_STEP = 65536;

/**
 * Features that are not passed on. Those of vhost-user mean nothing to a driver; what a port serves
 * itself it adds itself; the others need something of the transport that no port has, or, IN_ORDER,
 * would make a driver wait for the oldest request where requests may be failed one by one.
 */
const WITHHELD =
  VIRTIO_FEATURE.PROTOCOL_FEATURES |
  VIRTIO_FEATURE.LOG_ALL |
  F.ACCESS_PLATFORM |
  F.IN_ORDER |
  F.SR_IOV |
  F.NOTIFICATION_DATA |
  F.NOTIF_CONFIG_DATA |
  F.RING_RESET |
  F.ADMIN_VQ;

/** @throws VloError VLO_TRANSPORT_UNAVAILABLE for a type of which nothing is known */
export function deviceType(name: string): DeviceType {
  const type = DEVICE_TYPES.get(name);
  if (type !== undefined) return type;
  const known = [...DEVICE_TYPES.keys()].join(', ');
  throw new VloError(
    'VLO_TRANSPORT_UNAVAILABLE',
    `a device of type '${name}' cannot be shown to the kernel; types: ${known}`,
  );
}

/** Config space as the back end has it. */
export async function readBackEndConfig(
  relay: Relay,
  type: DeviceType,
  name: string,
): Promise<Uint8Array> {
  const size = type.configSize(relay.offered);
  if (size === 0) return new Uint8Array(0);
  if (relay.hasConfig) return relay.readConfig(0, size);
  if (type.substitute !== null) return type.substitute(name).config;
  throw new VloError(
    'VLO_BACKEND_FEATURES',
    `the back end does not offer CONFIG, and a device of type '${type.name}' needs it`,
  );
}

function offeredFeatures(relay: Relay, type: DeviceType, options: AttachOptions): bigint {
  const { packed = false } = options.kernel ?? {};
  const withheld = WITHHELD | type.refused(relay.offered) | (packed ? 0n : F.RING_PACKED);
  const extra =
    relay.hasConfig || type.substitute === null ? 0n : type.substitute(options.name).features;
  return (relay.offered & ~withheld) | extra;
}

/**
 * Plans the device.
 * @throws VloError VLO_BACKEND_FEATURES, VLO_TRANSPORT_UNAVAILABLE, or as the back end answers
 */
export async function planDevice(
  relay: Relay,
  type: DeviceType,
  options: AttachOptions,
  transport: KernelTransport,
): Promise<PortSpec> {
  const { name, log, kernel = {} } = options;
  const { memory = 'bounce' } = kernel;
  const features = offeredFeatures(relay, type, options);
  const config = await readBackEndConfig(relay, type, name);
  // More queues than processors serve nobody: a driver takes one for each at most.
  const countMax = Math.min(relay.queueCountMax, QUEUES_MAX);
  const count = planQueues(type, features, config, Math.min(countMax, perProcessor(type)));
  if (count > relay.queueCountMax) {
    throw new VloError(
      'VLO_BACKEND_FEATURES',
      `the back end has ${relay.queueCountMax} queues; a device of type '${type.name}' has ${count}`,
    );
  }
  const indexes = Array.from({ length: count }, (_, index) => index);
  const early = indexes.filter((index) => type.isEarly(index, features));
  const queueSize = kernel.queueSize ?? type.queueSize;
  const earlySize = kernel.queueSize ?? EARLY_QUEUE_SIZE;
  const planned = transport.poolSize ?? type.poolSize(count * queueSize, features);
  const poolSize = kernel.poolSize ?? Math.ceil(planned / POOL_STEP) * POOL_STEP;
  const limits = limitRequests(type, config, features, memory === 'direct' ? null : poolSize);
  return {
    name,
    type: type.name,
    deviceId: type.deviceId,
    features: features | limits,
    queueSizes: indexes.map((index) => (early.includes(index) ? earlySize : queueSize)),
    config,
    isConfigWindow: type.isConfigWindow,
    memory,
    inbound: indexes.filter((index) => type.isInbound(index)),
    fillsSectors: type.fillsSectors,
    early,
    poolSize,
    takeoverMs: kernel.takeoverMs ?? TAKEOVER_MS,
    stopMs: kernel.stopMs ?? STOP_MS,
    callUs: type.callUs,
    log,
  };
}

/** Has config space promise no request for which the pool has no room; returns features besides. */
export function limitRequests(
  type: DeviceType,
  config: Uint8Array,
  features: bigint,
  poolSize: number | null,
): bigint {
  if (poolSize === null) return 0n;
  return type.limitRequests?.(config, features, requestMax(poolSize)) ?? 0n;
}

/** Ports of a console are no parallel queues: of those the device decides. */
function perProcessor({ count, name }: DeviceType): number {
  if (count === null || name === 'console') return QUEUES_MAX;
  return availableParallelism() * count.queuesEach + count.queuesMore;
}

/**
 * Checks that a device that was taken over can be served by this back end.
 * @throws VloError VLO_DEVICE_MISMATCH
 */
export function checkTakenOver(spec: PortSpec, identity: PortIdentity, relay: Relay): void {
  const differ = (what: string): VloError => {
    const hint = 'remove the device, or choose another name';
    return new VloError(
      'VLO_DEVICE_MISMATCH',
      `the kernel's device '${spec.name}' ${what}: ${hint}`,
    );
  };
  const { deviceId, features, queueSizes, configSize } = identity;
  if (deviceId !== spec.deviceId) {
    throw differ(`has the virtio id ${deviceId}, not ${spec.deviceId}`);
  }
  const extra = features & ~(relay.offered | spec.features);
  if (extra !== 0n) {
    throw differ(`has features (0x${extra.toString(16)}) that the back end does not offer`);
  }
  if (queueSizes.length > relay.queueCountMax) {
    throw differ(`has ${queueSizes.length} queues; the back end has ${relay.queueCountMax}`);
  }
  if (configSize !== spec.config.length) {
    throw differ(`has ${configSize} bytes of config space, not ${spec.config.length}`);
  }
}
