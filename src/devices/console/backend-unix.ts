/** A Unix socket that listens: whoever connects is at the other end, one at a time. */
import { rmSync } from 'node:fs';
import { VloError } from '../../errors.js';
import { acceptUnix, connectUnix, type Fd, listenUnix, Watch } from '../../native/index.js';
import type { PortEvents } from './backend.js';
import { StreamEnd } from './backend-stream.js';

export class UnixEnd extends StreamEnd {
  readonly place: string;
  private readonly listener: Fd;
  private readonly listenerWatch: Watch;
  /** The last one who came could not be accepted. */
  private hasFailed = false;

  /** @throws VloError VLO_PORT_ACCESS, VLO_SOCKET_IN_USE */
  constructor(path: string, events: PortEvents) {
    super(events);
    this.place = path;
    try {
      removeStale(path);
      this.listener = listenUnix(path);
    } catch (cause) {
      super.close();
      if (cause instanceof VloError && cause.code === 'VLO_SOCKET_IN_USE') throw cause;
      const reason = cause instanceof Error ? cause.message : `${cause}`;
      throw new VloError('VLO_PORT_ACCESS', `no socket at '${path}': ${reason}`, { cause });
    }
    this.listenerWatch = new Watch(this.listener.number, () => this.accept());
  }

  private accept(): void {
    let fd: Fd | null;
    try {
      fd = acceptUnix(this.listener.number);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      if (!this.hasFailed) this.events.log(`nobody can be accepted now: ${error.message}`);
      // Without descriptors left it would fail at once again: the next look tries.
      this.hasFailed = true;
      this.listenerWatch.pause();
      return;
    }
    if (fd === null) return;
    this.hasFailed = false;
    // The next one waits in the backlog until this one leaves.
    this.listenerWatch.pause();
    this.open(fd);
    this.events.changed();
  }

  protected override lookAgain(): void {
    if (this.hasFailed) this.listenerWatch.resume();
  }

  protected left(): void {
    this.shut()?.close();
    setImmediate(() => {
      // It may have been closed, or there may be a next one, which comes as a change of its own.
      if (!this.listener.isOpen) return;
      this.events.changed();
      this.listenerWatch.resume();
    });
  }

  override close(): void {
    super.close();
    if (!this.listener.isOpen) return;
    this.listenerWatch.close();
    this.listener.close();
    rmSync(this.place, { force: true });
  }
}

/** Removes the socket of a predecessor that nobody listens on. */
function removeStale(path: string): void {
  let other: Fd;
  try {
    other = connectUnix(path);
  } catch (error) {
    if ((error as { errno?: string }).errno === 'ECONNREFUSED') rmSync(path, { force: true });
    return;
  }
  other.close();
  throw new VloError('VLO_SOCKET_IN_USE', `somebody listens on '${path}' already`);
}
