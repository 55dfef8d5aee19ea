/** Identifiers of the virtio 1.x specification: device ids, feature bits, device status. */

/** Virtio device ids (section 5). */
export const VIRTIO_ID = {
  net: 1,
  blk: 2,
  console: 3,
  rng: 4,
  balloon: 5,
  scsi: 8,
  input: 18,
  vsock: 19,
  crypto: 20,
  iommu: 23,
  sound: 25,
  fs: 26,
  i2c: 34,
  can: 36,
  gpio: 41,
} as const;

/** Device-independent feature bits (section 6), as masks. */
export const F = {
  INDIRECT_DESC: 1n << 28n,
  EVENT_IDX: 1n << 29n,
  VERSION_1: 1n << 32n,
  ACCESS_PLATFORM: 1n << 33n,
  RING_PACKED: 1n << 34n,
  IN_ORDER: 1n << 35n,
  ORDER_PLATFORM: 1n << 36n,
  SR_IOV: 1n << 37n,
  NOTIFICATION_DATA: 1n << 38n,
  NOTIF_CONFIG_DATA: 1n << 39n,
  RING_RESET: 1n << 40n,
  ADMIN_VQ: 1n << 41n,
} as const;

/** Bits of the device status field (section 2.1). */
export const STATUS = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  DEVICE_NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** Largest size of a queue, split or packed (sections 2.7 and 2.8). */
export const QUEUE_SIZE_MAX = 32768;

/** What a ring needs to know of the negotiated features. */
export interface RingFeatures {
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIndex: boolean;
  readonly inOrder: boolean;
}

/** Picks the ring's features out of the negotiated ones. */
export function ringFeatures(features: bigint): RingFeatures {
  return {
    packed: (features & F.RING_PACKED) !== 0n,
    indirect: (features & F.INDIRECT_DESC) !== 0n,
    eventIndex: (features & F.EVENT_IDX) !== 0n,
    inOrder: (features & F.IN_ORDER) !== 0n,
  };
}
