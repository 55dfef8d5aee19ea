/**
 * The requests of the block device (virtio 1.x, section 5.2.6).
 *
 *   readable:  header (16 bytes) | data of OUT, ranges of DISCARD and WRITE_ZEROES
 *   writable:  data of IN, id of GET_ID | status (the last byte)
 */
import { LATER, type OpenDevice, type Request, type ServedQueue } from '../../kit/index.js';
import { DriverFault } from '../../virtio/index.js';
import {
  DISK_DISCARD,
  DISK_FLUSH,
  DISK_READ,
  DISK_WRITE,
  DISK_ZERO,
  DISK_ZERO_UNMAP,
  type Disk,
  type DiskGroup,
  DiskOperation,
} from './backend.js';
import {
  BLK_F,
  BLK_S,
  BLK_T,
  BlkConfig,
  BlkRange,
  BlkRequestHeader,
  ID_SIZE,
  RANGE_UNMAP,
  SECTOR_SIZE,
} from './wire.js';

/** Largest DISCARD and WRITE_ZEROES segment, in sectors: 1 GiB, which one system call can zero. */
const RANGE_SECTORS_MAX = 2 ** 21;
/** Most segments of a DISCARD or WRITE_ZEROES request. */
const RANGE_COUNT_MAX = 64;
/** Most data segments of a request: an iovec list of one call minus what merging may add. */
const SEGMENT_COUNT_MAX = 254;
/** Largest segment in bytes; the unit that memory is handled in. */
const SEGMENT_SIZE_MAX = 2 ** 30;

export interface BlkDeviceOptions {
  readonly queueCount: number;
  /** Up to 20 bytes that GET_ID answers. */
  readonly serial: string;
  /** Tells the host that the config space changed. */
  readonly setConfig: (bytes: Uint8Array) => void;
  /** Runs the service loop soon, which commits operations started outside of it. */
  readonly wake: () => void;
}

/** Serves the requests of one disk. */
export class BlkDevice {
  private readonly disk: Disk;
  private readonly options: BlkDeviceOptions;
  private readonly sectorCount: number;
  private readonly id = new Uint8Array(ID_SIZE);
  private readonly spare: DiskOperation[] = [];
  private configBytes: Uint8Array;
  private features = 0n;
  /** False: a write is complete only when it is durable (section 5.2.6.2). */
  private isWriteback = true;

