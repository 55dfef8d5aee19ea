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
import { BlkSlots, type SlotHandler, STATUS_LOST, STATUS_MISSING } from './driver-slots.js';
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

/** Entries of a queue at most: what all back ends take. */
const RING_SIZE_MAX = 1024;
/** Descriptors of a request at most: header, data, status. */
const SEGMENTS_PER_REQUEST = 3;
/** Largest number of bytes of a request whatever the slots hold. */
const SLOT_SIZE_MAX = 2 ** 24;

const WANTED =
  BLK_F.SIZE_MAX |
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

/** What one call has the device do: all pieces of it. */
interface Call {
  readonly name: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  piecesLeft: number;
  error: VloError | null;
  /** The caller waits no longer; nothing of its memory is touched any more. */
  isAborted: boolean;
}

/** One request of a call: placed as soon as a slot is free. */
class Piece implements SlotHandler {
  readonly call: Call;
  /** Places the request; the slot is the piece's. */
  readonly place: (slots: BlkSlots, slot: number) => void;
  /** Takes the result out of the slot. */
  readonly take: ((slots: BlkSlots, slot: number) => void) | null;
  private readonly driver: BlkDriver;

  constructor(
    driver: BlkDriver,
    call: Call,
    place: (slots: BlkSlots, slot: number) => void,
    take: ((slots: BlkSlots, slot: number) => void) | null,
  ) {
    this.driver = driver;
    this.call = call;
    this.place = place;
    this.take = take;
  }

  done(slot: number, status: number): void {
    this.driver.pieceDone(this, slot, status);
  }
}

type PiecePlan = Pick<Piece, 'place' | 'take'>;

export class BlkDriver {
  /** The path without allocation; see `driver-slots.ts`. */
  readonly slots: BlkSlots;
  private readonly host: DriverHost;
  private readonly onResize: (size: number) => void;
  private config: ReturnType<typeof BlkConfig.decode>;
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
      // Requests go into the ring itself as long as it has room for all of them.
      const isDirect = depth * SEGMENTS_PER_REQUEST <= RING_SIZE_MAX;
      const entryCount = isDirect ? depth * SEGMENTS_PER_REQUEST : depth;
      const size = 2 ** Math.ceil(Math.log2(Math.max(entryCount, 4)));
      const tableLength = isDirect ? 0 : SEGMENTS_PER_REQUEST + 1;
      const slots = new BlkSlots(host, queueCount, depth, slotSize);
      const driver = new BlkDriver(host, slots, config, options);
      const extraBytes = BlkSlots.bytesNeeded(queueCount, depth, slotSize);
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
  get blockSize(): number {
    const { blkSize } = this.config;
    return this.has(BLK_F.BLK_SIZE) && blkSize >= SECTOR_SIZE ? blkSize : SECTOR_SIZE;
  }

  get isReadOnly(): boolean {
    return this.has(BLK_F.RO);
  }

  get canDiscard(): boolean {
    return this.has(BLK_F.DISCARD);
  }

  get canWriteZeroes(): boolean {
    return this.has(BLK_F.WRITE_ZEROES);
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
  async read<T extends Uint8Array>(
    offset: number,
    target: T,
    options: RequestOptions = {},
  ): Promise<T> {
    this.checkTransfer(offset, target.length);
    const plans: PiecePlan[] = [];
    const pieceSize = this.pieceSize();
    for (let at = 0; at < target.length; at += pieceSize) {
      const part = target.subarray(at, at + pieceSize);
      plans.push({
        place: (slots, slot) => slots.read(slot, offset + at, part.length),
        take: (slots, slot) => part.set(slots.bytes(slot).subarray(0, part.length)),
      });
    }
    await this.run('read', plans, options);
    return target;
  }

  /** Writes `source` from `offset` on. It must not change until then. @throws as {@link read} */
  async write(offset: number, source: Uint8Array, options: RequestOptions = {}): Promise<void> {
    this.checkTransfer(offset, source.length);
    this.checkWritable();
    const plans: PiecePlan[] = [];
    const pieceSize = this.pieceSize();
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
    await this.run('write', plans, options);
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

  /** Ends the driver: what is under way fails with VLO_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private has(feature: bigint): boolean {
    return (this.host.features & feature) !== 0n;
  }

  private need(feature: bigint, name: string): void {
    if (this.has(feature)) return;
    throw new VloError('VLO_BACKEND_FEATURES', `the back end does not offer ${name}`);
  }

  /** Bytes of the largest request: the slot's, and no more than the device takes in a segment. */
  private pieceSize(): number {
    const { sizeMax } = this.config;
    const { slotSize } = this.slots;
    if (!this.has(BLK_F.SIZE_MAX) || sizeMax < this.blockSize || sizeMax >= slotSize) {
      return slotSize - (slotSize % this.blockSize);
    }
    return sizeMax - (sizeMax % this.blockSize);
  }

  private checkWritable(): void {
    if (this.isReadOnly) throw new VloError('VLO_REQUEST_INVALID', 'the disk is read-only');
  }

  private checkTransfer(offset: number, size: number): void {
    if (this.error !== null) throw this.error;
    const { blockSize } = this;
    for (const [name, value] of [
      ['offset', offset],
      ['size', size],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 0 || value % blockSize !== 0) {
        const problem = `${name} ${value} is not a multiple of the block size, ${blockSize}`;
        throw new VloError('VLO_REQUEST_INVALID', problem);
      }
    }
    if (offset + size <= this.size) return;
    throw new VloError(
      'VLO_REQUEST_INVALID',
      `${size} bytes at ${offset} exceed the disk, which has ${this.size} bytes`,
    );
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
      let queue = this.nextQueue;
      for (let i = 1; i < queueCount && slots.freeCount(queue) === 0; i += 1) {
        queue = (queue + 1) % queueCount;
      }
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

  private statusError(name: string, status: number): VloError {
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

function checkRange(name: string, value: number, min: number, max: number, unit: number): void {
  if (Number.isInteger(value) && value >= min && value <= max && value % unit === 0) return;
  const units = unit === 1 ? '' : `, a multiple of ${unit}`;
  throw new VloError('VLO_REQUEST_INVALID', `${name} is ${value}; ${min} to ${max}${units} fit`);
}
