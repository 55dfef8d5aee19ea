/** A call of the block driver that may take several requests, and waits for free slots. */
import type { VloError } from '../../errors.js';
import type { BlkDriver } from './driver.js';
import type { BlkSlots, SlotHandler } from './driver-slots.js';

/** What one call has the device do: all pieces of it. */
export interface Call {
  readonly name: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  piecesLeft: number;
  error: VloError | null;
  /** The caller waits no longer; nothing of its memory is touched any more. */
  isAborted: boolean;
}

/** One request of a call: placed as soon as a slot is free. */
export class Piece implements SlotHandler {
  readonly call: Call;
  /** Places the request; the slot is the piece's. */
  readonly place: (slots: BlkSlots, slot: number) => void;
  /** Takes the result out of the slot. */
  readonly take: ((slots: BlkSlots, slot: number) => void) | null;
  private readonly driver: BlkDriver;

  constructor(
    driver: BlkDriver,
    call: Call,
    place: (slots: BlkSlots, slot: number) => void,
    take: ((slots: BlkSlots, slot: number) => void) | null,
  ) {
    this.driver = driver;
    this.call = call;
    this.place = place;
    this.take = take;
  }

  done(slot: number, status: number): void {
    this.driver.pieceDone(this, slot, status);
  }
}

export type PiecePlan = Pick<Piece, 'place' | 'take'>;
