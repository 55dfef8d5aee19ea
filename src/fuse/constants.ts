/** Numbers of the FUSE protocol, as `include/uapi/linux/fuse.h` of Linux has them. */

/** Version that we speak; the kernel and we use the smaller minor number. */
export const FUSE_MAJOR = 7;
export const FUSE_MINOR = 41;

/** Node id of the folder that is mounted. */
export const FUSE_ROOT_ID = 1;

/** Smallest buffer for requests that the kernel accepts, in bytes. */
export const FUSE_MIN_READ_BUFFER = 8192;

/** Flags of INIT (`flags`, and from bit 32 on `flags2`), as bit numbers. */
export const FUSE_INIT_BIT = {
  ASYNC_READ: 0,
  BIG_WRITES: 5,
  ASYNC_DIO: 15,
  PARALLEL_DIROPS: 18,
  ABORT_ERROR: 21,
  MAX_PAGES: 22,
  INIT_EXT: 30,
  OVER_IO_URING: 41,
} as const;

/** Flags of the answer to OPEN. */
export const FOPEN = {
  DIRECT_IO: 1 << 0,
  KEEP_CACHE: 1 << 1,
  NONSEEKABLE: 1 << 2,
  STREAM: 1 << 4,
  NOFLUSH: 1 << 5,
  PARALLEL_DIRECT_WRITES: 1 << 6,
} as const;

/** Which fields of SETATTR count. */
export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  /** It comes through an open file, as from ftruncate. */
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
} as const;

/** Codes of messages from the file system to the kernel that answer nothing. */
export const FUSE_NOTIFY = { INVAL_INODE: 2 } as const;
