/**
 * The host's end of a port: a stream of bytes both ways that somebody may or may not be at. Real
 * ones are in `backend-*.ts`; the one in `backend-null.ts` runs without any resource and can do
 * whatever a real one can.
 */
import type { ByteEnd } from '../../kit/index.js';
import type { TerminalSize } from '../../native/index.js';

export { GONE } from '../../kit/index.js';

/** The host's end of one port. */
export interface PortEnd extends ByteEnd {
  /** Where it is, for the log. */
  readonly place: string;
  /** Size of the terminal that is there; null where there is none, or none that has a size. */
  readonly size: TerminalSize | null;
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
