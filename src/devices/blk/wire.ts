/** Wire facts of the block device: virtio 1.x specification, section 5.2. */
import { defineStruct } from '../../virtio/index.js';

/** Feature bits (section 5.2.3), as masks. */
export const BLK_F = {
  SIZE_MAX: 1n << 1n,
  SEG_MAX: 1n << 2n,
  RO: 1n << 5n,
  BLK_SIZE: 1n << 6n,
  FLUSH: 1n << 9n,
  TOPOLOGY: 1n << 10n,
  CONFIG_WCE: 1n << 11n,
  MQ: 1n << 12n,
  DISCARD: 1n << 13n,
  WRITE_ZEROES: 1n << 14n,
} as const;

/** Types of requests (section 5.2.6). */
export const BLK_T = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
} as const;

/** Values of the status byte. */
export const BLK_S = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** Unit in bytes of `capacity` and `sector`, whatever the block size. */
export const SECTOR_SIZE = 512;

/** Size in bytes of the answer to GET_ID. */
export const ID_SIZE = 20;

/** Config space (section 5.2.4). */
export const BlkConfig = defineStruct({
  capacity: 'u64',
  sizeMax: 'u32',
  segMax: 'u32',
  cylinders: 'u16',
  heads: 'u8',
  sectors: 'u8',
  blkSize: 'u32',
  physicalBlockExp: 'u8',
  alignmentOffset: 'u8',
  minIoSize: 'u16',
  optIoSize: 'u32',
  writeback: 'u8',
  unused0: 'u8',
  numQueues: 'u16',
  maxDiscardSectors: 'u32',
  maxDiscardSeg: 'u32',
  discardSectorAlignment: 'u32',
  maxWriteZeroesSectors: 'u32',
  maxWriteZeroesSeg: 'u32',
  writeZeroesMayUnmap: 'u8',
  unused1: { bytes: 3 },
});

/** Header of every request, device-readable. */
export const BlkRequestHeader = defineStruct({ type: 'u32', reserved: 'u32', sector: 'u64' });

/** A segment of a DISCARD or WRITE_ZEROES request, device-readable. */
export const BlkRange = defineStruct({ sector: 'u64', sectorCount: 'u32', flags: 'u32' });

/** Flag of {@link BlkRange}: the device may deallocate the sectors. */
export const RANGE_UNMAP = 1;
