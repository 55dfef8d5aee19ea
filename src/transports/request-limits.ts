/**
 * Limits for the size of a driver's requests. The kernel module copies a request into one piece of
 * a session's pool. One that never fits fails; one that leaves little beside it waits long. What
 * config space says of sizes is made to fit, so no driver places such a request.
 */

/** At most this part of a pool is for one request. The frames of small ones take three quarters. */
const REQUEST_SHARE = 4;
/** Bytes of a request beside its data: header, status, and the table of descriptors. */
const REQUEST_OVERHEAD = 16 * 1024;
/** Linux takes no limit for segments that is below a page. */
const SEGMENT_MIN = 4096;
/** Larger segments are a multiple of it: the largest page of the kernels that there are. */
const SEGMENT_STEP = 65536;

const BLK_SIZE_MAX = 1n << 1n;
const BLK_SEG_MAX = 1n << 2n;
const BLK_CONFIG = { sizeMax: 8, segMax: 12 };

const SECTOR_SIZE = 512;
const SCSI_CONFIG = { maxSectors: 8 };
/** What Linux takes where config space has no number. */
const SCSI_SECTORS_MAX = 0xffff;

/** Bytes of data that a request may have, of a device with that pool. */
export function requestMax(poolSize: number): number {
  return Math.floor(poolSize / REQUEST_SHARE) - REQUEST_OVERHEAD;
}

/** A segment takes whole pages of the pool, whatever pages the kernel has. */
function segmentSize(bytes: number): number {
  const step = bytes < SEGMENT_STEP ? SEGMENT_MIN : SEGMENT_STEP;
  return Math.max(SEGMENT_MIN, Math.floor(bytes / step) * step);
}

/**
 * Limits the number of segments of a disk's requests, and their size.
 * @param config changed in place
 * @param features those of the device
 * @param bytes that a request may have
 * @returns features to offer besides
 */
export function limitBlk(config: Uint8Array, features: bigint, bytes: number): bigint {
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const read = (feature: bigint, offset: number) =>
    (features & feature) === 0n ? 0 : view.getUint32(offset, true);
  // A driver has one segment for all of its data where the device does not say how many.
  const offered = Math.max(1, read(BLK_SEG_MAX, BLK_CONFIG.segMax));
  const segments = Math.min(offered, Math.floor(bytes / SEGMENT_MIN));
  if (segments < offered) view.setUint32(BLK_CONFIG.segMax, segments, true);
  const size = segmentSize(bytes / segments);
  const own = read(BLK_SIZE_MAX, BLK_CONFIG.sizeMax) || size;
  view.setUint32(BLK_CONFIG.sizeMax, Math.min(own, size), true);
  return BLK_SIZE_MAX;
}

/** The same for a SCSI host, which has a limit for whole requests. */
export function limitScsi(config: Uint8Array, _features: bigint, bytes: number): bigint {
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const own = view.getUint32(SCSI_CONFIG.maxSectors, true) || SCSI_SECTORS_MAX;
  // Segments of odd sizes take up to twice their room.
  const most = Math.floor(bytes / 2 / SECTOR_SIZE);
  view.setUint32(SCSI_CONFIG.maxSectors, Math.min(own, most), true);
  return 0n;
}