  constructor(disk: Disk, options: BlkDeviceOptions) {
    this.disk = disk;
    this.options = options;
    this.sectorCount = disk.size / SECTOR_SIZE;
    this.id.set(new TextEncoder().encode(options.serial).subarray(0, ID_SIZE));
    this.configBytes = this.encodeConfig();
    disk.onDone = (operation, result) => this.diskDone(operation, result);
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'requestq'> {
    const { disk } = this;
    return {
      features: this.offeredFeatures(),
      config: this.configBytes,
      queueCounts: { requestq: this.options.queueCount },
      handlers: { requestq: (request, queue) => this.serve(request, queue) },
      commit: () => disk.commit(),
      poll: () => disk.poll(),
      setFeatures: (features) => this.setFeatures(features),
      writeConfig: (offset, bytes) => this.writeConfig(offset, bytes),
      reset: () => this.reset(),
      close: () => disk.close(),
    };
  }

  private offeredFeatures(): bigint {
    const { disk } = this;
    const always =
      BLK_F.SIZE_MAX |
      BLK_F.SEG_MAX |
      BLK_F.BLK_SIZE |
      BLK_F.FLUSH |
      BLK_F.TOPOLOGY |
      BLK_F.CONFIG_WCE |
      BLK_F.MQ;
    if (disk.isReadOnly) return always | BLK_F.RO;
    return always | BLK_F.WRITE_ZEROES | (disk.canDiscard ? BLK_F.DISCARD : 0n);
  }

  private encodeConfig(): Uint8Array {
    const { blockSize, physicalBlockSize } = this.disk;
    const limits = { maxSectors: RANGE_SECTORS_MAX, maxSeg: RANGE_COUNT_MAX };
    return BlkConfig.encode({
      capacity: this.sectorCount,
      sizeMax: SEGMENT_SIZE_MAX,
      segMax: SEGMENT_COUNT_MAX,
      blkSize: blockSize,
      physicalBlockExp: Math.max(0, Math.log2(physicalBlockSize / blockSize)),
      minIoSize: Math.max(1, physicalBlockSize / blockSize),
      writeback: this.isWriteback ? 1 : 0,
      numQueues: this.options.queueCount,
      maxDiscardSectors: limits.maxSectors,
      maxDiscardSeg: limits.maxSeg,
      discardSectorAlignment: Math.max(1, physicalBlockSize / SECTOR_SIZE),
      maxWriteZeroesSectors: limits.maxSectors,
      maxWriteZeroesSeg: limits.maxSeg,
      writeZeroesMayUnmap: 1,
    });
  }

  private setFeatures(features: bigint): void {
    this.features = features;
    // A driver that cannot flush relies on every write being durable, unless it then asks for less
    // by CONFIG_WCE: `writeback` has to start at 0 for it (section 5.2.5.2).
    this.setWriteback((features & BLK_F.FLUSH) !== 0n);
  }

  private reset(): void {
    this.features = 0n;
    // As at first: front ends read it before the driver's features are known, and 1 is what makes
    // a driver flush.
    this.setWriteback(true);
  }

  private writeConfig(offset: number, bytes: Uint8Array): void {
    const at = BlkConfig.offsets.writeback - offset;
    // Only this field is the driver's; QEMU writes back the whole space to change it.
    if (at < 0 || at >= bytes.length || (this.features & BLK_F.CONFIG_WCE) === 0n) return;
    this.setWriteback(bytes[at] !== 0);
  }

  private setWriteback(isWriteback: boolean): void {
    if (isWriteback === this.isWriteback) return;
    this.isWriteback = isWriteback;
    this.configBytes = this.encodeConfig();
    this.options.setConfig(this.configBytes);
  }

  private serve(request: Request, queue: ServedQueue): typeof LATER | undefined {
    const { reader, writer } = request;
    if (writer.remaining === 0) {
      throw new DriverFault('request', 'a block request has no room for its status');
    }
    const status = writer.splitTail(1);
    if (reader.remaining < BlkRequestHeader.size) return this.answer(status, BLK_S.IOERR);
    const type = reader.readU32();
    reader.readU32();
    const sector = reader.readU64();
    const operation = this.spare.pop() ?? new DiskOperation();
    operation.request = request;
    operation.queue = queue;
    operation.status = status;
    operation.group = null;
    if (type === BLK_T.IN) {
      operation.data = writer;
      return this.transfer(operation, DISK_READ, sector, writer.remaining);
    }
    if (type === BLK_T.OUT) {
      operation.data = reader;
      return this.transfer(operation, DISK_WRITE, sector, reader.remaining);
    }
    if (type === BLK_T.FLUSH) return this.begin(operation, DISK_FLUSH, 0, 0);
    if (type === BLK_T.DISCARD || type === BLK_T.WRITE_ZEROES) return this.ranges(operation, type);
    this.spare.push(operation);
    if (type !== BLK_T.GET_ID) return this.answer(status, BLK_S.UNSUPP);
    writer.write(this.id);
    return this.answer(status, BLK_S.OK);
  }

  private answer(status: DiskOperation['status'], value: number): undefined {
    status!.writeU8(value);
    return undefined;
  }

  private refuse(operation: DiskOperation, value: number): undefined {
    this.spare.push(operation);
    return this.answer(operation.status, value);
  }

  private begin(
    operation: DiskOperation,
    kind: number,
    offset: number,
    size: number,
  ): typeof LATER {
    operation.kind = kind;
    operation.offset = offset;
    operation.size = size;
    this.disk.start(operation);
    return LATER;
  }

  private transfer(
    operation: DiskOperation,
    kind: number,
    sector: number,
    size: number,
  ): typeof LATER | undefined {
    const count = size / SECTOR_SIZE;
    const isInside = size % this.disk.blockSize === 0 && sector <= this.sectorCount - count;
    if (!isInside || (kind === DISK_WRITE && this.disk.isReadOnly)) {
      return this.refuse(operation, BLK_S.IOERR);
    }
    if (size === 0) return this.refuse(operation, BLK_S.OK);
    const offset = sector * SECTOR_SIZE;
    if (offset % this.disk.blockSize !== 0) return this.refuse(operation, BLK_S.IOERR);
    return this.begin(operation, kind, offset, size);
  }

  private ranges(operation: DiskOperation, type: number): typeof LATER | undefined {
    const { reader } = operation.request!;
    const count = reader.remaining / BlkRange.size;
    if (this.disk.isReadOnly || !Number.isInteger(count) || count < 1 || count > RANGE_COUNT_MAX) {
      return this.refuse(operation, BLK_S.IOERR);
    }
    const ranges = Array.from({ length: count }, () => reader.take(BlkRange));
    for (const { sector, sectorCount, flags } of ranges) {
      const allowed = type === BLK_T.WRITE_ZEROES ? RANGE_UNMAP : 0;
      if ((flags & ~allowed) !== 0) return this.refuse(operation, BLK_S.UNSUPP);
      const isInside = sectorCount <= RANGE_SECTORS_MAX && sector <= this.sectorCount - sectorCount;
      const unit = this.disk.blockSize / SECTOR_SIZE;
      if (!isInside || sector % unit !== 0 || sectorCount % unit !== 0) {
        return this.refuse(operation, BLK_S.IOERR);
      }
    }
    const group: DiskGroup = { left: ranges.length, result: 0 };
    for (const [index, { sector, sectorCount, flags }] of ranges.entries()) {
      const part = index === 0 ? operation : this.copyOf(operation);
      part.group = group;
      const zero = (flags & RANGE_UNMAP) !== 0 ? DISK_ZERO_UNMAP : DISK_ZERO;
      const kind = type === BLK_T.DISCARD ? DISK_DISCARD : zero;
      if (sectorCount === 0) this.diskDone(Object.assign(part, { kind }), 0);
      else this.begin(part, kind, sector * SECTOR_SIZE, sectorCount * SECTOR_SIZE);
    }
    return LATER;
  }

  private copyOf(operation: DiskOperation): DiskOperation {
    const { request, queue, status } = operation;
    return Object.assign(this.spare.pop() ?? new DiskOperation(), { request, queue, status });
  }

  private diskDone(operation: DiskOperation, result: number): void {
    const { group, kind } = operation;
    if (group !== null) {
      if (result !== 0) group.result = result;
      group.left -= 1;
      if (group.left > 0) {
        this.spare.push(operation);
        return;
      }
      result = group.result;
      operation.group = null;
    }
    if (result === 0 && !this.isWriteback && kind !== DISK_READ && kind !== DISK_FLUSH) {
      // Write-through: the driver hears of the write when it is durable.
      this.begin(operation, DISK_FLUSH, 0, 0);
      this.options.wake();
      return;
    }
    const { request, queue, status } = operation;
    if (result === 0 && kind === DISK_READ) {
      const { writer } = request!;
      if (writer.remaining > 0) writer.advance(writer.remaining);
    }
    status!.writeU8(result === 0 ? BLK_S.OK : BLK_S.IOERR);
    operation.data = null;
    operation.request = null;
    this.spare.push(operation);
    queue!.complete(request!);
  }
}
