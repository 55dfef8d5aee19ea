/**
 * The host's end of a port: a stream of bytes both ways that somebody may or may not be at. Real
 * ones are in `backend-*.ts`; the one in `backend-null.ts` runs without any resource and can do
 * whatever a real one can.
 */
import type { IovecList, TerminalSize } from '../../native/index.js';

/** Result of a read or write where nobody is at the other end any more. */
export const GONE = -1;

/** The host's end of one port. */
export interface PortEnd {
  /** Where it is, for the log. */
  readonly place: string;
  /** Somebody is there. */
  readonly isOpen: boolean;
  /** Size of the terminal that is there; null where there is none, or none that has a size. */
  readonly size: TerminalSize | null;
  /**
   * Fills the list's memory, without waiting. @returns bytes; 0 when there are none; {@link GONE}
   */
  read(list: IovecList): number;
  /** Takes bytes, without waiting. @returns how many; 0 when it is full; {@link GONE} */
  write(list: IovecList): number;
  /** Wishes for calls of {@link PortEvents.ready}, until the next wish. */
  want(readable: boolean, writable: boolean): void;
  /** Frees everything. */
  close(): void;
}

/** What an end tells its port. */
export interface PortEvents {
  /** A read or write, as was wished for, may succeed now. */
  ready(): void;
  /** Somebody came or went, or the size is another. */
  changed(): void;
  log(line: string): void;
}

/** Where the bytes of a port come from and go to. */
export const BACKENDS = ['pty', 'unix', 'stdio', 'file', 'null'] as const;
export type BackendName = (typeof BACKENDS)[number];

/** A port as the options describe it. */
export interface PortSpec {
  /** Name that the driver is told; empty for none. */
  readonly name: string;
  readonly backend: BackendName;
  /** Socket, file, or link to the terminal. */
  readonly path: string | null;
  /** For people: a driver makes it a terminal. */
  readonly isConsole: boolean;
}
