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
import { setTimeout as sleep } from 'node:timers/promises';
import { assert, SystemError, VloError } from '../errors.js';
import { connectUnix, consumeEvent, Fd, signalEvent, Watch } from '../native/index.js';
import { F, ringFeatures, STATUS } from '../virtio/index.js';
import { FrontEndInflight } from './front-end-inflight.js';
import { FrontEndLog } from './front-end-log.js';
import { SharedMemory, type SharedRegion } from './front-end-memory.js';
import {
  FRONT_END_TIMEOUT_MS,
  type FrontEndEvents,
  type FrontEndOptions,
  type ReconnectOptions,
} from './front-end-options.js';
import { FrontEndQueue, type QueueOptions } from './front-end-queue.js';
import { FrontEndSession } from './front-end-session.js';
import { CONFIG_BYTES_MAX, VIRTIO_FEATURE } from './messages-constants.js';

type State = 'connecting' | 'connected' | 'lost' | 'failed' | 'closed';

export class FrontEnd {
  readonly memory = new SharedMemory();
  readonly queues: FrontEndQueue[] = [];
  private readonly options: FrontEndOptions;
  private readonly events: FrontEndEvents;
  private session!: FrontEndSession;
  private state: State = 'connecting';
  /** Why no back end is there. */
  private lossError: VloError | null = null;
  private negotiated: bigint | null = null;
  private readonly watches: Watch[] = [];
  private readonly inflight = new FrontEndInflight();
  private log: FrontEndLog | null = null;
  /** Control operations run one after the other: a reconnect must not meet a half-done one. */
  private last: Promise<unknown> = Promise.resolve();
  private readonly aborter = new AbortController();

  private constructor(options: FrontEndOptions) {
    assert((options.path === undefined) !== (options.fd === undefined), 'give a path or an fd');
    this.options = options;
    this.events = options.events ?? {};
  }

  /**
   * Connects and negotiates.
   * @throws VloError VLO_DISCONNECTED when nobody listens; VLO_BACKEND_FEATURES, VLO_TIMEOUT,
   * VLO_PROTOCOL as the hand-shake goes.
   */
  static async connect(options: FrontEndOptions): Promise<FrontEnd> {
    const frontEnd = new FrontEnd(options);
    await frontEnd.openSession();
    frontEnd.state = 'connected';
    return frontEnd;
  }

  /** Virtio features in use. */
  get features(): bigint {
    return this.negotiated ?? 0n;
  }

  /** Protocol features in use with the present back end. */
  get protocolFeatures(): bigint {
    return this.session.protocol;
  }

  /** Queues that the back end has; 256 where it cannot say. */
  get queueCount(): number {
    return this.session.queueCount;
  }

  get isConnected(): boolean {
    return this.state === 'connected';
  }

  /**
   * Reads config space.
   * @throws VloError VLO_BACKEND_FEATURES without CONFIG; VLO_BACKEND_REFUSED beyond its end
   */
  readConfig(offset: number, size: number): Promise<Uint8Array> {
    assert(size > 0 && size <= CONFIG_BYTES_MAX, `${size} bytes of config space`);
    return this.exclusive(async ({ link }) => {
      this.need('CONFIG');
      const request = { offset, size, flags: 0, bytes: new Uint8Array(size) };
      const { payload } = await link.request('GET_CONFIG', request);
      if (payload.size === 0 || payload.bytes.length < payload.size) {
        throw new VloError('VLO_BACKEND_REFUSED', 'the back end refused GET_CONFIG');
      }
      // A shorter answer: the rest is not there, and reads as zero.
      const bytes = new Uint8Array(size);
      bytes.set(payload.bytes.subarray(0, Math.min(size, payload.size)));
      return bytes;
    });
  }

