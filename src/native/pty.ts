/** Pseudo-terminals, and what else is asked of terminals. */
import { closeSync, constants, openSync } from 'node:fs';
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { check, libc } from './libc.js';

const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TIOCGWINSZ = 0x5413;
const TIOCSWINSZ = 0x5414;
const FIONREAD = 0x541b;
const TIOCGPTN = 0x80045430;
const TIOCSPTLCK = 0x40045431;

// struct termios: four words of flags, the line discipline, then the control characters.
const IFLAG = 0;
const OFLAG = 1;
const CFLAG = 2;
const LFLAG = 3;
const CONTROL = 17;
const VTIME = 5;
const VMIN = 6;
/** IGNBRK, BRKINT, PARMRK, ISTRIP, INLCR, IGNCR, ICRNL, IXON. */
const IFLAGS_COOKED = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x80 | 0x100 | 0x400;
const OPOST = 0x1;
/** CSIZE and PARENB. */
const CFLAGS_COOKED = 0x30 | 0x100;
const CS8 = 0x30;
const ISIG = 0x1;
/** ICANON, ECHO, ECHONL, IEXTEN. */
const LFLAGS_COOKED = 0x2 | 0x8 | 0x40 | 0x8000;

const POLLERR = 0x8;
const POLLHUP = 0x10;
const POLLNVAL = 0x20;
const POLLRDHUP = 0x2000;

const TERMIOS_SIZE = 64;
const scratch = new NativeBuffer(128);
const POLL = TERMIOS_SIZE;

/** Columns and rows of a terminal. */
export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** The settings of a terminal, to be given back. */
export type TerminalState = Uint8Array;

/** Opens a pseudo-terminal: the side that programs call master, and the path of the other side. */
export function openPty(): { fd: Fd; path: string } {
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  const fd = new Fd(openSync('/dev/ptmx', O_RDWR | O_NOCTTY | O_NONBLOCK));
  try {
    scratch.i32[0] = 0;
    check(libc.ioctl(fd.number, TIOCSPTLCK, scratch.address), 'unlockpt');
    check(libc.ioctl(fd.number, TIOCGPTN, scratch.address), 'ptsname');
    const path = `/dev/pts/${scratch.i32[0]}`;
    // Only one that was open and closed says that it is closed.
    const other = openSync(path, O_RDWR | O_NOCTTY);
    try {
      setRaw(other);
    } finally {
      closeSync(other);
    }
    return { fd, path };
  } catch (error) {
    fd.close();
    throw error;
  }
}

/**
 * Has a terminal pass on every byte as it is. With `keepSignals`, control-C and the like still go
 * to the programs in front of it. @returns how it was before. @throws SystemError
 */
export function setRaw(fd: number, keepSignals = false): TerminalState {
  check(libc.ioctl(fd, TCGETS, scratch.address), 'tcgetattr');
  const before = scratch.bytes.slice(0, TERMIOS_SIZE);
  const { u32, bytes } = scratch;
  u32[IFLAG]! &= ~IFLAGS_COOKED;
  u32[OFLAG]! &= ~OPOST;
  u32[CFLAG] = (u32[CFLAG]! & ~CFLAGS_COOKED) | CS8;
  u32[LFLAG]! &= ~(LFLAGS_COOKED | (keepSignals ? 0 : ISIG));
  bytes[CONTROL + VMIN] = 1;
  bytes[CONTROL + VTIME] = 0;
  check(libc.ioctl(fd, TCSETS, scratch.address), 'tcsetattr');
  return before;
}

/** Gives a terminal its settings back; one that is gone needs none. */
export function restoreTerminal(fd: number, state: TerminalState): void {
  scratch.bytes.set(state);
  libc.ioctl(fd, TCSETS, scratch.address);
}

/** The size of a terminal; null where it has none, or `fd` is no terminal. */
export function terminalSize(fd: number): TerminalSize | null {
  if (libc.ioctl(fd, TIOCGWINSZ, scratch.address) < 0) return null;
  const [rows, cols] = [scratch.u16[0]!, scratch.u16[1]!];
  return rows === 0 || cols === 0 ? null : { cols, rows };
}

/** Gives a terminal a size; programs in front of it get SIGWINCH. @throws SystemError */
export function setTerminalSize(fd: number, { cols, rows }: TerminalSize): void {
  scratch.u16.set([rows, cols, 0, 0]);
  check(libc.ioctl(fd, TIOCSWINSZ, scratch.address), 'TIOCSWINSZ');
}

/** Bytes that can be read from a terminal, pipe or socket now. */
export function readableCount(fd: number): number {
  return libc.ioctl(fd, FIONREAD, scratch.address) < 0 ? 0 : scratch.i32[0]!;
}

/** True when nobody is at the other end of a terminal, pipe or socket. */
export function isHungUp(fd: number): boolean {
  scratch.i32[POLL >> 2] = fd;
  scratch.u32[(POLL >> 2) + 1] = POLLRDHUP;
  if (libc.poll(scratch.address + POLL, 1, 0) <= 0) return false;
  const events = scratch.u16[(POLL >> 1) + 3]!;
  return (events & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) !== 0;
}
