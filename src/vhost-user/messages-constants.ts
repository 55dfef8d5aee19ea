/**
 * Numbers of the vhost-user protocol: header flags, feature bits, limits, special bits of payloads.
 *
 * From "Vhost-user Protocol" in QEMU's documentation; section names are given where they help.
 */

/** Bytes of a message's header: request, flags and size, 32 bits each (section "Header"). */
export const HEADER_BYTES = 12;

/** Fields of the header's flags word (section "Header"). */
export const HEADER_FLAGS = {
  /** Bits 0-1 hold the version, which is 1. */
  VERSION_MASK: 0x3,
  VERSION: 0x1,
  /** Set in every reply, in no request. */
  REPLY: 1 << 2,
  /** The sender wants to know how it went; only with REPLY_ACK. */
  NEED_REPLY: 1 << 3,
} as const;

/** Virtio feature bits, as numbers, to which vhost-user gives a meaning of its own. */
export const VIRTIO_FEATURE_BIT = {
  /** VHOST_F_LOG_ALL: log all writes to guest memory (section "Migration"). */
  LOG_ALL: 26,
  /** VHOST_USER_F_PROTOCOL_FEATURES: there are protocol features to negotiate. */
  PROTOCOL_FEATURES: 30,
  /** VIRTIO_F_ACCESS_PLATFORM: addresses go through the IOTLB (section "IOMMU support"). */
  ACCESS_PLATFORM: 33,
} as const;

/** Protocol feature bits, as numbers (section "Protocol features"). */
export const PROTOCOL_FEATURE_BIT = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  XEN_MMAP: 17,
  SHARED_OBJECT: 18,
  DEVICE_STATE: 19,
  GET_VRING_BASE_INFLIGHT: 20,
  /** Ring and region addresses are guest physical; peers of old may mean SHMEM by this bit. */
  GPA_ADDRESSES: 21,
  SHMEM: 22,
} as const;

/** Name of a protocol feature, without the prefix VHOST_USER_PROTOCOL_F_. */
export type ProtocolFeature = keyof typeof PROTOCOL_FEATURE_BIT;

function masks<T extends Readonly<Record<string, number>>>(
  bits: T,
): { readonly [K in keyof T]: bigint } {
  const entries = Object.entries(bits).map(([name, bit]) => [name, 1n << BigInt(bit)]);
  return Object.fromEntries(entries);
}

/** {@link VIRTIO_FEATURE_BIT} as masks for feature words. */
export const VIRTIO_FEATURE = masks(VIRTIO_FEATURE_BIT);

/** {@link PROTOCOL_FEATURE_BIT} as masks for feature words. */
export const PROTOCOL_FEATURE = masks(PROTOCOL_FEATURE_BIT);

/** Regions in one SET_MEM_TABLE: a message carries at most 8 descriptors in the baseline. */
export const MEM_TABLE_REGIONS_MAX = 8;

/**
 * Memory slots that we offer under CONFIGURE_MEM_SLOTS: what the other back ends offer, and what
 * the kernel's vhost allows by default. Front ends size their hot-plug slots by it.
 */
export const MEM_SLOTS_MAX = 509;

/**
 * Descriptors in one message: the baseline's limit (one for each region of SET_MEM_TABLE), and the
 * limit that section "Back-end communication" sets for the other direction.
 */
export const FDS_MAX = 8;

/**
 * Bytes of config space in one message. QEMU stops at 256, rust-vmm just below 4096; devices such
 * as input and sound grow, so a page is taken whole.
 */
export const CONFIG_BYTES_MAX = 4096;

/**
 * Bytes of a payload. Has to hold a full config message (4108), the list of shared memory sizes
 * (2056) and a crypto session (QEMU's has under 2 KiB); all else is far smaller. A peer that
 * announces more is broken or hostile, and no memory is allocated for it.
 */
export const PAYLOAD_BYTES_MAX = 8192;

/** Entries in the reply to GET_SHMEM_CONFIG: one for each shared memory id of 8 bits. */
export const SHMEM_REGIONS = 256;

/** Parts of the word in SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR, and of other words. */
export const VRING_FD = {
  /** Bits 0-7: the ring's index. */
  INDEX_MASK: 0xffn,
  /** Bit 8: no descriptor comes along. */
  NO_FD: 0x100n,
} as const;

/** Flags of SET_VRING_ADDR. */
export const VRING_ADDR_FLAG = {
  /** VHOST_VRING_F_LOG: log the writes to the used ring too, at the address `log`. */
  LOG: 1,
} as const;

/** Flags of SET_CONFIG: why the front end writes. */
export const CONFIG_FLAG = {
  /** The driver wrote: only fields that a driver may write. */
  WRITABLE: 0,
  /** A migration restores the whole space: read-only fields too. */
  LIVE_MIGRATION: 1,
} as const;

/** Bytes of guest memory for each bit of the dirty log (section "Migration"). */
export const LOG_PAGE_BYTES = 0x1000;
