/**
 * Serves a device to one front end after the other.
 *
 *   listen ──► accept ──► session … it ends, all is released ──► accept the next
 *
 * There is one listener from start to end. While a front end is connected others wait in its
 * backlog; the listener is never closed and bound anew, so none of them is turned away.
 */
import { lstatSync, type Stats, unlinkSync } from 'node:fs';
import { assert, SystemError, VloError } from '../errors.js';
import { acceptUnix, connectUnix, Fd, listenUnix, unixSocketKind, Watch } from '../native/index.js';
import type { DeviceQueue, DriverFault } from '../virtio/index.js';
import { BackEndSession, type BackEndSessionEvents } from './back-end.js';
import type { BackEndDevice } from './back-end-device.js';

/** Time in milliseconds between two attempts to connect (`client`). */
const RETRY_MS = 200;

export interface BackEndServerOptions {
  /** Socket to listen on, or with `client` to connect to. Give this or {@link fd}. */
  readonly path?: string;
  /** A listening or connected socket that was handed over. */
  readonly fd?: number;
  /** Connect to the path, and again whenever the connection is lost. */
  readonly client?: boolean;
  /**
   * Offer INBAND_NOTIFICATIONS; default false. The specification advises against it unless it is
   * needed: front ends that know it (User-Mode Linux) then send a message for each kick.
   */
  readonly inBandNotifications?: boolean;
  /** Takes one line of the log. */
  readonly log?: (line: string) => void;
  /** Each message of each session, for traces. */
  readonly onMessage?: BackEndSessionEvents['onMessage'];
  /** A session has ended; see {@link BackEndSessionEvents}. */
  readonly onSessionEnd?: (error: VloError | null) => void;
}

export class BackEndServer {
  /** Resolves when nobody can be served any more: after close, or when a given connection ends. */
  readonly ended: Promise<void>;
  private readonly device: BackEndDevice;
  private readonly options: BackEndServerOptions;
  private resolveEnded!: () => void;
  private listener: Fd | null = null;
  private watch: Watch | null = null;
  private retryTimer: NodeJS.Timeout | null = null;
  private session: BackEndSession | null = null;
  /** The file that {@link start} made, to be removed in the end if it is still ours. */
  private ownFile: Stats | null = null;
  private isStarted = false;
  private isClosing = false;

  constructor(device: BackEndDevice, options: BackEndServerOptions) {
    assert((options.path === undefined) !== (options.fd === undefined), 'give a path or an fd');
    this.device = device;
    this.options = options;
    this.ended = new Promise((resolve) => {
      this.resolveEnded = resolve;
    });
  }

  /** True while a front end is connected. */
  get isConnected(): boolean {
    return this.session !== null;
  }

  /**
   * Listens, or takes the descriptor over; with `client` begins to connect.
   * @throws VloError VLO_SOCKET_IN_USE, VLO_SOCKET_PATH or VLO_SOCKET_FD
   */
  async start(): Promise<void> {
    assert(!this.isStarted, 'a server was started twice');
    this.isStarted = true;
    const { path, fd, client } = this.options;
    if (fd !== undefined) return this.takeOver(fd);
    if (client === true) return this.connect();
    this.listen(listenAt(path!));
    this.ownFile = lstatSync(path!);
  }

  /** A queue has stopped by a driver's fault (or a bug: null); see {@link BackEndSession}. */
  reportFault(queue: DeviceQueue, fault: DriverFault | null): void {
    this.session?.reportFault(queue, fault);
  }

  /** The device's config space has changed. */
  configChanged(): void {
    this.session?.configChanged();
  }

  /** Ends session and listener; resolves when everything was released. */
  async close(): Promise<void> {
    this.isClosing = true;
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
    this.removeOwnFile();
    this.watch?.close();
    this.watch = null;
    this.listener?.close();
    this.listener = null;
    await this.session?.close();
    this.resolveEnded();
  }

  /** Removes the socket's file while the socket still listens: nobody takes it for a stale one. */
  private removeOwnFile(): void {
    const { ownFile, options } = this;
    this.ownFile = null;
    if (ownFile === null) return;
    const now = lstatSync(options.path!, { throwIfNoEntry: false });
    if (now?.ino === ownFile.ino && now.dev === ownFile.dev) unlinkSync(options.path!);
  }

