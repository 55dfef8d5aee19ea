/**
 * What a CAN device is connected to, as the device sees it. `backend-simulated.ts` is a bus in this
 * process, `backend-socketcan.ts` an interface of the kernel, and `backend-null.ts` is for tests.
 */
import { DATA_SIZE_FD } from './wire.js';

/** A frame; objects are reused, so who keeps one copies it. */
export class CanFrame {
  /** Identifier without any flag. */
  id = 0;
  /** Flags as in `CAN_FLAG`. */
  flags = 0;
  /** Bytes of data; of a remote request, the bytes that it asks for. */
  length = 0;
  readonly data = new Uint8Array(DATA_SIZE_FD);

  copy({ id, flags, length, data }: CanFrame): void {
    this.id = id;
    this.flags = flags;
    this.length = length;
    this.data.set(data);
  }

  /** True for the same frame, all of its data included. */
  equals({ id, flags, length, data }: CanFrame): boolean {
    if (this.id !== id || this.flags !== flags || this.length !== length) return false;
    for (let i = 0; i < length; i += 1) if (this.data[i] !== data[i]) return false;
    return true;
  }
}

/** What became of a frame that was to be sent. */
/** It is on the bus. */
export const SEND_DONE = 0;
/** It is on its way; {@link CanListener.ended} tells when it is on the bus. */
export const SEND_PENDING = 1;
/** Not taken: try again when {@link CanListener.writable} is called. */
export const SEND_FULL = 2;
/** Not taken, and never will be: the bus is not there. */
export const SEND_FAILED = 3;

/** What hears of the bus. */
export interface CanListener {
  /** False while so many frames more would be lost; a bus may wait a little for it. */
  hasRoomFor(count: number): boolean;
  /** Another one has sent a frame; it is the listener's only until it returns. */
  received(frame: CanFrame): void;
  /** The frame that was sent with this token is on the bus, or (false) never will be. */
  ended(token: number, isSent: boolean): void;
  /** After `SEND_FULL`: there may be room. */
  writable(): void;
  /** Too many errors: the controller is off the bus, until it joins again. */
  busOff(): void;
}

/** A controller's place on a bus. */
export interface CanBus {
  /** True when FD frames can be sent and received. */
  readonly hasFd: boolean;
  /**
   * Joins the bus. With `confirms`, frames are answered with `SEND_PENDING` as long as it is
   * not known that they are on the bus.
   * @returns false when the bus cannot be joined now.
   */
  join(listener: CanListener, confirms: boolean): boolean;
  /** Leaves the bus: nothing is heard any more. Idempotent. */
  leave(): void;
  /** Sends a frame while joined; one of the SEND_ constants. `token` is for the listener. */
  send(frame: CanFrame, token: number): number;
  /** Frees everything. */
  close(): void;
}