  /** Writes config space, as a driver. @throws VloError as {@link readConfig} */
  writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.exclusive(async ({ link }) => {
      this.need('CONFIG');
      await link.ack('SET_CONFIG', { offset, size: bytes.length, flags: 0, bytes });
    });
  }

  /** Shares `size` bytes more, in one region. @throws VloError VLO_BACKEND_FEATURES */
  addMemory(size: number): Promise<SharedRegion> {
    return this.exclusive(async (session) => {
      if (this.memory.regions.length === session.memorySlots) {
        throw new VloError(
          'VLO_BACKEND_FEATURES',
          `the back end takes no more than ${session.memorySlots} memory regions`,
        );
      }
      const region = this.memory.add(size);
      try {
        await this.share(session, region);
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
    return this.exclusive(async (session) => {
      assert(region.isUnused, 'a region was removed whose blocks are in use');
      const { link } = session;
      if (session.has('CONFIGURE_MEM_SLOTS')) await link.ack('REM_MEM_REG', region.description);
      else await this.sendTable(session, region);
      this.memory.remove(region);
    });
  }

  private async share(session: FrontEndSession, region: SharedRegion): Promise<void> {
    if (session.has('CONFIGURE_MEM_SLOTS')) {
      await session.link.ack('ADD_MEM_REG', region.description, [region.fd]);
    } else {
      await this.sendTable(session, null);
    }
  }

  private async sendTable(session: FrontEndSession, without: SharedRegion | null): Promise<void> {
    const regions = this.memory.regions.filter((region) => region !== without);
    const fds = regions.map((region) => region.fd);
    const table = { regions: regions.map((region) => region.description) };
    await session.link.ack('SET_MEM_TABLE', table, fds);
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
      if (consumeEvent(queue.err.number) > 0) this.ringBroken(index);
    });
    this.watches.push(watch);
    return queue;
  }

  /** Has the back end serve all queues that it does not serve yet. */
  start(): Promise<void> {
    return this.exclusive((session) => this.startAll(session));
  }

  /** Stops a queue in an orderly way; {@link start} goes on with it where it was. */
  stopQueue(queue: FrontEndQueue): Promise<void> {
    return this.exclusive((session) => this.stopOne(session, queue));
  }

  private async stopOne({ link }: FrontEndSession, queue: FrontEndQueue): Promise<void> {
    if (!queue.isStarted) return;
    const { index } = queue;
    const { payload } = await link.request('GET_VRING_BASE', { index, num: 0 });
    if (payload.index !== index) {
      throw new VloError('VLO_PROTOCOL', `the base of queue ${payload.index}, not of ${index}`);
    }
    queue.isStarted = false;
    queue.base = payload.num;
    queue.owner.drain();
  }

  private async startAll(session: FrontEndSession): Promise<void> {
    await this.inflight.prepare(session, this.queues);
    for (const queue of this.queues) if (!queue.isStarted) await this.startOne(session, queue);
    await session.sendDriverOk();
  }

  private async startOne(session: FrontEndSession, queue: FrontEndQueue): Promise<void> {
    const { link } = session;
    const { index, ring } = queue;
    const word = { value: BigInt(index) };
    link.send('SET_VRING_NUM', { index, num: ring.size });
    // What was used before this start is taken, so that the base is exact.
    if (queue.base === null) queue.owner.drain();
    link.send('SET_VRING_BASE', { index, num: queue.startBase });
    const address = link.ack('SET_VRING_ADDR', queue.address(this.log !== null));
    if (session.has('INBAND_NOTIFICATIONS')) {
      link.send('VRING_KICK', { index, num: 0 });
    } else {
      link.send('SET_VRING_CALL', word, [queue.call]);
      link.send('SET_VRING_ERR', word, [queue.err]);
      link.send('SET_VRING_KICK', word, [queue.kick]);
    }
    await address;
    if (session.hasRingEnable) await link.ack('SET_VRING_ENABLE', { index, num: 1 });
    queue.isStarted = true;
    queue.base = null;
    // What was placed before the ring was served brought no kick, or one that died with its reader.
    if (session.has('INBAND_NOTIFICATIONS')) this.kickInBand(queue);
    else signalEvent(queue.kick.number);
  }

  private kickInBand({ index }: FrontEndQueue): void {
    if (this.state === 'connected') this.session.link.send('VRING_KICK', { index, num: 0 });
  }

  /**
   * Resets the device: rings and device as at first. Requests in the rings are placed anew.
   * @throws VloError VLO_BACKEND_FEATURES when the back end offers no way to do it
   */
  resetDevice(): Promise<void> {
    return this.exclusive(async (session) => {
      if (session.has('STATUS')) {
        // The rings first: a device that still writes to them must not meet their reset.
        for (const queue of this.queues) await this.stopOne(session, queue);
        await session.link.ack('SET_STATUS', { value: 0n });
      } else {
        this.need('RESET_DEVICE');
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
    return this.exclusive(async (session) => {
      assert(this.log === null, 'the log was started twice');
      this.need('LOG_SHMFD');
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
    return this.exclusive(async (session) => {
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
  reconnect(options: ReconnectOptions = this.options.reconnect ?? {}): Promise<void> {
    const turn = this.last.then(() => this.seek(options));
    this.last = turn.catch(() => {});
    return turn;
  }

  private async seek(options: ReconnectOptions): Promise<void> {
    const { limitMs = 30_000, delayMs = 5, delayMsMax = 500 } = options;
    const end = Date.now() + limitMs;
    for (let pauseMs = delayMs; this.state === 'lost'; pauseMs *= 2) {
      try {
        await this.resume();
        return;
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        if (this.state !== 'lost') break;
        this.lossError = error;
        if (error.code === 'VLO_BACKEND_FEATURES' || Date.now() + pauseMs > end) {
          this.fail(error);
          throw error;
        }
      }
      const { signal } = this.aborter;
      await sleep(Math.min(pauseMs, delayMsMax), undefined, { signal }).catch(() => {});
    }
    if (this.state !== 'connected') throw this.absent();
  }

  /** One attempt: a session with everything in it that the last one had. */
  private async resume(): Promise<void> {
    const running = this.queues.filter((queue) => queue.isStarted);
    try {
      await this.openSession();
      const { session } = this;
      if (this.queues.length > session.queueCount) {
        throw new VloError(
          'VLO_BACKEND_FEATURES',
          `the back end has ${session.queueCount} queues; ${this.queues.length} are in use`,
        );
      }
      if (session.has('CONFIGURE_MEM_SLOTS')) {
        for (const region of this.memory.regions) await this.share(session, region);
      } else if (this.memory.regions.length > 0) {
        await this.sendTable(session, null);
      }
      const isKept = await this.inflight.handOver(session);
      for (const queue of running) {
        if (!isKept) queue.restart();
        queue.isStarted = false;
      }
      if (this.log !== null) await this.applyLog(session);
      if (running.length > 0) await this.startAll(session);
      if (session.link.isClosed) throw this.absent();
    } catch (error) {
      for (const queue of running) queue.isStarted = true;
      this.session.close();
      throw error;
    }
    this.state = 'connected';
    this.options.log?.('reconnected to the back end');
    this.events.onReconnect?.();
  }

  private async openSession(): Promise<void> {
    const { path, fd, timeoutMs = FRONT_END_TIMEOUT_MS } = this.options;
    const socket = fd === undefined ? connectTo(path!) : new Fd(fd);
    if (fd !== undefined) socket.setNonBlocking();
    const session = new FrontEndSession(socket, timeoutMs, (error) => this.lost(session, error));
    this.session = session;
    const inBand = this.options.inBandNotifications === true;
    const { features: wanted = 0n, required = F.VERSION_1 } = this.options;
    try {
      await session.negotiate(
        { wanted, required, fixed: this.negotiated, inBand },
        {
          onConfigChange: () => void this.configChanged(),
          onVringCall: (index) => this.queues[index]?.owner.called(),
          onVringErr: (index) => this.ringBroken(index),
          log: (line) => this.options.log?.(line),
        },
      );
    } catch (error) {
      session.close();
      throw error;
    }
    this.negotiated = session.features;
  }

  private lost(session: FrontEndSession, error: VloError | null): void {
    if (session !== this.session || this.state !== 'connected') return;
    this.state = 'lost';
    this.lossError = error ?? new VloError('VLO_DISCONNECTED', 'the connection was closed');
    this.options.log?.(`lost the back end: ${this.lossError.message}`);
    this.events.onDisconnect?.(this.lossError);
    const { reconnect, path } = this.options;
    if (this.state !== 'lost') return;
    if (path === undefined) this.fail(this.lossError);
    // Whoever waits hears of a failure by the event.
    else if (reconnect) this.reconnect(reconnect).catch(() => {});
  }

  private fail(error: VloError): void {
    this.state = 'failed';
    this.lossError = error;
    this.events.onFail?.(error);
  }

  private ringBroken(index: number): void {
    const message = `the back end says that the ring of queue ${index} is broken`;
    this.events.onDeviceError?.(new VloError('VLO_DEVICE_FAILED', message));
  }

  private async configChanged(): Promise<void> {
    const { session } = this;
    if (session.has('STATUS')) {
      // A device that needs a reset says so in the same way (section SET_STATUS).
      const status = await session.word('GET_STATUS').catch(() => 0n);
      if ((status & BigInt(STATUS.DEVICE_NEEDS_RESET)) !== 0n) {
        const error = new VloError('VLO_DEVICE_FAILED', 'the device needs a reset');
        this.events.onDeviceError?.(error);
        return;
      }
    }
    if (this.state === 'connected') this.events.onConfigChange?.();
  }

  private need(name: Parameters<FrontEndSession['has']>[0]): void {
    if (this.session.has(name)) return;
    throw new VloError('VLO_BACKEND_FEATURES', `the back end does not offer ${name}`);
  }

  private absent(): VloError {
    if (this.state === 'closed') return new VloError('VLO_CLOSED', 'the front end was closed');
    return this.lossError ?? new VloError('VLO_DISCONNECTED', 'no back end is there');
  }

  /** Runs a control operation when those before it are done. */
  private exclusive<T>(work: (session: FrontEndSession) => Promise<T>): Promise<T> {
    const turn = this.last.then(() => {
      if (this.state !== 'connected') throw this.absent();
      return work(this.session);
    });
    this.last = turn.catch(() => {});
    return turn;
  }

  /**
   * Stops the queues where the back end is there, and lets everything go: connection, memory,
   * descriptors. Idempotent.
   */
  async close(): Promise<void> {
    if (this.state === 'closed') return;
    if (this.state === 'connected') {
      for (const queue of this.queues) await this.stopQueue(queue).catch(() => {});
    }
    this.destroy();
    await this.last;
  }

  /** Lets everything go at once, without a word to the back end: for broken ones. Idempotent. */
  destroy(): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.aborter.abort();
    this.session.close();
    for (const watch of this.watches.splice(0)) watch.close();
    for (const queue of this.queues.splice(0)) queue.release();
    this.inflight.forget();
    this.log?.retire();
    this.log = null;
    this.memory.retire();
  }
}

function connectTo(path: string): Fd {
  try {
    return connectUnix(path);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new VloError('VLO_DISCONNECTED', `cannot connect to '${path}': ${error.errno}`);
  }
}
