/**
 * A bus in this process: whoever joins a bus of the same name gets what the others send. It has no
 * bit rate and no errors, and a frame is on it at once, whether or not anybody listens.
 */
import {
  type CanBus,
  type CanFrame,
  type CanListener,
  SEND_DONE,
  SEND_FAILED,
  SEND_FULL,
} from './backend.js';

/** How soon a sender tries again that met a listener without room. */
const RETRY_MS = 1;

/** The members of each bus of this process, by its name. */
const members = new Map<string, Set<SimulatedBus>>();

export class SimulatedBus implements CanBus {
  readonly hasFd = true;
  private readonly name: string;
  private listener: CanListener | null = null;
  private timer: NodeJS.Timeout | null = null;

  constructor(name: string) {
    this.name = name;
  }

  join(listener: CanListener): boolean {
    this.listener = listener;
    const joined = members.get(this.name) ?? new Set();
    members.set(this.name, joined.add(this));
    return true;
  }

  leave(): void {
    this.listener = null;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    const joined = members.get(this.name);
    joined?.delete(this);
    if (joined?.size === 0) members.delete(this.name);
  }

  send(frame: CanFrame): number {
    const joined = members.get(this.name);
    if (this.listener === null || joined === undefined) return SEND_FAILED;
    for (const other of joined) {
      // A receiver in need of time delays the next frame: CAN has overload frames for that.
      if (other !== this && other.listener?.hasRoom === false) return this.full();
    }
    for (const other of joined) if (other !== this) other.listener?.received(frame);
    return SEND_DONE;
  }

  private full(): number {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.listener?.writable();
    }, RETRY_MS);
    return SEND_FULL;
  }

  close(): void {
    this.leave();
  }
}
