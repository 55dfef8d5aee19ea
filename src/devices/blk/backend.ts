/**
 * What a disk's data is kept in, as the device sees it: operations are started, gathered until
 * `commit`, and each ends with one call of `onDone`. A real one is in `backend-file.ts`; the one in
 * `backend-null.ts` runs without any resource and can fail in every way a real one can.
 */
import type { Request, ServedQueue } from '../../kit/index.js';
import type { ChainReader, ChainWriter } from '../../virtio/index.js';

/** Kinds of operations on a disk. */
export const DISK_READ = 0;
export const DISK_WRITE = 1;
export const DISK_FLUSH = 2;
/** Gives the range back; what it reads afterwards is undefined. */
export const DISK_DISCARD = 3;
/** Zeroes the range and may give it back. */
export const DISK_ZERO_UNMAP = 4;
/** Zeroes the range and keeps it allocated. */
export const DISK_ZERO = 5;

/** One operation, and what the device needs to complete its request. Objects are reused. */
export class DiskOperation {
  /** One of the DISK_ constants. */
  kind = DISK_READ;
  /** Offset and size in bytes. */
  offset = 0;
  size = 0;
  /** Where data comes from (writes) or goes to (reads). */
  data: ChainReader | ChainWriter | null = null;
  /** The request, its queue, and its status byte: the device's, not the disk's. */
  request: Request | null = null;
  queue: ServedQueue | null = null;
  status: ChainWriter | null = null;
  /** Operations of the same request that are not done yet, and the first error of them. */
  group: DiskGroup | null = null;
}

/** Several operations that answer one request together (DISCARD with many segments). */
export interface DiskGroup {
  left: number;
  result: number;
}

/** The data of a disk. */
export interface Disk {
  /** Size in bytes, a multiple of 512. */
  readonly size: number;
  readonly isReadOnly: boolean;
  /** Smallest unit in bytes that can be read or written. */
  readonly blockSize: number;
  /** Unit in bytes that can be written without reading around it. */
  readonly physicalBlockSize: number;
  /** True when DISCARD and unmapping are worth offering. */
  readonly canDiscard: boolean;
  /** Called once for each operation with 0 or a negative errno. */
  onDone: (operation: DiskOperation, result: number) => void;
  /** Takes an operation; it may be held back until {@link commit}. */
  start(operation: DiskOperation): void;
  /** Submits what was started. */
  commit(): void;
  /** Looks for operations that ended; true when there were some. */
  poll(): boolean;
  /** Frees everything; no operation is under way. */
  close(): void;
}
