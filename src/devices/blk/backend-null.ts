/**
 * A disk in memory that runs on any machine: for tests, demonstrations and measurements of the
 * rings alone. It can fail, be slow, and lose track in every way a real disk can, on request.
 */
import { ERRNO } from '../../native/index.js';
import { ChainReader, ChainWriter } from '../../virtio/index.js';
import {
  DISK_READ,
  DISK_WRITE,
  DISK_ZERO,
  DISK_ZERO_UNMAP,
  type Disk,
  type DiskOperation,
} from './backend.js';

export class MemoryDisk implements Disk {
  readonly size: number;
  readonly isReadOnly: boolean;
  readonly blockSize = 512;
  readonly physicalBlockSize = 512;
  readonly canDiscard = true;
  /** Content of the disk. */
  readonly bytes: Uint8Array;
  onDone: (operation: DiskOperation, result: number) => void = () => {};
  /** Set by tests: returns a negative errno that the operation fails with, or 0. */
  fail: (operation: DiskOperation) => number = () => 0;
  /** Set by tests: operations stay open until {@link release}. */
  isHeld = false;
  private held: DiskOperation[] = [];

  constructor(size: number, isReadOnly = false) {
    this.size = size;
    this.isReadOnly = isReadOnly;
    this.bytes = new Uint8Array(size);
  }

  start(operation: DiskOperation): void {
    if (this.isHeld) this.held.push(operation);
    else this.run(operation);
  }

  /** Runs the operations that were held back, last first: completions out of order. */
  release(): void {
    this.isHeld = false;
    for (const operation of this.held.splice(0).reverse()) this.run(operation);
  }

  private run(operation: DiskOperation): void {
    const { kind, offset, size, data } = operation;
    let result = this.fail(operation);
    const end = offset + size;
    if (result === 0 && end > this.size) result = -ERRNO.EIO!;
    if (result === 0) {
      const range = this.bytes.subarray(offset, end);
      if (kind === DISK_READ && data instanceof ChainWriter) data.write(range);
      else if (kind === DISK_WRITE && data instanceof ChainReader) data.read(range);
      else if (kind === DISK_ZERO || kind === DISK_ZERO_UNMAP) range.fill(0);
    }
    this.onDone(operation, result);
  }

  commit(): void {}

  poll(): boolean {
    return false;
  }

  close(): void {}
}
