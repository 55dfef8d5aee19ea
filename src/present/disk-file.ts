/**
 * A disk as a file: requests of the kernel become requests of the ring, in the same memory.
 *
 *   READ    slot ─ ring ─► device fills the slot ─► written to the kernel from there
 *   WRITE   read from the kernel into a slot ─ ring ─► device takes it from there
 *
 * One free slot is always held for what the kernel sends next; with none free, the kernel keeps
 * its requests. What is not aligned to blocks, which O_DIRECT forbids and else is rare, is read,
 * changed and written back while no other write is under way.
 */
import { constants } from 'node:fs';
import type { BlkDriver, BlkSlots, SlotHandler } from '../devices/index.js';
import { assert, VloError } from '../errors.js';
import { FOPEN, type FuseChannel, type RingPayload } from '../fuse/index.js';
import { ERRNO, FALLOCATE } from '../native/index.js';
import type { PresentedFile } from './fuse-presentation.js';
import { newCounters } from './presentation.js';

/** Bytes that a slot has besides the largest transfer: a read may begin and end within blocks. */
export const DISK_SLOT_SLACK = 8192;
/** Largest READ and WRITE of the kernel, in bytes. */
export const DISK_TRANSFER_MAX = 1024 * 1024;
/** Requests in flight at most. */
export const DISK_DEPTH = 64;

const { O_DIRECT, O_RDWR, O_WRONLY } = constants;
const FALLOC_FL_KEEP_SIZE = 1;
/** A signal ends a request whose back end has been away for so long, in milliseconds. */
const PATIENCE_MS = 3000;
/** The device does not know the request (section 5.2.6). */
const STATUS_UNSUPPORTED = 2;
const NO_SLOT = -1;
/** Slots that are left to other requests than those of a ring. */
const UNBOUND_MIN = 4;

// What a slot is used for. Of the last two nobody waits for the end.
const READ = 0;
const WRITE = 1;
const SYNC = 2;
const GIVEN_UP = 3;
const GIVEN_UP_WRITE = 4;

export class DiskFile implements PresentedFile, SlotHandler {
  readonly name = 'disk';
  readonly mode: number;
  readonly counters = newCounters();
  channel!: FuseChannel;
  private readonly driver: BlkDriver;
  private readonly slots: BlkSlots;
  private readonly blockSize: number;
  /** The slot that waits for the kernel's next request. */
  private spare = NO_SLOT;
  private lastQueue = 0;
  // By slot.
  private readonly kinds: Uint8Array;
  private readonly lows: Uint32Array;
  private readonly highs: Uint32Array;
  private readonly skips: Uint32Array;
  private readonly sizes: Uint32Array;
  private readonly isInterrupted: Uint8Array;
  /** 1 for a slot that belongs to an entry of a ring, and is never released. */
  private readonly isBound: Uint8Array;
  private entrySlots: readonly number[] = [];
  private writesInFlight = 0;
  /** Calls that need the disk for themselves; while there are some, nothing more is taken. */
  private aloneCount = 0;
  private lastAlone: Promise<void> = Promise.resolve();
  private onNoWrites: (() => void) | null = null;
  private lostTimer: NodeJS.Timeout | null = null;
  private isLost = false;

  constructor(driver: BlkDriver) {
    this.driver = driver;
    this.slots = driver.slots;
    this.mode = driver.isReadOnly ? 0o400 : 0o600;
    this.blockSize = driver.blockSize;
    const { count } = driver.slots;
    this.kinds = new Uint8Array(count).fill(GIVEN_UP);
    this.lows = new Uint32Array(count);
    this.highs = new Uint32Array(count);
    this.skips = new Uint32Array(count);
    this.sizes = new Uint32Array(count);
    this.isInterrupted = new Uint8Array(count);
    this.isBound = new Uint8Array(count);
  }

  get size(): number {
    return this.driver.size;
  }

  payload(): Uint8Array | null {
    if (this.spare === NO_SLOT) {
      if (this.aloneCount > 0) return null;
      this.spare = this.slots.acquire(this, this.nextQueue());
      if (this.spare === NO_SLOT) return null;
    }
    return this.slots.bytes(this.spare);
  }

  payloadAddress(): number {
    return this.slots.localAddress(this.spare);
  }

  bindEntries(count: number): readonly RingPayload[] | null {
    const { slots } = this;
    if (count + UNBOUND_MIN > slots.count) return null;
    const bound = Array.from({ length: count }, () => slots.acquire(this, this.nextQueue()));
    assert(
      bound.every((slot) => slot !== NO_SLOT),
      'the slots were free at first',
    );
    for (const slot of bound) this.isBound[slot] = 1;
    this.entrySlots = bound;
    return bound.map((slot) => ({
      address: slots.localAddress(slot),
      bytes: slots.bytes(slot),
    }));
  }

