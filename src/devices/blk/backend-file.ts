/**
 * A disk in an image file or a block device.
 *
 * Neighbouring operations of a batch are merged into one system call. What is in the page cache is
 * read at once and in place; what is not goes to an {@link Engine}, so that the thread never waits
 * for the disk. Writes go into the page cache at once as long as it takes them without delay; when
 * it is full (a write took long), they go to the engine for a while.
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  type Stats,
  statfsSync,
  statSync,
} from 'node:fs';
import { performance } from 'node:perf_hooks';
import { SystemError, VloError } from '../../errors.js';
import {
  ERRNO,
  FALLOCATE,
  IOV_MAX,
  IovecList,
  ioctl,
  isUnsupported,
  NativeBuffer,
  preadInto,
  preadv,
  preadvCached,
  pwritev,
} from '../../native/index.js';
import { ChainReader, ChainWriter } from '../../virtio/index.js';
import {
  DISK_DISCARD,
  DISK_FLUSH,
  DISK_READ,
  DISK_WRITE,
  DISK_ZERO,
  type Disk,
  type DiskOperation,
} from './backend.js';
import {
  type Engine,
  type EngineEvents,
  EngineTask,
  PoolEngine,
  UringEngine,
} from './backend-engine.js';
import { SECTOR_SIZE } from './wire.js';

const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;
const BLKGETSIZE64 = 0x80081272;
const TMPFS_MAGIC = 0x01021994;

/** Most bytes that are merged into one call: larger ones gain nothing and delay what waits. */
const MERGE_MAX = 512 * 1024;
/** A write into the page cache that took longer than this, in milliseconds, was held up. */
const SLOW_WRITE_MS = 2;
/** How long writes then go to the engine, in milliseconds. */
const SLOW_PERIOD_MS = 200;
/** Scattered reads of a batch that are made one by one before io_uring takes the others. */
const SINGLE_READS_MAX = 4;
/** Buffer of zeros for file systems that cannot zero a range by themselves. */
const ZERO_BUFFER_SIZE = 1024 * 1024;

export interface FileDiskOptions {
  /** Image file or block device. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Bypass the page cache (O_DIRECT). */
  readonly direct: boolean;
  /** Calls the service loop when operations end outside of it. */
  readonly wake: () => void;
  /** Forbids io_uring, for tests of the fallback. */
  readonly engine?: 'auto' | 'threads';
  /** Puts an engine around the real one, for tests of what a file system may lack. */
  readonly wrapEngine?: (engine: Engine, events: EngineEvents) => Engine;
}

function checkType(path: string, stat: Stats): void {
  if (stat.isFile() || stat.isBlockDevice()) return;
  const kind = stat.isDirectory() ? 'a folder' : 'neither a file nor a block device';
  throw new VloError('VLO_IMAGE_TYPE', `image '${path}' is ${kind}`);
}

