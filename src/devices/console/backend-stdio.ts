/** Standard input and output of this process; a terminal there passes on each key. */
import { constants, fstatSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';
import { VloError } from '../../errors.js';
import {
  ERRNO,
  Fd,
  type IovecList,
  readVector,
  restoreTerminal,
  setRaw,
  type TerminalSize,
  type TerminalState,
  terminalSize,
  Watch,
  writeVector,
} from '../../native/index.js';
import { GONE, type PortEnd, type PortEvents } from './backend.js';

const STDIN = 0;
const STDOUT = 1;

export class StdioEnd implements PortEnd {
  readonly place = 'standard input and output';
  isOpen = true;
  size: TerminalSize | null;
  private readonly events: PortEvents;
  private readonly input: Fd | null;
  private readonly output: Fd | null;
  private readonly inputWatch: Watch | null;
  private readonly outputWatch: Watch | null;
  private readonly state: TerminalState | null;
  private isAtEnd: boolean;

  /** @throws VloError VLO_PORT_ACCESS */
  constructor(events: PortEvents) {
    this.events = events;
    this.size = terminalSize(STDOUT);
    const ready = (): void => events.ready();
    this.input = reopen(STDIN, constants.O_RDONLY);
    try {
      this.output = reopen(STDOUT, constants.O_WRONLY);
    } catch (error) {
      this.input?.close();
      throw error;
    }
    // Control-C still ends this program. Last, for what fails leaves the terminal as it was.
    this.state = isatty(STDIN) ? setRaw(STDIN, true) : null;
    this.isAtEnd = this.input === null;
    this.inputWatch = this.input === null ? null : new Watch(this.input.number, ready);
    this.outputWatch = this.output === null ? null : new Watch(this.output.number, ready);
    this.want(false, false);
    process.on('SIGWINCH', this.resized);
  }

  private readonly resized = (): void => {
    this.size = terminalSize(STDOUT);
    this.events.changed();
  };

  read(list: IovecList): number {
    if (this.isAtEnd) return 0;
    const result = readVector(this.input!.number, list.address, list.count);
    if (result > 0) return result;
    // Input that has ended leaves the output: nothing more is said, that is all.
    this.isAtEnd = result === 0 || (result !== -ERRNO.EAGAIN! && result !== -ERRNO.EINTR!);
    return 0;
  }

  write(list: IovecList): number {
    if (!this.isOpen) return GONE;
    const fd = this.output?.number ?? STDOUT;
    const result = writeVector(fd, list.address, list.count);
    if (result >= 0) return result;
    if (result === -ERRNO.EAGAIN! || result === -ERRNO.EINTR!) return 0;
    this.isOpen = false;
    setImmediate(() => this.events.changed());
    return GONE;
  }

  want(readable: boolean, writable: boolean): void {
    this.inputWatch?.want(readable && !this.isAtEnd, false);
    this.outputWatch?.want(false, writable);
  }

  close(): void {
    process.off('SIGWINCH', this.resized);
    this.inputWatch?.close();
    this.outputWatch?.close();
    this.input?.close();
    this.output?.close();
    if (this.state !== null) restoreTerminal(STDIN, this.state);
  }
}

/**
 * The same file, but non-blocking: to change that of a descriptor that was inherited would change
 * it for the shell, too. A file or `/dev/null` never makes anybody wait, and cannot be watched.
 * @throws VloError VLO_PORT_ACCESS where it is another user's, or nobody reads the pipe
 */
export function reopen(fd: number, mode: number): Fd | null {
  const stat = fstatSync(fd);
  if (stat.isSocket()) {
    const socket = new Fd(fd).duplicate();
    socket.setNonBlocking();
    return socket;
  }
  if (!stat.isFIFO() && !isatty(fd)) return null;
  const { O_NONBLOCK, O_NOCTTY } = constants;
  try {
    return new Fd(openSync(`/proc/self/fd/${fd}`, mode | O_NONBLOCK | O_NOCTTY));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    const what = mode === constants.O_RDONLY ? 'input' : 'output';
    const text = `standard ${what} cannot be opened (${code}); give the port another chardev`;
    throw new VloError('VLO_PORT_ACCESS', text, { cause });
  }
}
