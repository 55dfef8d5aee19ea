/** What all ends over a descriptor share: reading, writing, noticing that the other side left. */
import {
  ERRNO,
  type Fd,
  type IovecList,
  isHungUp,
  readableCount,
  readVector,
  type TerminalSize,
  terminalSize,
  Watch,
  writeVector,
} from '../../native/index.js';
import { GONE, type PortEnd, type PortEvents } from './backend.js';

/** How often, in milliseconds, to look who is there, and how large a terminal is. */
const LOOK_MS = 200;

/** An end over one descriptor at a time. */
export abstract class StreamEnd implements PortEnd {
  abstract readonly place: string;
  isOpen = false;
  size: TerminalSize | null = null;
  protected readonly events: PortEvents;
  private fd: Fd | null = null;
  private watch: Watch | null = null;
  private readonly timer: NodeJS.Timeout;

  protected constructor(events: PortEvents) {
    this.events = events;
    this.timer = setInterval(() => this.look(), LOOK_MS);
    this.timer.unref();
  }

  /** Somebody is there from now on. The descriptor is non-blocking and becomes this object's. */
  protected open(fd: Fd): void {
    this.fd = fd;
    this.isOpen = true;
    this.size = terminalSize(fd.number);
    this.watch = new Watch(fd.number, () => this.events.ready());
    this.watch.pause();
  }

  /** The descriptor, while somebody is there. */
  protected get number(): number | null {
    return this.fd?.number ?? null;
  }

  /** Nobody is there any more; what becomes of the descriptor is the caller's business. */
  protected shut(): Fd | null {
    const { fd } = this;
    this.watch?.close();
    this.watch = null;
    this.fd = null;
    this.isOpen = false;
    return fd;
  }

  /** The other side has left; the port is told in a turn of its own. */
  protected abstract left(): void;

  /** Looks, while nobody is there, whether somebody has come. */
  protected lookAgain(): void {}

  private look(): void {
    const { fd } = this;
    if (fd === null) {
      this.lookAgain();
      return;
    }
    // What was said before leaving is still to be read.
    if (isHungUp(fd.number) && readableCount(fd.number) === 0) {
      this.left();
      return;
    }
    const size = terminalSize(fd.number);
    if (size?.cols === this.size?.cols && size?.rows === this.size?.rows) return;
    this.size = size;
    this.events.changed();
  }

  read(list: IovecList): number {
    if (this.fd === null) return GONE;
    const result = readVector(this.fd.number, list.address, list.count);
    return result === 0 ? this.gone() : this.judge(result);
  }

  write(list: IovecList): number {
    if (this.fd === null) return GONE;
    return this.judge(writeVector(this.fd.number, list.address, list.count));
  }

  private judge(result: number): number {
    if (result > 0) return result;
    if (result === 0 || result === -ERRNO.EAGAIN! || result === -ERRNO.EINTR!) return 0;
    return this.gone();
  }

  private gone(): number {
    this.left();
    return GONE;
  }

  want(readable: boolean, writable: boolean): void {
    this.watch?.want(readable, writable);
  }

  close(): void {
    clearInterval(this.timer);
    this.shut()?.close();
  }
}