function openImage({ path, readOnly, direct }: FileDiskOptions): number {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  try {
    // Before it is opened: a pipe would be waited for until somebody writes to it.
    checkType(path, statSync(path));
    return openSync(path, access | (direct ? constants.O_DIRECT : 0));
  } catch (cause) {
    if (cause instanceof VloError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    if (code === 'ENOENT') {
      throw new VloError(
        'VLO_IMAGE_MISSING',
        `image '${path}' does not exist; create it, for example: truncate -s 64M '${path}'`,
        { cause },
      );
    }
    const hint =
      code === 'EINVAL' && direct
        ? 'its file system has no O_DIRECT: leave out --direct'
        : readOnly
          ? 'check its permissions'
          : 'check its permissions, or serve it with --read-only';
    throw new VloError('VLO_IMAGE_ACCESS', `image '${path}' cannot be opened (${code}): ${hint}`, {
      cause,
    });
  }
}

interface Geometry {
  readonly size: number;
  readonly blockSize: number;
  readonly physicalBlockSize: number;
}

function blockDeviceGeometry(fd: number): Geometry {
  const buffer = new NativeBuffer(16);
  try {
    ioctl(fd, BLKGETSIZE64, buffer.address, 'ioctl BLKGETSIZE64');
    const size = buffer.getU64(0);
    ioctl(fd, BLKSSZGET, buffer.address, 'ioctl BLKSSZGET');
    const blockSize = buffer.u32[0]!;
    ioctl(fd, BLKPBSZGET, buffer.address, 'ioctl BLKPBSZGET');
    return { size, blockSize, physicalBlockSize: Math.max(blockSize, buffer.u32[0]!) };
  } finally {
    buffer.free();
  }
}

/** Smallest read that O_DIRECT takes: files on disks of 4 KiB blocks refuse 512 bytes. */
function directBlockSize(fd: number): number {
  const buffer = new NativeBuffer(SECTOR_SIZE);
  const result = preadInto(fd, buffer.address, SECTOR_SIZE, 0);
  buffer.free();
  return result === -ERRNO.EINVAL! ? 4096 : SECTOR_SIZE;
}

function measureImage(fd: number, path: string, direct: boolean): Geometry {
  const stat = fstatSync(fd);
  checkType(path, stat);
  if (stat.isBlockDevice()) return blockDeviceGeometry(fd);
  const { size } = stat;
  if (size === 0 || size % SECTOR_SIZE !== 0) {
    const rounded = Math.max(1, Math.ceil(size / SECTOR_SIZE)) * SECTOR_SIZE;
    throw new VloError(
      'VLO_IMAGE_SIZE',
      `image '${path}' has ${size} bytes, which is no positive multiple of ${SECTOR_SIZE}; ` +
        `mend it with: truncate -s ${rounded} '${path}'`,
    );
  }
  const blockSize = direct ? directBlockSize(fd) : SECTOR_SIZE;
  if (size % blockSize !== 0) {
    throw new VloError(
      'VLO_IMAGE_SIZE',
      `image '${path}' has ${size} bytes, and --direct needs a multiple of ${blockSize} here; ` +
        `mend it with: truncate -s ${Math.ceil(size / blockSize) * blockSize} '${path}'`,
    );
  }
  const unit = Math.min(4096, stat.blksize);
  return { size, blockSize, physicalBlockSize: direct ? Math.max(unit, blockSize) : unit };
}

export class FileDisk implements Disk {
  readonly size: number;
  readonly isReadOnly: boolean;
  readonly blockSize: number;
  readonly physicalBlockSize: number;
  readonly canDiscard: boolean;
  onDone: (operation: DiskOperation, result: number) => void = () => {};

  private readonly fd: number;
  private readonly direct: boolean;
  private readonly engine: Engine;
  private readonly iovecs = new IovecList();
  /** Scattered reads are handed to the engine together. */
  private readonly canBatch: boolean;
  private readonly gathered: DiskOperation[] = [];
  private gatheredCount = 0;
  private readonly spareTasks: EngineTask[] = [];
  private readonly bounce = new Map<EngineTask, NativeBuffer>();
  private readonly alignment: number;
  /** The file is memory already: its reads never wait, whatever the file system can tell. */
  private readonly isMemory: boolean;
  private readsCached: boolean;
  private canZeroRange = true;
  private canPunch = true;
  private slowUntil = 0;
  private zeros: NativeBuffer | null = null;

  /** @throws VloError VLO_IMAGE_MISSING, _ACCESS, _TYPE, _SIZE. */
  constructor(options: FileDiskOptions) {
    this.fd = openImage(options);
    try {
      const geometry = measureImage(this.fd, options.path, options.direct);
      this.size = geometry.size;
      this.blockSize = geometry.blockSize;
      this.physicalBlockSize = geometry.physicalBlockSize;
      // The file system's block is a safe unit for O_DIRECT on files, the logical one on devices.
      const isFile = fstatSync(this.fd).isFile();
      this.alignment = isFile ? geometry.physicalBlockSize : this.blockSize;
      // Device nodes lie on a file system of the same type, so only a file's own counts.
      this.isMemory = isFile && statfsSync(options.path).type === TMPFS_MAGIC;
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
    this.isReadOnly = options.readOnly;
    this.direct = options.direct;
    this.readsCached = !options.direct;
    this.canDiscard = !options.readOnly;
    const events = {
      onEnd: (task: EngineTask, result: number) => this.taskEnded(task, result),
      wake: options.wake,
    };
    const uring = options.engine === 'threads' ? null : UringEngine.create(this.fd, events);
    const engine = uring ?? new PoolEngine(this.fd, events);
    this.engine = options.wrapEngine?.(engine, events) ?? engine;
    this.canBatch = this.engine.isBatching && !options.direct;
  }

  start(operation: DiskOperation): void {
    this.gathered[this.gatheredCount] = operation;
    this.gatheredCount += 1;
  }

  commit(): void {
    const { gathered, gatheredCount } = this;
    if (gatheredCount === 0) return;
    this.gatheredCount = 0;
    let runCount = 0;
    for (let first = 0; first < gatheredCount; runCount += 1) {
      const end = this.mergeFrom(first, gatheredCount);
      // The first few are done at once; of many scattered reads the rest shares one system call.
      if (runCount >= SINGLE_READS_MAX && gathered[first]!.kind === DISK_READ && this.canBatch) {
        this.hand(first, end);
      } else {
        this.run(first, end);
      }
      first = end;
    }
    // What ended at once may have started a successor (write-through), at most one each: those lie
    // at the front, over operations that are done.
    for (let i = this.gatheredCount; i < gatheredCount; i += 1) gathered[i] = IDLE;
    this.engine.submit();
  }

  /** Index after the last operation that can be moved in one call together with `first`. */
  private mergeFrom(first: number, count: number): number {
    const { gathered, iovecs } = this;
    const { kind, offset, size } = gathered[first]!;
    if (kind !== DISK_READ && kind !== DISK_WRITE) return first + 1;
    iovecs.clear();
    gathered[first]!.data!.gather(iovecs, size);
    let end = first + 1;
    while (end < count) {
      const next = gathered[end]!;
      if (next.kind !== kind || next.offset !== offset + iovecs.size) break;
      if (iovecs.size + next.size > MERGE_MAX) break;
      if (iovecs.count + next.data!.countSegments(next.size) > IOV_MAX) break;
      next.data!.gather(iovecs, next.size);
      end += 1;
    }
    return end;
  }

  /** Runs the operations from `first` to `end`, whose segments are in `iovecs`. */
  private run(first: number, end: number): void {
    const { kind, offset } = this.gathered[first]!;
    const { iovecs } = this;
    if (kind !== DISK_READ && kind !== DISK_WRITE) {
      this.runControl(this.gathered[first]!);
      return;
    }
    if (this.direct || iovecs.count > IOV_MAX) {
      for (let i = first; i < end; i += 1) this.hand(i, i + 1);
      return;
    }
    const size = iovecs.size;
    const result = kind === DISK_READ ? this.readNow(offset) : this.writeNow(offset);
    if (result === size) {
      for (let i = first; i < end; i += 1) this.onDone(this.gathered[i]!, 0);
    } else {
      // Not in memory, cut short, or failed: the engine tries again and says what each one gets.
      this.hand(first, end);
    }
  }

  private readNow(offset: number): number {
    const { address, count } = this.iovecs;
    if (this.isMemory) return preadv(this.fd, address, count, offset);
    if (!this.readsCached) return -ERRNO.EAGAIN!;
    const result = preadvCached(this.fd, address, count, offset);
    if (isUnsupported(result)) this.readsCached = false;
    return result;
  }

  private writeNow(offset: number): number {
    const startedAt = performance.now();
    if (startedAt < this.slowUntil) return -ERRNO.EAGAIN!;
    const result = pwritev(this.fd, this.iovecs.address, this.iovecs.count, offset);
    const endedAt = performance.now();
    if (endedAt - startedAt > SLOW_WRITE_MS) this.slowUntil = endedAt + SLOW_PERIOD_MS;
    return result;
  }

  private takeTask(kind: number, offset: number): EngineTask {
    const task = this.spareTasks.pop() ?? new EngineTask();
    task.kind = kind;
    task.offset = offset;
    task.operations.length = 0;
    task.iovecs.clear();
    return task;
  }

  /** Hands reads or writes to the engine, as one task. */
  private hand(first: number, end: number): void {
    const { kind, offset } = this.gathered[first]!;
    const task = this.takeTask(kind, offset);
    for (let i = first; i < end; i += 1) {
      const operation = this.gathered[i]!;
      task.operations.push(operation);
      this.fill(task, operation);
    }
    task.size = task.iovecs.size;
    this.engine.start(task);
  }

  private fill(task: EngineTask, operation: DiskOperation): void {
    const { data, size } = operation;
    if (!this.direct || data!.isAligned(size, this.alignment)) {
      data!.gather(task.iovecs, size);
      return;
    }
    // O_DIRECT wants aligned memory, which drivers need not use: go through memory of our own.
    const buffer = new NativeBuffer(size);
    if (task.kind === DISK_WRITE && data instanceof ChainReader) data.read(buffer.bytes);
    this.bounce.set(task, buffer);
    task.iovecs.push(buffer.address, size);
  }

  private taskEnded(task: EngineTask, result: number): void {
    if (result > 0 && result < task.size) {
      // Short: go on with the rest. The end of the file is reported as 0 and ends it.
      task.iovecs.advance(result);
      task.offset += result;
      task.size -= result;
      this.engine.start(task);
      this.engine.submit();
      return;
    }
    const isTransfer = task.kind === DISK_READ || task.kind === DISK_WRITE;
    let error = Math.min(result, 0);
    if (isTransfer && result === 0) error = -ERRNO.EIO!;
    if (error !== 0 && task.operations.length > 1) {
      this.separate(task);
      return;
    }
    if (error !== 0 && !isTransfer && this.controlFailed(task, error)) return;
    this.unbounce(task, error);
    for (const operation of task.operations) this.onDone(operation, error);
    this.spareTasks.push(task);
  }

  /** One of several merged operations failed: run each by itself, to blame the right one. */
  private separate(task: EngineTask): void {
    for (const operation of task.operations) {
      const single = this.takeTask(task.kind, operation.offset);
      single.operations.push(operation);
      operation.data!.gather(single.iovecs, operation.size);
      single.size = operation.size;
      this.engine.start(single);
    }
    this.spareTasks.push(task);
    this.engine.submit();
  }

  private unbounce(task: EngineTask, error: number): void {
    const buffer = this.bounce.get(task);
    if (buffer === undefined) return;
    this.bounce.delete(task);
    const { data, size } = task.operations[0]!;
    if (error === 0 && task.kind === DISK_READ && data instanceof ChainWriter) {
      data.write(buffer.bytes.subarray(0, size));
    }
    buffer.free();
  }

  private runControl(operation: DiskOperation): void {
    const task = this.takeTask(operation.kind, operation.offset);
    task.operations.push(operation);
    task.size = operation.size;
    if (operation.kind === DISK_FLUSH) {
      this.engine.start(task);
      return;
    }
    const punch = operation.kind !== DISK_ZERO && this.canPunch;
    if (punch || (operation.kind !== DISK_DISCARD && this.canZeroRange)) {
      task.mode = punch ? FALLOCATE.punchHole : FALLOCATE.zeroRange;
      this.engine.start(task);
      return;
    }
    this.spareTasks.push(task);
    // Without a hole a discard has nothing to do: it is a hint. Zeros have to be written.
    if (operation.kind === DISK_DISCARD) this.onDone(operation, 0);
    else this.writeZeros(operation);
  }

  /** True when a failed fallocate is tried in another way; `error` is a negative errno. */
  private controlFailed(task: EngineTask, error: number): boolean {
    if (task.kind === DISK_FLUSH) return false;
    if (!isUnsupported(error)) return false;
    if (task.mode === FALLOCATE.punchHole) this.canPunch = false;
    else this.canZeroRange = false;
    const operation = task.operations[0]!;
    this.spareTasks.push(task);
    this.runControl(operation);
    this.engine.submit();
    return true;
  }

  private writeZeros(operation: DiskOperation): void {
    this.zeros ??= new NativeBuffer(ZERO_BUFFER_SIZE);
    const task = this.takeTask(DISK_WRITE, operation.offset);
    task.operations.push(operation);
    task.size = operation.size;
    for (let left = operation.size; left > 0; left -= ZERO_BUFFER_SIZE) {
      task.iovecs.push(this.zeros.address, Math.min(left, ZERO_BUFFER_SIZE));
    }
    this.engine.start(task);
  }

  poll(): boolean {
    return this.engine.poll();
  }

  close(): void {
    this.engine.close();
    this.iovecs.free();
    for (const task of this.spareTasks) task.iovecs.free();
    this.zeros?.free();
    closeSync(this.fd);
  }
}

const IDLE = null as unknown as DiskOperation;

/** Turns a failed set-up call into an error that names the image. */
export function imageError(path: string, error: unknown): unknown {
  if (!(error instanceof SystemError)) return error;
  return new VloError('VLO_IMAGE_ACCESS', `image '${path}': ${error.message}`, { cause: error });
}