  private takeOver(fd: number): void {
    const kind = unixSocketKind(fd);
    if (kind === null) {
      throw new VloError('VLO_SOCKET_FD', `descriptor ${fd} is not an open Unix stream socket`);
    }
    const socket = new Fd(fd);
    socket.setNonBlocking();
    if (kind === 'listening') this.listen(socket);
    else this.serve(socket);
  }

  private listen(listener: Fd): void {
    this.listener = listener;
    this.watch = new Watch(listener.number, () => this.accept());
  }

  private accept(): void {
    if (this.listener === null || this.session !== null) return;
    let socket: Fd | null = null;
    try {
      socket = acceptUnix(this.listener.number);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      this.log(`cannot accept a front end: ${error.message}`);
      this.acceptLater();
      return;
    }
    if (socket === null) return;
    this.watch?.pause(); // The others wait in the backlog.
    this.serve(socket);
  }

  /** Waits before the next attempt: without descriptors left it would fail at once again. */
  private acceptLater(): void {
    this.watch?.pause();
    this.retryTimer = setTimeout(() => {
      this.retryTimer = null;
      this.watch?.resume();
    }, RETRY_MS);
  }

  private serve(socket: Fd): void {
    const { log, onMessage, inBandNotifications = false } = this.options;
    const events: BackEndSessionEvents = {
      onClose: (error) => this.sessionEnded(error),
      ...(onMessage === undefined ? {} : { onMessage }),
    };
    this.session = new BackEndSession(socket, this.device, events, {
      inBandNotifications,
      ...(log === undefined ? {} : { log: (line) => this.log(line) }),
    });
  }

  private sessionEnded(error: VloError | null): void {
    this.session = null;
    this.options.onSessionEnd?.(error);
    if (this.isClosing) return;
    if (this.listener !== null) this.watch?.resume();
    else if (this.options.client === true) this.connectLater();
    else this.resolveEnded();
  }

  private connect(): void {
    const path = this.options.path!;
    try {
      this.serve(connectUnix(path));
    } catch (error) {
      const isAbsent =
        error instanceof SystemError && ['ENOENT', 'ECONNREFUSED', 'EAGAIN'].includes(error.errno);
      if (!isAbsent) throw error;
      this.connectLater();
    }
  }

  private connectLater(): void {
    this.retryTimer = setTimeout(() => {
      this.retryTimer = null;
      try {
        this.connect();
      } catch (error) {
        this.log(`cannot connect: ${error instanceof Error ? error.message : String(error)}`);
        this.connectLater();
      }
    }, RETRY_MS);
  }

  private log(line: string): void {
    this.options.log?.(`${this.device.name}: ${line}`);
  }
}

/**
 * Binds and listens; a socket file that nobody listens on any more is replaced.
 * @throws VloError VLO_SOCKET_IN_USE or VLO_SOCKET_PATH
 */
export function listenAt(path: string): Fd {
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (file !== undefined) removeStale(path, file);
  try {
    return listenUnix(path);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === 'EADDRINUSE') throw inUse(path);
    throw new VloError('VLO_SOCKET_PATH', `cannot listen on '${path}': ${error.errno}`);
  }
}

function removeStale(path: string, file: Stats): void {
  if (!file.isSocket()) {
    throw new VloError('VLO_SOCKET_PATH', `'${path}' is there already, and is no socket`);
  }
  try {
    connectUnix(path).close();
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === 'ENOENT') return;
    if (error.errno !== 'ECONNREFUSED') {
      if (error.errno === 'EAGAIN') throw inUse(path);
      throw new VloError('VLO_SOCKET_PATH', `cannot use '${path}': ${error.errno}`);
    }
    // Another process may have replaced the stale file just now: that one is not to be removed.
    const now = lstatSync(path, { throwIfNoEntry: false });
    if (now?.ino === file.ino && now.dev === file.dev) unlinkSync(path);
    return;
  }
  throw inUse(path);
}

function inUse(path: string): VloError {
  return new VloError('VLO_SOCKET_IN_USE', `another process listens on '${path}'`);
}
