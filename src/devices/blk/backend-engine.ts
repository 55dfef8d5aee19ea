/**
 * Engines that run file operations without holding the thread: io_uring, or Node's thread pool
 * where a container forbids it.
 */
import {
  consumeEvent,
  createEventFd,
  ERRNO,
  type Fd,
  fallocate,
  IoUring,
  IovecList,
  runInPool,
  URING_OP,
  Watch,
} from '../../native/index.js';
import { DISK_FLUSH, DISK_READ, DISK_WRITE, type DiskOperation } from './backend.js';

/** A file operation under way: one or several merged disk operations. */
export class EngineTask {
  readonly iovecs = new IovecList(64);
  readonly operations: DiskOperation[] = [];
  /** Kind of all its operations, as the disk's constants. */
  kind = DISK_READ;
  offset = 0;
  /** Bytes that are left to move, or the length of a fallocate. */
  size = 0;
  /** Mode of a fallocate. */
  mode = 0;
  /** @internal */
  slot = -1;
}

/** Runs tasks; each ends with one call of `onEnd` with bytes or a negative errno. */
export interface Engine {
  readonly name: string;
  /** True when a batch of tasks costs one system call together. */
  readonly isBatching: boolean;
  start(task: EngineTask): void;
  /** Hands what was started to the kernel. */
  submit(): void;
  /** Looks for ends without a system call; true when there were some. */
  poll(): boolean;
  close(): void;
}

/** How an engine tells that tasks ended, and that somebody should look. */
export interface EngineEvents {
  onEnd(task: EngineTask, result: number): void;
  /** Completions wait in the ring: call `poll` soon. */
  wake(): void;
}

const ENTRY_COUNT = 256;

/** Runs tasks through an io_uring. */
export class UringEngine implements Engine {
  readonly name = 'io_uring';
  readonly isBatching = true;
  private readonly ring: IoUring;
  private readonly fd: number;
  private readonly events: EngineEvents;
  private readonly event: Fd;
  private readonly watch: Watch;
  private readonly tasks: (EngineTask | null)[] = [];
  private readonly freeSlots: number[] = [];
  private readonly waiting: EngineTask[] = [];
  private readonly prepared: EngineTask[] = [];
  private runningCount = 0;

  private constructor(ring: IoUring, event: Fd, fd: number, events: EngineEvents) {
    this.ring = ring;
    this.fd = fd;
    this.events = events;
    this.event = event;
    this.watch = new Watch(event.number, () => {
      consumeEvent(event.number);
      events.wake();
    });
    for (let slot = ENTRY_COUNT - 1; slot >= 0; slot -= 1) this.freeSlots.push(slot);
  }

  /** Null where the kernel has no io_uring for us. */
  static create(fd: number, events: EngineEvents): UringEngine | null {
    const ring = IoUring.create(ENTRY_COUNT);
    if (ring === null) return null;
    const event = createEventFd();
    if (ring.notifyBy(event.number)) return new UringEngine(ring, event, fd, events);
    ring.close();
    event.close();
    return null;
  }

  start(task: EngineTask): void {
    // As many tasks as slots: then neither ring can overflow.
    if (this.freeSlots.length === 0 || !this.ring.hasRoom) {
      this.waiting.push(task);
      return;
    }
    const slot = this.freeSlots.pop()!;
    this.tasks[slot] = task;
    task.slot = slot;
    this.prepared.push(task);
    this.runningCount += 1;
    const { ring, fd } = this;
    if (task.kind === DISK_READ || task.kind === DISK_WRITE) {
      const isRead = task.kind === DISK_READ;
      const { address, count, firstAddress } = task.iovecs;
      if (count === 1) {
        const op = isRead ? URING_OP.read : URING_OP.write;
        ring.prepare(op, fd, firstAddress, task.size, task.offset, slot);
      } else {
        const op = isRead ? URING_OP.readv : URING_OP.writev;
        ring.prepare(op, fd, address, count, task.offset, slot);
      }
    } else if (task.kind === DISK_FLUSH) {
      ring.prepareFsync(fd, slot);
    } else {
      ring.prepare(URING_OP.fallocate, fd, task.size, task.mode, task.offset, slot);
    }
  }

