/** How the rings of the block driver are laid out for a device. */
import { VloError } from '../../errors.js';
import { F } from '../../virtio/index.js';
import { BLK_F, type BlkConfig, SECTOR_SIZE } from './wire.js';

/** Entries of a queue at most: what all back ends take. */
export const RING_SIZE_MAX = 1024;
/** Segments of a request besides its data: header and status. */
const SEGMENTS_BESIDES = 2;
/** Segments of data that every device takes. */
const DATA_SEGMENTS_MAX = 126;
/** How requests of a slot's size go through rings as the device wants them. */
export function planRings(
  features: bigint,
  config: ReturnType<typeof BlkConfig.decode>,
  wanted: { readonly depth: number; readonly slotSize: number },
) {
  const { slotSize } = wanted;
  const has = (feature: bigint): boolean => (features & feature) !== 0n;
  const unit = has(BLK_F.BLK_SIZE) && config.blkSize >= SECTOR_SIZE ? config.blkSize : SECTOR_SIZE;
  const isLimited = has(BLK_F.SIZE_MAX) && config.sizeMax >= unit && config.sizeMax < slotSize;
  const segmentSize = isLimited ? config.sizeMax - (config.sizeMax % unit) : slotSize;
  const segmentsMax = has(BLK_F.SEG_MAX) && config.segMax > 0 ? config.segMax : DATA_SEGMENTS_MAX;
  const segments = Math.min(Math.ceil(slotSize / segmentSize), segmentsMax, DATA_SEGMENTS_MAX);
  const transferSizeMax = Math.min(slotSize - (slotSize % unit), segments * segmentSize);
  const perRequest = segments + SEGMENTS_BESIDES;
  // Requests go into the ring itself as long as it has room for all of them.
  const isDirect = wanted.depth * perRequest <= RING_SIZE_MAX;
  const hasTables = has(F.INDIRECT_DESC);
  const depth = isDirect || hasTables ? wanted.depth : Math.floor(RING_SIZE_MAX / perRequest);
  // No chain is longer than the ring has entries, whether it lies in a table or not.
  const entryCount = isDirect || !hasTables ? depth * perRequest : Math.max(depth, perRequest);
  return {
    ...{ depth, segmentSize, transferSizeMax },
    size: 2 ** Math.ceil(Math.log2(Math.max(entryCount, 4))),
    tableLength: isDirect || !hasTables ? 0 : perRequest,
  };
}

/** @throws VloError VLO_REQUEST_INVALID */
export function checkRange(
  name: string,
  value: number,
  min: number,
  max: number,
  unit: number,
): void {
  if (Number.isInteger(value) && value >= min && value <= max && value % unit === 0) return;
  const units = unit === 1 ? '' : `, a multiple of ${unit}`;
  throw new VloError('VLO_REQUEST_INVALID', `${name} is ${value}; ${min} to ${max}${units} fit`);
}