  withEntry(entry: number, serve: () => void): void {
    const { spare } = this;
    this.spare = this.entrySlots[entry]!;
    serve();
    this.spare = spare;
  }

  /** The queues in turn; one that is full is passed over. */
  private nextQueue(): number {
    const { slots } = this;
    const { queueCount } = slots;
    for (let i = 0; i < queueCount; i += 1) {
      this.lastQueue = this.lastQueue + 1 === queueCount ? 0 : this.lastQueue + 1;
      if (slots.freeCount(this.lastQueue) > 0) break;
    }
    return this.lastQueue;
  }

  open(flags: number): number {
    if (this.driver.isReadOnly && (flags & (O_WRONLY | O_RDWR)) !== 0) return -ERRNO.EROFS!;
    // Nobody but this mount writes to the disk: what the kernel has read stays valid.
    return FOPEN.KEEP_CACHE;
  }

  read(low: number, high: number, offset: number, size: number): void {
    const { blockSize, driver, slots } = this;
    const skip = offset % blockSize;
    // With O_DIRECT a read need not be of whole blocks: one that is too long then is cut short.
    const length = Math.min(size, this.size - offset, driver.transferSizeMax - skip);
    const whole = Math.ceil((skip + length) / blockSize) * blockSize;
    if (length <= 0) this.finish(low, high, 0);
    else slots.read(this.take(READ, low, high, skip, length), offset - skip, whole);
  }

  write(low: number, high: number, offset: number, size: number, flags: number): void {
    const { blockSize, slots } = this;
    const length = Math.min(size, this.size - offset);
    if (this.driver.isReadOnly) this.finish(low, high, ERRNO.EROFS!);
    // As at the end of a block device.
    else if (length <= 0) this.finish(low, high, ERRNO.ENOSPC!);
    else if (offset % blockSize === 0 && length % blockSize === 0) {
      this.writesInFlight += 1;
      slots.write(this.take(WRITE, low, high, 0, length), offset, length);
    } else if ((flags & O_DIRECT) !== 0) this.finish(low, high, ERRNO.EINVAL!);
    else {
      const bytes = slots.bytes(this.spare).slice(0, length);
      this.alone(low, high, length, () => this.writeWithinBlocks(offset, bytes));
    }
  }

  sync(low: number, high: number): void {
    this.slots.flush(this.take(SYNC, low, high, 0, 0));
  }

  allocate(low: number, high: number, mode: number, offset: number, size: number): void {
    const { blockSize, driver } = this;
    const isPunch = mode === FALLOCATE.punchHole;
    const isZero = (mode | FALLOC_FL_KEEP_SIZE) === FALLOCATE.zeroRange;
    const isBeyond = offset + size > this.size;
    // What reaches beyond the end would make the file longer; holes there are there already.
    const mayNot = isBeyond && (mode & FALLOC_FL_KEEP_SIZE) === 0;
    if (driver.isReadOnly) this.finish(low, high, ERRNO.EROFS!);
    else if (mayNot) this.finish(low, high, ERRNO.ENOSPC!);
    else if ((mode & ~FALLOC_FL_KEEP_SIZE) === 0) this.finish(low, high, 0);
    else if (!(isPunch || isZero) || !driver.canWriteZeroes) {
      // A disk has all of its blocks, and no others.
      this.finish(low, high, ERRNO.EOPNOTSUPP!);
    } else {
      const end = Math.min(offset + size, this.size);
      const zero = (): Promise<void> => this.zero(offset, end, isPunch);
      if (end <= offset) this.finish(low, high, 0);
      else if (offset % blockSize === 0 && end % blockSize === 0) {
        // What is read, changed and written back meanwhile would bring back what was there.
        this.writesInFlight += 1;
        void this.finishAfter(low, high, 0, zero).finally(() => this.writeEnded());
      } else this.alone(low, high, 0, zero);
    }
  }

  /** The spare slot becomes that of a request. */
  private take(kind: number, low: number, high: number, skip: number, size: number): number {
    const slot = this.spare;
    this.spare = NO_SLOT;
    this.kinds[slot] = kind;
    this.lows[slot] = low;
    this.highs[slot] = high;
    this.skips[slot] = skip;
    this.sizes[slot] = size;
    this.isInterrupted[slot] = 0;
    return slot;
  }