  submit(): void {
    if (this.ring.preparedCount === 0) return;
    // What completes at once is taken here, without a signal.
    this.ring.setNotify(false);
    const result = this.ring.submit();
    // The kernel takes them in order.
    this.prepared.splice(0, this.prepared.length - this.ring.preparedCount);
    this.reap();
    this.ring.setNotify(true);
    if (this.reap()) this.events.wake();
    if (result >= 0) {
      // If all that ran has ended just now, nothing else would bring on those that wait.
      if (this.startWaiting()) this.submit();
      return;
    }
    // EAGAIN and EBUSY pass when completions are taken: poll submits again.
    if (result === -ERRNO.EAGAIN! || result === -ERRNO.EBUSY!) setImmediate(this.events.wake);
    else this.failPrepared(result);
  }

  /** The kernel refused these tasks for good: no completion will come for them. */
  private failPrepared(result: number): void {
    this.ring.dropPrepared();
    for (const task of this.prepared.splice(0)) {
      this.release(task.slot);
      this.events.onEnd(task, result);
    }
    if (this.startWaiting()) setImmediate(this.events.wake);
  }

  private release(slot: number): void {
    this.tasks[slot] = null;
    this.freeSlots.push(slot);
    this.runningCount -= 1;
  }

  poll(): boolean {
    if (this.runningCount === 0) return false;
    const found = this.reap();
    if (found) this.startWaiting();
    this.submit();
    return found;
  }

  /** Prepares tasks that wait for a place; true when there were some and there was room. */
  private startWaiting(): boolean {
    const { waiting, freeSlots, ring } = this;
    let isStarted = false;
    while (waiting.length > 0 && freeSlots.length > 0 && ring.hasRoom) {
      this.start(waiting.shift()!);
      isStarted = true;
    }
    return isStarted;
  }

  private reap(): boolean {
    const { ring } = this;
    let found = false;
    while (this.runningCount > 0 && ring.next()) {
      found = true;
      const slot = ring.completedData;
      const task = this.tasks[slot];
      if (task === null || task === undefined) continue;
      this.release(slot);
      this.events.onEnd(task, ring.completedResult);
    }
    return found;
  }

  close(): void {
    this.watch.close();
    this.ring.close();
    this.event.close();
  }
}

/**
 * Tasks handed to the thread pool at once. The pool has four threads; more only wait inside of the
 * foreign interface, which throws when it holds too many.
 */
const POOL_TASKS_MAX = 32;

/** Runs tasks on Node's thread pool. */
export class PoolEngine implements Engine {
  readonly name = 'threads';
  readonly isBatching = false;
  private readonly fd: number;
  private readonly events: EngineEvents;
  private readonly waiting: EngineTask[] = [];
  private runningCount = 0;

  constructor(fd: number, events: EngineEvents) {
    this.fd = fd;
    this.events = events;
  }

  start(task: EngineTask): void {
    if (this.runningCount === POOL_TASKS_MAX) this.waiting.push(task);
    else this.run(task);
  }

  private run(task: EngineTask): void {
    this.runningCount += 1;
    const { fd } = this;
    const end = (result: number): void => this.end(task, result);
    const { address, count } = task.iovecs;
    if (task.kind === DISK_READ) runInPool('preadv', [fd, address, count, task.offset], end);
    else if (task.kind === DISK_WRITE) runInPool('pwritev', [fd, address, count, task.offset], end);
    else if (task.kind === DISK_FLUSH) runInPool('fdatasync', [fd], end);
    else {
      runInPool('fallocate', [fd, task.mode, task.offset, task.size], (result) => {
        // The pool cannot tell why it failed: asked once more here, the kernel says.
        end(result < 0 ? fallocate(fd, task.mode, task.offset, task.size) : result);
      });
    }
  }

  private end(task: EngineTask, result: number): void {
    this.runningCount -= 1;
    this.events.onEnd(task, result);
    if (this.waiting.length > 0 && this.runningCount < POOL_TASKS_MAX) {
      this.run(this.waiting.shift()!);
    }
    this.events.wake();
  }

  submit(): void {}

  poll(): boolean {
    return false;
  }

  close(): void {}
}
