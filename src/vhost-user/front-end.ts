/**
 * The front end's side of vhost-user: connects to a back end, shares memory with it, has it serve
 * queues, and survives its death.
 *
 *   connect ─► addMemory, createQueue ─► start ─► … requests … ─► close
 *                                          ▲          │ the back end dies
 *                                          └──────────┘ reconnect
 *
 * What a back end is told is kept here (memory, rings, in-flight memory, log), so that a successor
 * can be told the same. With INFLIGHT_SHMFD the successor knows which requests its predecessor had
 * taken; without, the rings start anew and their owners place again what did not come back.
 */
import { assert, VloError } from '../errors.js';
import { consumeEvent, signalEvent, Watch } from '../native/index.js';
import { F, ringFeatures } from '../virtio/index.js';
import { FrontEndInflight } from './front-end-inflight.js';
import { SessionKeeper } from './front-end-keeper.js';
import { FrontEndLog } from './front-end-log.js';
import { SharedMemory, type SharedRegion } from './front-end-memory.js';
import type { FrontEndOptions, ReconnectOptions } from './front-end-options.js';
import { FrontEndQueue, type QueueOptions } from './front-end-queue.js';
import { addRegion, removeRegion, shareAll, startRing, stopRing } from './front-end-ring.js';
import type { FrontEndSession } from './front-end-session.js';
import { VIRTIO_FEATURE } from './messages-constants.js';

export class FrontEnd {
  readonly memory = new SharedMemory();
  readonly queues: FrontEndQueue[] = [];
  private readonly options: FrontEndOptions;
  private readonly keeper: SessionKeeper;
  private negotiated: bigint | null = null;
  private readonly watches: Watch[] = [];
  private readonly inflight = new FrontEndInflight();
  private log: FrontEndLog | null = null;

  private constructor(options: FrontEndOptions) {
    this.options = options;
    const inBand = options.inBandNotifications === true;
    const { features: wanted = 0n, required = F.VERSION_1 } = options;
    this.keeper = new SessionKeeper(options, {
      negotiate: async (session, events) => {
        await session.negotiate({ wanted, required, fixed: this.negotiated, inBand }, events);
        this.negotiated = session.features;
      },
      resume: (session) => this.resume(session),
      vringCalled: (index) => this.queues[index]?.owner.called(),
    });
  }

  /**
   * Connects and negotiates.
   * @throws VloError VLO_DISCONNECTED when nobody listens; VLO_BACKEND_FEATURES, VLO_TIMEOUT,
   * VLO_PROTOCOL as the hand-shake goes.
   */
  static async connect(options: FrontEndOptions): Promise<FrontEnd> {
    const frontEnd = new FrontEnd(options);
    await frontEnd.keeper.connect();
    return frontEnd;
  }

  /** Virtio features in use. */
  get features(): bigint {
    return this.negotiated ?? 0n;
  }

  /** Protocol features in use with the present back end. */
  get protocolFeatures(): bigint {
    return this.keeper.session.protocol;
  }

  /** Queues that the back end has; 256 where it cannot say. */
  get queueCount(): number {
    return this.keeper.session.queueCount;
  }

  get isConnected(): boolean {
    return this.keeper.isConnected;
  }

  /**
   * Reads config space.
   * @throws VloError VLO_BACKEND_FEATURES without CONFIG; VLO_BACKEND_REFUSED beyond its end
   */
  readConfig(offset: number, size: number): Promise<Uint8Array> {
    return this.keeper.readConfig(offset, size);
  }

