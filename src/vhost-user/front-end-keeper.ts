/**
 * A front end's connection that outlives its back ends: the session of now, control operations one
 * after the other, and the search for a successor when the back end dies.
 *
 *   connect ─► connected ─ the back end dies ─► lost ─ reconnect ─► connected
 *                                                └─ no successor in time, or a wrong one ─► failed
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { assert, SystemError, VloError } from '../errors.js';
import { connectUnix, Fd } from '../native/index.js';
import { STATUS } from '../virtio/index.js';
import type { ChannelEvents } from './front-end-channel.js';
import {
  FRONT_END_TIMEOUT_MS,
  type FrontEndOptions,
  type ReconnectOptions,
} from './front-end-options.js';
import { FrontEndSession } from './front-end-session.js';
import { CONFIG_BYTES_MAX } from './messages-constants.js';

type State = 'connecting' | 'connected' | 'lost' | 'failed' | 'closed';

/** Errors that another attempt does not mend. */
const FINAL = new Set(['VLO_BACKEND_FEATURES', 'VLO_DEVICE_FAILED']);

export type KeeperOptions = Pick<
  FrontEndOptions,
  'path' | 'fd' | 'timeoutMs' | 'reconnect' | 'events' | 'log'
>;

/** Who uses the connection. */
export interface KeeperHost {
  /** The hand-shake of a new session. */
  negotiate(session: FrontEndSession, events: ChannelEvents): Promise<void>;
  /** Puts all that the last session had into a new one. */
  resume(session: FrontEndSession): Promise<void>;
  /** The back end notified by message (in-band). */
  vringCalled(index: number): void;
}

export class SessionKeeper {
  session!: FrontEndSession;
  private readonly options: KeeperOptions;
  private readonly host: KeeperHost;
  private state: State = 'connecting';
  /** The session that was ended for what its back end did; see {@link part}. */
  private parted: FrontEndSession | null = null;
  /** Why no back end is there. */
  private lossError: VloError | null = null;
  /** Control operations run one after the other: a reconnect must not meet a half-done one. */
  private last: Promise<unknown> = Promise.resolve();
  /** Settles when a search that goes on has ended. */
  private seeking: Promise<void> | null = null;
  private readonly aborter = new AbortController();

  constructor(options: KeeperOptions, host: KeeperHost) {
    assert((options.path === undefined) !== (options.fd === undefined), 'give a path or an fd');
    this.options = options;
    this.host = host;
  }

  /** Opens the first session. @throws VloError as `FrontEnd.connect` */
  async connect(): Promise<void> {
    await this.openSession();
    this.state = 'connected';
  }

  get isConnected(): boolean {
    return this.state === 'connected';
  }

  get isClosed(): boolean {
    return this.state === 'closed';
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

  /** @throws VloError VLO_BACKEND_FEATURES when the feature was not negotiated */
  need(name: Parameters<FrontEndSession['has']>[0]): void {
    if (this.session.has(name)) return;
    throw new VloError('VLO_BACKEND_FEATURES', `the back end does not offer ${name}`);
  }

  /**
   * Runs a control operation when those before it are done, and a search that goes on has ended.
   * @throws VloError why there is no back end
   */
  exclusive<T>(work: (session: FrontEndSession) => Promise<T>): Promise<T> {
    const run = () =>
      this.enqueue(() => {
        if (this.state !== 'connected') throw this.absent();
        return work(this.session);
      });
    return this.seeking === null ? run() : this.seeking.then(run, run);
  }

  /**
   * Runs a control operation when those before it are done. It waits for no back end: where there
   * is none now, it gets null.
   */
  immediate<T>(work: (session: FrontEndSession | null) => Promise<T>): Promise<T> {
    return this.enqueue(() => work(this.state === 'connected' ? this.session : null));
  }

  private enqueue<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.last.then(work);
    this.last = turn.catch(() => {});
    return turn;
  }

  /**
   * Finds the back end again and has it go on where its predecessor was.
   * @throws VloError the last failure when the time is over; at once what no attempt can mend
   */
  reconnect(options: ReconnectOptions = this.options.reconnect ?? {}): Promise<void> {
    if (this.seeking !== null) return this.seeking;
    const seeking = this.seek(options).finally(() => {
      this.seeking = null;
    });
    this.seeking = seeking;
    return seeking;
  }

