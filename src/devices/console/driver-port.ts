/** One port as its driver has it. */
import type { VloError } from '../../errors.js';
import type { TerminalSize } from '../../native/index.js';
import { EVENT } from './wire.js';

/** @internal What a port needs from its driver. */
export interface PortHost {
  readonly error: VloError | null;
  slot(token: number): Uint8Array;
  submit(token: number, length: number): void;
  tell(id: number, event: number, value: number): void;
}

/** What a port tells. */
export interface ConsolePortEvents {
  /**
   * Bytes came. They are valid during the call only. `false` asks for no more until
   * {@link ConsolePort.resume}, which begins with these bytes again.
   */
  data?(bytes: Uint8Array): boolean | undefined;
  /** The host's end was opened or closed, the size is another, or the port is gone. */
  changed?(): void;
  /** Nothing will come any more. */
  failed?(error: VloError): void;
}

/** A write: as many requests as it takes. */
interface Write {
  /** What was not handed over yet. */
  bytes: Uint8Array;
  /** Requests that the device has not taken yet. */
  underWay: number;
  readonly resolve: () => void;
  readonly reject: (error: VloError) => void;
}

/** @internal What changes of a port. */
export interface PortChange {
  readonly name?: string;
  readonly isConsole?: boolean;
  readonly isHostOpen?: boolean;
  readonly isGone?: boolean;
  readonly size?: TerminalSize | null;
}

export class ConsolePort {
  readonly id: number;
  name = '';
  /** The device means it for people. */
  isConsole = false;
  /** Somebody is at the host's end. */
  isHostOpen = false;
  /** The device has taken it away. */
  isGone = false;
  /** This end is open. */
  isOpen = false;
  /** @internal Its device has said what makes it known. */
  isReady = false;
  size: TerminalSize | null = null;
  private readonly host: PortHost;
  private events: ConsolePortEvents = {};
  private readonly free: number[] = [];
  private readonly writes: Write[] = [];
  private readonly owners = new Map<number, Write>();
  /** Buffers that were filled and not taken, and their lengths. */
  private readonly held: { token: number; length: number }[] = [];
  private isPaused = false;

  /** @internal */
  constructor(host: PortHost, id: number, firstToken: number, slotCount: number) {
    this.host = host;
    this.id = id;
    for (let i = 0; i < slotCount; i += 1) this.free.push(firstToken + slotCount + i);
  }

  /** Says who hears of data and changes, and opens the port. */
  listen(events: ConsolePortEvents): void {
    this.events = events;
    this.open();
  }

  /** Opens this end: the device sends from now on. */
  open(): void {
    if (this.isOpen) return;
    this.isOpen = true;
    this.host.tell(this.id, EVENT.PORT_OPEN, 1);
  }

  /** Closes this end: the device holds back what it has. */
  close(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.host.tell(this.id, EVENT.PORT_OPEN, 0);
  }

  /**
   * Sends bytes, after those of earlier writes; resolves when the device has taken them all.
   * @throws VloError VLO_DISCONNECTED, VLO_CLOSED as the driver fails
   */
  write(bytes: Uint8Array): Promise<void> {
    if (this.host.error !== null) return Promise.reject(this.host.error);
    if (bytes.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.writes.push({ bytes, underWay: 0, resolve, reject });
      this.pump();
    });
  }

  private pump(): void {
    const { host, free, writes } = this;
    while (writes.length > 0 && free.length > 0) {
      const write = writes[0]!;
      const token = free.pop()!;
      const slot = host.slot(token);
      const part = write.bytes.subarray(0, slot.length);
      slot.set(part);
      write.bytes = write.bytes.subarray(part.length);
      if (write.bytes.length === 0) writes.shift();
      this.owners.set(token, write);
      write.underWay += 1;
      host.submit(token, part.length);
    }
  }

  /** @internal */
  sent(token: number): void {
    const write = this.owners.get(token);
    this.owners.delete(token);
    this.free.push(token);
    if (write !== undefined) {
      write.underWay -= 1;
      if (write.underWay === 0 && write.bytes.length === 0) write.resolve();
    }
    this.pump();
  }

  /** @internal */
  received(token: number, length: number): void {
    this.held.push({ token, length });
    if (!this.isPaused) this.deliver();
  }

  /** Takes data again, after `data` returned false. */
  resume(): void {
    this.isPaused = false;
    this.deliver();
  }

  private deliver(): void {
    const { host, held, events } = this;
    while (held.length > 0 && host.error === null) {
      const { token, length } = held[0]!;
      const isTaken = events.data?.(host.slot(token).subarray(0, length)) !== false;
      if (!isTaken) {
        this.isPaused = true;
        return;
      }
      held.shift();
      host.submit(token, 0);
    }
  }

  /** @internal The device said something of it. */
  become(change: PortChange): void {
    const { name, isConsole, isHostOpen, isGone, size } = change;
    if (name !== undefined) this.name = name;
    if (isConsole !== undefined) this.isConsole = isConsole;
    if (isGone !== undefined) this.isGone = isGone;
    if (size !== undefined) this.size = size;
    if (isHostOpen !== undefined) this.isHostOpen = isHostOpen;
    this.events.changed?.();
  }

  /** @internal */
  failed(error: VloError): void {
    const writes = new Set([...this.writes.splice(0), ...this.owners.values()]);
    this.owners.clear();
    for (const { reject } of writes) reject(error);
    this.events.failed?.(error);
  }
}