  /** Writes config space, as a driver. @throws VloError as {@link readConfig} */
  writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.keeper.writeConfig(offset, bytes);
  }

  /** Shares `size` bytes more, in one region. @throws VloError VLO_BACKEND_FEATURES */
  addMemory(size: number): Promise<SharedRegion> {
    return this.keeper.exclusive(async (session) => {
      if (this.memory.regions.length === session.memorySlots) {
        throw new VloError(
          'VLO_BACKEND_FEATURES',
          `the back end takes no more than ${session.memorySlots} memory regions`,
        );
      }
      const region = this.memory.add(size);
      try {
        await addRegion(session, region, this.memory.regions);
        return region;
      } catch (error) {
        // After a disconnect the region stays out too: a successor never hears of it.
        this.memory.remove(region);
        throw error;
      }
    });
  }

  /** Takes a region back, in which no block is in use. */
  removeMemory(region: SharedRegion): Promise<void> {
    return this.keeper.exclusive(async (session) => {
      assert(region.isUnused, 'a region was removed whose blocks are in use');
      const rest = this.memory.regions.filter((other) => other !== region);
      await removeRegion(session, region, rest);
      this.memory.remove(region);
    });
  }

  /**
   * Makes the next queue, in shared memory that is there already; {@link start} hands it over.
   * @throws VloError VLO_BACKEND_FEATURES when the back end has no such queue
   */
  createQueue(options: QueueOptions): FrontEndQueue {
    const index = this.queues.length;
    if (index >= this.queueCount) {
      throw new VloError('VLO_BACKEND_FEATURES', `the back end has ${this.queueCount} queues`);
    }
    const isInBand = this.options.inBandNotifications === true;
    const queue = new FrontEndQueue(
      index,
      this.memory,
      ringFeatures(this.features),
      isInBand,
      options,
    );
    if (isInBand) queue.ring.onKick = () => this.kickInBand(queue);
    this.queues.push(queue);
    const watch = new Watch(queue.err.number, () => {
      if (consumeEvent(queue.err.number) > 0) this.keeper.ringBroken(index);
    });
    this.watches.push(watch);
    return queue;
  }

  /** Has the back end serve all queues that it does not serve yet. */
  start(): Promise<void> {
    return this.keeper.exclusive((session) => this.startAll(session));
  }

  /** Stops a queue in an orderly way; {@link start} goes on with it where it was. */
  stopQueue(queue: FrontEndQueue): Promise<void> {
    return this.keeper.exclusive((session) => this.stopOne(session, queue));
  }

  private async stopOne(session: FrontEndSession, queue: FrontEndQueue): Promise<void> {
    if (!queue.isStarted) return;
    const base = await stopRing(session, queue.index);
    queue.isStarted = false;
    queue.base = base;
    queue.owner.drain();
  }

  private async startAll(session: FrontEndSession): Promise<void> {
    const { queues } = this;
    if (queues.length > 0 && !queues.some((queue) => queue.isStarted)) {
      const queueSize = Math.max(...queues.map((queue) => queue.ring.size));
      await this.inflight.prepare(session, queues.length, queueSize);
    }
    for (const queue of queues) if (!queue.isStarted) await this.startOne(session, queue);
    await session.sendDriverOk();
  }

  private async startOne(session: FrontEndSession, queue: FrontEndQueue): Promise<void> {
    const { index, ring, kick, call, err } = queue;
    // What was used before this start is taken, so that the base is exact.
    if (queue.base === null) queue.owner.drain();
    const address = queue.address(this.log !== null);
    const base = queue.startBase;
    await startRing(session, { index, size: ring.size, base, address, kick, call, err });
    queue.isStarted = true;
    queue.base = null;
    // What was placed before the ring was served brought no kick, or one that died with its reader.
    if (session.has('INBAND_NOTIFICATIONS')) this.kickInBand(queue);
    else signalEvent(kick.number);
  }

  private kickInBand({ index }: FrontEndQueue): void {
    if (!this.isConnected) return;
    this.keeper.session.link.send('VRING_KICK', { index, num: 0 });
  }

  /**
   * Resets the device: rings and device as at first. Requests in the rings are placed anew.
   * @throws VloError VLO_BACKEND_FEATURES when the back end offers no way to do it
   */
  resetDevice(): Promise<void> {
    return this.keeper.exclusive(async (session) => {
      if (session.has('STATUS')) {
        // The rings first: a device that still writes to them must not meet their reset.
        for (const queue of this.queues) await this.stopOne(session, queue);
        await session.link.ack('SET_STATUS', { value: 0n });
      } else {
        this.keeper.need('RESET_DEVICE');
        for (const queue of this.queues) await this.stopOne(session, queue);
        await session.link.ack('RESET_DEVICE', {});
      }
      this.inflight.forget();
      for (const queue of this.queues) queue.restart();
      await session.sendFeatures();
      await this.startAll(session);
    });
  }

  /**
   * Starts to log which pages the back end writes.
   * @throws VloError VLO_BACKEND_FEATURES when it cannot
   */
  startLog(): Promise<FrontEndLog> {
    return this.keeper.exclusive(async (session) => {
      assert(this.log === null, 'the log was started twice');
      this.keeper.need('LOG_SHMFD');
      if ((session.offered & VIRTIO_FEATURE.LOG_ALL) === 0n) {
        throw new VloError('VLO_BACKEND_FEATURES', 'the back end does not offer LOG_ALL');
      }
      const log = new FrontEndLog(this.memory.guestAddressEnd);
      this.log = log;
      try {
        await this.applyLog(session);
        return log;
      } catch (error) {
        this.log = null;
        log.retire();
        throw error;
      }
    });
  }

  /** Ends the logging; what is in the bitmap is lost. */
  stopLog(): Promise<void> {
    return this.keeper.exclusive(async (session) => {
      const { log } = this;
      if (log === null) return;
      this.log = null;
      try {
        await this.applyLog(session);
      } finally {
        log.retire(); // The back end has its own mapping, if it goes on to log.
      }
    });
  }

  private async applyLog({ link, features }: FrontEndSession): Promise<void> {
    const { log } = this;
    if (log !== null) await link.ack('SET_LOG_BASE', { size: log.size, offset: 0 }, [log.fd]);
    const logAll = log === null ? 0n : VIRTIO_FEATURE.LOG_ALL;
    await link.ack('SET_FEATURES', { value: features | logAll });
    for (const queue of this.queues) {
      if (queue.isStarted) await link.ack('SET_VRING_ADDR', queue.address(log !== null));
    }
  }

  /**
   * Finds the back end again and has it go on where its predecessor was. Called by itself when the
   * option `reconnect` is given.
   * @throws VloError the last failure when the time is over; VLO_BACKEND_FEATURES at once
   */
  reconnect(options?: ReconnectOptions): Promise<void> {
    return this.keeper.reconnect(options);
  }

  private async resume(session: FrontEndSession): Promise<void> {
    const running = this.queues.filter((queue) => queue.isStarted);
    try {
      if (this.queues.length > session.queueCount) {
        throw new VloError(
          'VLO_BACKEND_FEATURES',
          `the back end has ${session.queueCount} queues; ${this.queues.length} are in use`,
        );
      }
      await shareAll(session, this.memory.regions);
      const isKept = await this.inflight.handOver(session);
      for (const queue of running) {
        if (!isKept) queue.restart();
        queue.isStarted = false;
      }
      if (this.log !== null) await this.applyLog(session);
      if (running.length > 0) await this.startAll(session);
    } catch (error) {
      for (const queue of running) queue.isStarted = true;
      throw error;
    }
  }

  /**
   * Stops the queues where the back end is there, and lets everything go: connection, memory,
   * descriptors. Idempotent.
   */
  async close(): Promise<void> {
    if (this.keeper.isClosed) return;
    if (this.isConnected) {
      for (const queue of this.queues) await this.stopQueue(queue).catch(() => {});
    }
    this.destroy();
    await this.keeper.settled();
  }

  /** Lets everything go at once, without a word to the back end: for broken ones. Idempotent. */
  destroy(): void {
    if (this.keeper.isClosed) return;
    this.keeper.destroy();
    for (const watch of this.watches.splice(0)) watch.close();
    for (const queue of this.queues.splice(0)) queue.release();
    this.inflight.forget();
    this.log?.retire();
    this.log = null;
    this.memory.retire();
  }
}