  /** A request of the ring came back. */
  done(slot: number, status: number): void {
    const kind = this.kinds[slot]!;
    const low = this.lows[slot]!;
    const high = this.highs[slot]!;
    const size = this.sizes[slot]!;
    if (kind < GIVEN_UP) {
      this.counters.requests += 1;
      if (status !== 0) {
        this.counters.errors += 1;
        const errno = status === STATUS_UNSUPPORTED ? ERRNO.EOPNOTSUPP! : ERRNO.EIO!;
        this.channel.replyStatus(low, high, errno);
      } else if (kind === READ) {
        this.counters.bytesRead += size;
        const address = this.slots.localAddress(slot) + this.skips[slot]!;
        this.channel.replyMemory(low, high, address, size);
      } else if (kind === WRITE) {
        this.counters.bytesWritten += size;
        this.channel.replyWritten(low, high, size);
      } else this.channel.replyStatus(low, high, 0);
    }
    this.kinds[slot] = GIVEN_UP;
    if (kind === WRITE || kind === GIVEN_UP_WRITE) this.writeEnded();
    if (this.isBound[slot] === 0) this.slots.release(slot);
  }

  private writeEnded(): void {
    this.writesInFlight -= 1;
    if (this.writesInFlight === 0) this.onNoWrites?.();
  }

  /** Ends a request that needed no device, with an errno or success. */
  private finish(low: number, high: number, errno: number): void {
    this.counters.requests += 1;
    if (errno !== 0) this.counters.errors += 1;
    this.channel.replyStatus(low, high, errno);
  }

  /** Runs what needs several requests of the device; `written` bytes are told if it was a WRITE. */
  private async finishAfter(
    low: number,
    high: number,
    written: number,
    work: () => Promise<void>,
  ): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      this.finish(low, high, ERRNO.EIO!);
      return;
    }
    this.counters.requests += 1;
    this.counters.bytesWritten += written;
    if (written > 0) this.channel.replyWritten(low, high, written);
    else this.channel.replyStatus(low, high, 0);
  }

  /** The same while nothing else is written: blocks are read, changed and written back. */
  private alone(low: number, high: number, written: number, work: () => Promise<void>): void {
    // The work needs a slot itself.
    if (this.isBound[this.spare] === 0) this.slots.release(this.spare);
    this.spare = NO_SLOT;
    this.aloneCount += 1;
    this.lastAlone = this.lastAlone.then(async () => {
      if (this.writesInFlight > 0) {
        await new Promise<void>((resolve) => {
          this.onNoWrites = resolve;
        });
        this.onNoWrites = null;
      }
      await this.finishAfter(low, high, written, work);
      this.aloneCount -= 1;
      this.driver.loop.wake();
    });
  }

  private async writeWithinBlocks(offset: number, bytes: Uint8Array): Promise<void> {
    const { blockSize, driver } = this;
    const first = offset - (offset % blockSize);
    const end = Math.ceil((offset + bytes.length) / blockSize) * blockSize;
    const blocks = await driver.read(first, new Uint8Array(end - first));
    blocks.set(bytes, offset - first);
    await driver.write(first, blocks);
  }

  private async zero(offset: number, end: number, unmap: boolean): Promise<void> {
    const { blockSize } = this;
    const first = Math.ceil(offset / blockSize) * blockSize;
    const last = end - (end % blockSize);
    if (first >= last) {
      await this.writeWithinBlocks(offset, new Uint8Array(end - offset));
      return;
    }
    if (offset < first) await this.writeWithinBlocks(offset, new Uint8Array(first - offset));
    await this.driver.writeZeroes(first, last - first, { unmap });
    if (last < end) await this.writeWithinBlocks(last, new Uint8Array(end - last));
  }

  interrupt(low: number, high: number): void {
    for (let slot = 0; slot < this.kinds.length; slot += 1) {
      if (this.lows[slot] !== low || this.highs[slot] !== high) continue;
      if (this.kinds[slot]! >= GIVEN_UP) continue;
      this.isInterrupted[slot] = 1;
      if (this.isLost) this.giveUpInterrupted();
      return;
    }
  }

  /** The back end was lost, or is there again. */
  connectionChanged(isConnected: boolean): void {
    if (this.lostTimer !== null) clearTimeout(this.lostTimer);
    this.lostTimer = null;
    this.isLost = false;
    if (isConnected) return;
    this.lostTimer = setTimeout(() => {
      this.isLost = true;
      this.giveUpInterrupted();
    }, PATIENCE_MS);
    this.lostTimer.unref();
  }

  /**
   * Lets go those who were interrupted: without a back end they would wait, unkillable, for who
   * knows how long. While it is there, the disk answers soon, and no signal cuts a transfer short.
   */
  private giveUpInterrupted(): void {
    for (let slot = 0; slot < this.kinds.length; slot += 1) {
      const kind = this.kinds[slot]!;
      if (kind >= GIVEN_UP || this.isInterrupted[slot] === 0) continue;
      this.kinds[slot] = kind === WRITE ? GIVEN_UP_WRITE : GIVEN_UP;
      this.finish(this.lows[slot]!, this.highs[slot]!, ERRNO.EINTR!);
    }
  }
}
