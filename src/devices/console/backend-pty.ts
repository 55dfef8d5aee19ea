/** A pseudo-terminal: whoever opens it is at the other end. */
import { readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { VloError } from '../../errors.js';
import {
  type Fd,
  isHungUp,
  openPty,
  setTerminalSize,
  type TerminalSize,
} from '../../native/index.js';
import type { PortEvents } from './backend.js';
import { StreamEnd } from './backend-stream.js';

export class PtyEnd extends StreamEnd {
  /** The terminal: `/dev/pts/3`. */
  readonly terminal: string;
  private readonly link: string | null;
  /** The terminal, while nobody has it open. */
  private idle: Fd | null;

  /**
   * Makes a terminal, and a link to it that programs find.
   * @throws VloError VLO_PORT_ACCESS
   */
  constructor(link: string | null, events: PortEvents) {
    super(events);
    let made: ReturnType<typeof openPty> | null = null;
    try {
      made = openPty();
      if (link !== null) placeLink(made.path, link);
    } catch (cause) {
      made?.fd.close();
      this.close();
      const reason = cause instanceof Error ? cause.message : `${cause}`;
      const what = link === null ? 'no pseudo-terminal' : `no pseudo-terminal at '${link}'`;
      throw new VloError('VLO_PORT_ACCESS', `${what}: ${reason}`, { cause });
    }
    this.idle = made.fd;
    this.terminal = made.path;
    this.link = link;
  }

  get place(): string {
    return this.link === null ? this.terminal : `${this.link} (${this.terminal})`;
  }

  protected override lookAgain(): void {
    if (this.idle === null || isHungUp(this.idle.number)) return;
    this.open(this.idle);
    this.idle = null;
    this.events.changed();
  }

  protected left(): void {
    this.idle = this.shut();
    setImmediate(() => this.events.changed());
  }

  /** Gives the terminal another size; programs in front of it are told. */
  resize(size: TerminalSize): void {
    const fd = this.idle?.number ?? this.number;
    if (fd !== null) setTerminalSize(fd, size);
    this.size = size;
  }

  override close(): void {
    super.close();
    this.idle?.close();
    this.idle = null;
    if (this.link !== null && linkTarget(this.link) === this.terminal) rmSync(this.link);
  }
}

function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

/** A link that a predecessor left is replaced; anything else is in the way. */
function placeLink(terminal: string, link: string): void {
  if (linkTarget(link) !== null) rmSync(link);
  symlinkSync(terminal, link);
}