  private async seek(options: ReconnectOptions): Promise<void> {
    const { limitMs = 30_000, delayMs = 5, delayMsMax = 500 } = options;
    const end = Date.now() + limitMs;
    await this.last;
    for (let pauseMs = delayMs; this.state === 'lost'; pauseMs *= 2) {
      try {
        await this.enqueue(() => this.resume());
        return;
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        if (this.state !== 'lost') break;
        this.lossError = error;
        const isFinal = FINAL.has(error.code) && this.session !== this.parted;
        if (isFinal || Date.now() + pauseMs > end) {
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
    if (this.state !== 'lost') throw this.absent();
    try {
      await this.openSession();
      await this.host.resume(this.session);
      if (this.session.link.isClosed) {
        throw new VloError('VLO_DISCONNECTED', 'the connection was closed again');
      }
    } catch (error) {
      this.session.close();
      throw error;
    }
    this.state = 'connected';
    this.options.log?.('reconnected to the back end');
    this.options.events?.onReconnect?.();
  }

  private async openSession(): Promise<void> {
    const { path, fd, timeoutMs = FRONT_END_TIMEOUT_MS } = this.options;
    const socket = fd === undefined ? connectTo(path!) : new Fd(fd);
    if (fd !== undefined) socket.setNonBlocking();
    const session = new FrontEndSession(socket, timeoutMs, (error) => this.lost(session, error));
    this.session = session;
    try {
      await this.host.negotiate(session, {
        onConfigChange: () => void this.configChanged(),
        onVringCall: (index) => this.host.vringCalled(index),
        onVringErr: (index) => this.ringBroken(index),
        log: (line) => this.options.log?.(line),
      });
    } catch (error) {
      session.close();
      throw error;
    }
  }

  /** Parts with the back end for what it did. Another attempt may mend it, also on its way. */
  part(error: VloError): void {
    this.parted = this.session;
    this.session.close(error);
  }

  private lost(session: FrontEndSession, error: VloError | null): void {
    if (session !== this.session || this.state !== 'connected') return;
    this.state = 'lost';
    this.lossError = error ?? new VloError('VLO_DISCONNECTED', 'the connection was closed');
    this.options.log?.(`lost the back end: ${this.lossError.message}`);
    this.options.events?.onDisconnect?.(this.lossError);
    const { reconnect, path } = this.options;
    if (this.state !== 'lost') return;
    if (path === undefined) this.fail(this.lossError);
    // Whoever waits hears of a failure by the event.
    else if (reconnect) this.reconnect(reconnect).catch(() => {});
  }

  private fail(error: VloError): void {
    this.state = 'failed';
    this.lossError = error;
    this.options.events?.onFail?.(error);
  }

  /** The back end found a ring broken. */
  ringBroken(index: number): void {
    const message = `the back end says that the ring of queue ${index} is broken`;
    this.options.events?.onDeviceError?.(new VloError('VLO_DEVICE_FAILED', message));
  }

  private async configChanged(): Promise<void> {
    const { session } = this;
    if (session.has('STATUS')) {
      // A device that needs a reset says so in the same way (section SET_STATUS).
      const status = await session.word('GET_STATUS').catch(() => 0n);
      if ((status & BigInt(STATUS.DEVICE_NEEDS_RESET)) !== 0n) {
        const error = new VloError('VLO_DEVICE_FAILED', 'the device needs a reset');
        this.options.events?.onDeviceError?.(error);
        return;
      }
    }
    if (this.state === 'connected') this.options.events?.onConfigChange?.();
  }

  private absent(): VloError {
    if (this.state === 'closed') return new VloError('VLO_CLOSED', 'the front end was closed');
    return this.lossError ?? new VloError('VLO_DISCONNECTED', 'no back end is there');
  }

  /** Ends the connection and any search, at once. Idempotent. */
  destroy(): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.aborter.abort();
    this.session.close();
  }

  /** Resolves when no control operation goes on, and no search. */
  async settled(): Promise<void> {
    await this.seeking?.catch(() => {});
    await this.last;
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
