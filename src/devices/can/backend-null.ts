/** A bus for tests: it takes what is sent, and can fail in every way that a real one can. */
import { type CanBus, CanFrame, type CanListener, SEND_DONE } from './backend.js';

export class NullBus implements CanBus {
  hasFd = true;
  /** What {@link join} answers. */
  canJoin = true;
  /** What {@link send} answers. */
  answer = SEND_DONE;
  /** Frames that were taken, and their tokens. */
  readonly frames: CanFrame[] = [];
  readonly tokens: number[] = [];
  /** Whoever has joined. */
  listener: CanListener | null = null;
  confirms = false;
  isClosed = false;

  join(listener: CanListener, confirms: boolean): boolean {
    if (!this.canJoin) return false;
    this.listener = listener;
    this.confirms = confirms;
    return true;
  }

  leave(): void {
    this.listener = null;
  }

  send(frame: CanFrame, token: number): number {
    const copy = new CanFrame();
    copy.copy(frame);
    this.frames.push(copy);
    this.tokens.push(token);
    return this.answer;
  }

  /** Another controller sends a frame. */
  receive(id: number, flags: number, data: Uint8Array): void {
    const frame = new CanFrame();
    Object.assign(frame, { id, flags, length: data.length });
    frame.data.set(data);
    this.listener?.received(frame);
  }

  close(): void {
    this.leave();
    this.isClosed = true;
  }
}
