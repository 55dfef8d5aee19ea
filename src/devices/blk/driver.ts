/**
 * The block driver: a disk behind any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const disk = await BlkDriver.connect({ path: '/tmp/disk.sock' });
 * await disk.write(0, Buffer.alloc(4096, 7));
 * await disk.flush();
 * const bytes = await disk.read(0, new Uint8Array(4096));
 * await disk.close();
 * ```
 *
 * Requests of any size are cut into pieces of a slot each, spread over the queues, and wait in
 * order when all slots are taken. A back end that dies and returns costs no request. Who wants no
 * allocation for each request uses {@link BlkDriver.slots}.
 */
import { VloError } from '../../errors.js';
import { DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { DriverLoop } from '../../kit/driver-loop.js';
import { type Call, Piece, type PiecePlan } from './driver-call.js';
import { checkRange, planRings, RING_SIZE_MAX } from './driver-plan.js';
import { BlkSlots, type SlotHandler, STATUS_LOST, STATUS_MISSING } from './driver-slots.js';
import { Transfer } from './driver-transfer.js';
import { BLK_F, BLK_S, BLK_T, BlkConfig, ID_SIZE, RANGE_UNMAP, SECTOR_SIZE } from './wire.js';

export interface BlkDriverOptions extends DriverOptions {
  /** Queues to use, if the back end has so many; default 1. */
  readonly queueCount?: number;
  /** Requests in flight on each queue at a time, 1 to 1024; default 64. */
  readonly depth?: number;
  /** Bytes of shared memory for the data of one request, a multiple of 4096; default 128 KiB. */
  readonly slotSize?: number;
  /** The config space has changed: the size may be another. */
  readonly onResize?: (size: number) => void;
}

/** Options of one call. */
export interface RequestOptions {
  /** Ends the waiting; what the device does meanwhile with the request is undefined. */
  readonly signal?: AbortSignal;
}

/** Largest number of bytes of a request whatever the slots hold. */
const SLOT_SIZE_MAX = 2 ** 24;

const WANTED =
  BLK_F.SIZE_MAX |
  BLK_F.SEG_MAX |
  BLK_F.RO |
  BLK_F.BLK_SIZE |
  BLK_F.FLUSH |
  BLK_F.MQ |
  BLK_F.DISCARD |
  BLK_F.WRITE_ZEROES;

const STATUS_NAMES: Readonly<Record<number, string>> = {
  [BLK_S.IOERR]: 'IOERR',
  [BLK_S.UNSUPP]: 'UNSUPP',
  [STATUS_MISSING]: 'no status at all',
};

export class BlkDriver {
  /** The path without allocation; see `driver-slots.ts`. */
  readonly slots: BlkSlots;
  /** Bytes of the largest request that is placed as one. */
  transferSizeMax = 0;
  private readonly host: DriverHost;
  private readonly onResize: (size: number) => void;
  private config: ReturnType<typeof BlkConfig.decode>;
  /** By slot: what serves a read or write of one request. */
  private readonly transfers: Transfer[] = [];
  private readonly quickHandler: SlotHandler = {
    done: (slot, status) => this.transfers[slot]!.done(slot, status),
  };
  private waiting: Piece[] = [];
  private waitingFirst = 0;
  private nextQueue = 0;

  private constructor(
    host: DriverHost,
    slots: BlkSlots,
    config: ReturnType<typeof BlkConfig.decode>,
    options: BlkDriverOptions,
  ) {
    this.host = host;
    this.slots = slots;
    this.config = config;
    this.blockSize = this.has(BLK_F.BLK_SIZE) ? Math.max(SECTOR_SIZE, config.blkSize) : SECTOR_SIZE;
    this.isReadOnly = this.has(BLK_F.RO);
    this.onResize = options.onResize ?? (() => {});
    slots.onRelease = () => this.pump();
    slots.onConfigChange = () => void this.readConfig();
    slots.onFail = () => this.failWaiting();
  }

  /**
   * Connects to a back end and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_BACKEND_REFUSED, VLO_TIMEOUT or
   * VLO_PROTOCOL as the back end behaves; VLO_REQUEST_INVALID for options out of range
   */
  static async connect(options: BlkDriverOptions): Promise<BlkDriver> {
    const { depth = 64, slotSize = 128 * 1024 } = options;
    checkRange('depth', depth, 1, RING_SIZE_MAX, 1);
    checkRange('slotSize', slotSize, 4096, SLOT_SIZE_MAX, 4096);
    checkRange('queueCount', options.queueCount ?? 1, 1, 256, 1);
    const host = await DriverHost.connect(options, WANTED);
    try {
      const config = BlkConfig.decode(await host.readConfig(0, BlkConfig.size));
      const offered = (host.features & BLK_F.MQ) !== 0n ? Math.max(1, config.numQueues) : 1;
      const queueCount = Math.min(options.queueCount ?? 1, offered, host.queueCountMax);
      const rings = planRings(host.features, config, { depth, slotSize });
      const plan = { queueCount, depth: rings.depth, slotSize, segmentSize: rings.segmentSize };
      const slots = new BlkSlots(host, plan);
      const driver = new BlkDriver(host, slots, config, options);
      driver.transferSizeMax = rings.transferSizeMax;
      const { size, tableLength } = rings;
      const extraBytes = BlkSlots.bytesNeeded(plan);
      await host.open({ count: queueCount, size, tableLength, extraBytes }, slots);
      slots.attach();
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /** Size of the disk in bytes. */
  get size(): number {
    return this.config.capacity * SECTOR_SIZE;
  }

  /** Unit in bytes of offsets and sizes. */
  readonly blockSize: number;
  readonly isReadOnly: boolean;

  get canDiscard(): boolean {
    return this.has(BLK_F.DISCARD);
  }

  get canWriteZeroes(): boolean {
    return this.has(BLK_F.WRITE_ZEROES);
  }

  /** Number of queues in use. */
  get queueCount(): number {
    return this.slots.queueCount;
  }

  /** @internal The loop that publishes what is placed, for whoever brings requests. */
  get loop(): DriverLoop {
    return this.host.loop;
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /**
   * Fills `target` from `offset` on and returns it.
   * @throws VloError VLO_REQUEST_INVALID out of range or not aligned; VLO_DEVICE_FAILED when the
   * device says so; VLO_DISCONNECTED when the back end was not found again; VLO_CLOSED
   */
  read<T extends Uint8Array>(offset: number, target: T, options: RequestOptions = {}): Promise<T> {
    try {
      this.checkTransfer(offset, target.length);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.isQuick(target, options)) {
      return this.quick(offset, target, false) as Promise<T>;
    }
    const plans: PiecePlan[] = [];
    const pieceSize = this.transferSizeMax;
    for (let at = 0; at < target.length; at += pieceSize) {
      const part = target.subarray(at, at + pieceSize);
      plans.push({
        place: (slots, slot) => slots.read(slot, offset + at, part.length),
        take: (slots, slot) => part.set(slots.bytes(slot).subarray(0, part.length)),
      });
    }
    return this.run('read', plans, options).then(() => target);
  }

  /** Writes `source` from `offset` on. It must not change until then. @throws as {@link read} */
  write(offset: number, source: Uint8Array, options: RequestOptions = {}): Promise<void> {
    try {
      this.checkTransfer(offset, source.length);
      this.checkWritable();
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.isQuick(source, options)) return this.quick(offset, source, true).then(nothing);
    const plans: PiecePlan[] = [];
    const pieceSize = this.transferSizeMax;
    for (let at = 0; at < source.length; at += pieceSize) {
      const part = source.subarray(at, at + pieceSize);
      plans.push({
        place: (slots, slot) => {
          slots.bytes(slot).set(part);
          slots.write(slot, offset + at, part.length);
        },
        take: null,
      });
    }
    return this.run('write', plans, options);
  }

  /** Makes all writes durable that have ended. Without FLUSH they are already. */
  async flush(options: RequestOptions = {}): Promise<void> {
    if (!this.has(BLK_F.FLUSH)) return;
    await this.run('flush', [{ place: (slots, slot) => slots.flush(slot), take: null }], options);
  }

  /** Gives a range back; what it reads from then on is undefined. @throws as {@link read} */
  async discard(offset: number, size: number, options: RequestOptions = {}): Promise<void> {
    this.checkTransfer(offset, size);
    this.checkWritable();
    this.need(BLK_F.DISCARD, 'DISCARD');
    const { maxDiscardSectors, discardSectorAlignment } = this.config;
    const unit = Math.max(1, discardSectorAlignment) * SECTOR_SIZE;
    const plans = this.ranges(BLK_T.DISCARD, offset, size, maxDiscardSectors, unit, 0);
    await this.run('discard', plans, options);
  }

  /**
   * Zeroes a range; `unmap` (default false) lets the device give it back. @throws as {@link read}
   */
  async writeZeroes(
    offset: number,
    size: number,
    options: RequestOptions & { readonly unmap?: boolean } = {},
  ): Promise<void> {
    this.checkTransfer(offset, size);
    this.checkWritable();
    this.need(BLK_F.WRITE_ZEROES, 'WRITE_ZEROES');
    const flags = options.unmap === true ? RANGE_UNMAP : 0;
    const { maxWriteZeroesSectors } = this.config;
    const unit = this.blockSize;
    const plans = this.ranges(BLK_T.WRITE_ZEROES, offset, size, maxWriteZeroesSectors, unit, flags);
    await this.run('write zeroes', plans, options);
  }

  /** The device's serial number, at most 20 characters. */
  async getId(options: RequestOptions = {}): Promise<string> {
    let id = '';
    const plan: PiecePlan = {
      place: (slots, slot) => slots.getId(slot),
      take: (slots, slot) => {
        const bytes = slots.bytes(slot).subarray(0, ID_SIZE);
        const end = bytes.indexOf(0);
        id = Buffer.from(bytes.subarray(0, end < 0 ? ID_SIZE : end)).toString('latin1');
      },
    };
    await this.run('get id', [plan], options);
    return id;
  }

  /** Gives the back end up: what is under way fails with `error`, and so does all that follows. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver: what is under way fails with VLO_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** True when one request does it, nobody waits before it, and nobody can give it up. */
  private isQuick(bytes: Uint8Array, { signal }: RequestOptions): boolean {
    const isOne = bytes.length > 0 && bytes.length <= this.transferSizeMax;
    if (!isOne || signal !== undefined || this.waiting.length > 0) return false;
    this.nextQueue = this.freeQueue();
    return this.slots.freeCount(this.nextQueue) > 0;
  }

  private quick(offset: number, bytes: Uint8Array, isWrite: boolean): Promise<Uint8Array> {
    const { slots, transfers, nextQueue } = this;
    const slot = slots.acquire(this.quickHandler, nextQueue);
    this.nextQueue = nextQueue + 1 === slots.queueCount ? 0 : nextQueue + 1;
    transfers[slot] ??= new Transfer(this, slot);
    return transfers[slot].start(offset, bytes, isWrite);
  }

  /** The next queue with a free slot; if there is none, any. */
  private freeQueue(): number {
    const { slots } = this;
    const { queueCount } = slots;
    let queue = this.nextQueue;
    for (let i = 1; i < queueCount && slots.freeCount(queue) === 0; i += 1) {
      queue = (queue + 1) % queueCount;
    }
    return queue;
  }

  private has(feature: bigint): boolean {
    return (this.host.features & feature) !== 0n;
  }

  private need(feature: bigint, name: string): void {
    if (this.has(feature)) return;
    throw new VloError('VLO_BACKEND_FEATURES', `the back end does not offer ${name}`);
  }

  private checkWritable(): void {
    if (this.isReadOnly) throw new VloError('VLO_REQUEST_INVALID', 'the disk is read-only');
  }

  private checkTransfer(offset: number, size: number): void {
    if (this.error !== null) throw this.error;
    this.checkUnit('offset', offset);
    this.checkUnit('size', size);
    if (offset + size <= this.size) return;
    throw new VloError(
      'VLO_REQUEST_INVALID',
      `${size} bytes at ${offset} exceed the disk, which has ${this.size} bytes`,
    );
  }

  private checkUnit(name: string, value: number): void {
    const { blockSize } = this;
    if (Number.isSafeInteger(value) && value >= 0 && value % blockSize === 0) return;
    const problem = `${name} ${value} is not a multiple of the block size, ${blockSize}`;
    throw new VloError('VLO_REQUEST_INVALID', problem);
  }

  private ranges(
    type: number,
    offset: number,
    size: number,
    sectorsMax: number,
    unit: number,
    flags: number,
  ): PiecePlan[] {
    const most = (sectorsMax === 0 ? 2 ** 21 : sectorsMax) * SECTOR_SIZE;
    const step = most < unit ? most : most - (most % unit);
    const plans: PiecePlan[] = [];
    for (let at = 0; at < size; at += step) {
      const length = Math.min(step, size - at);
      const place = (slots: BlkSlots, slot: number): void =>
        slots.range(slot, type, offset + at, length, flags);
      plans.push({ place, take: null });
    }
    return plans;
  }

  private run(
    name: string,
    plans: readonly PiecePlan[],
    { signal }: RequestOptions,
  ): Promise<void> {
    if (this.error !== null) return Promise.reject(this.error);
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (plans.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = (): void => this.abort(call, signal!.reason);
      const settle = (): void => signal?.removeEventListener('abort', onAbort);
      const call: Call = {
        name,
        resolve: () => {
          settle();
          resolve();
        },
        reject: (error) => {
          settle();
          reject(error);
        },
        piecesLeft: plans.length,
        error: null,
        isAborted: false,
      };
      signal?.addEventListener('abort', onAbort);
      for (const { place, take } of plans) this.waiting.push(new Piece(this, call, place, take));
      this.pump();
    });
  }

  /** Places what waits, as far as there are slots. */
  private pump(): void {
    const { slots } = this;
    const { queueCount } = slots;
    while (this.waitingFirst < this.waiting.length && this.error === null) {
      const queue = this.freeQueue();
      if (slots.freeCount(queue) === 0) return;
      this.nextQueue = (queue + 1) % queueCount;
      const piece = this.waiting[this.waitingFirst]!;
      this.waitingFirst += 1;
      if (!piece.call.isAborted) piece.place(slots, slots.acquire(piece, queue));
    }
    if (this.waitingFirst < this.waiting.length) return;
    this.waiting = [];
    this.waitingFirst = 0;
  }

  /** @internal */
  pieceDone(piece: Piece, slot: number, status: number): void {
    const { call } = piece;
    if (status === BLK_S.OK) {
      if (!call.isAborted) piece.take?.(this.slots, slot);
    } else {
      call.error ??= this.statusError(call.name, status);
    }
    this.slots.release(slot);
    this.endPiece(call);
  }

  private endPiece(call: Call): void {
    call.piecesLeft -= 1;
    // Not before the last piece: the caller's memory is its own again.
    if (call.piecesLeft > 0 || call.isAborted) return;
    if (call.error !== null) call.reject(call.error);
    else call.resolve();
    this.host.loop.yieldSoon();
  }

  /** @internal */
  statusError(name: string, status: number): VloError {
    if (status === STATUS_LOST && this.error !== null) return this.error;
    const text = STATUS_NAMES[status] ?? `status ${status}`;
    return new VloError('VLO_DEVICE_FAILED', `the device answered ${text} to ${name}`);
  }

  private abort(call: Call, reason: unknown): void {
    call.isAborted = true;
    call.reject(reason);
  }

  private failWaiting(): void {
    const waiting = this.waiting.slice(this.waitingFirst);
    this.waiting = [];
    this.waitingFirst = 0;
    for (const { call } of waiting) {
      call.error ??= this.error;
      this.endPiece(call);
    }
  }

  private async readConfig(): Promise<void> {
    const { size } = this;
    const bytes = await this.host.readConfig(0, BlkConfig.size).catch(() => null);
    if (bytes === null) return; // The back end is gone; its successor is asked when it changes.
    this.config = BlkConfig.decode(bytes);
    if (this.size !== size) this.onResize(this.size);
  }
}

const nothing = (): void => {};
