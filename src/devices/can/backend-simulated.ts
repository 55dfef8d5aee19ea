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
const members = new Map<string, SimulatedBus[]>();

export class SimulatedBus implements CanBus {
  readonly hasFd = true;
  private readonly name: string;
  private listener: CanListener | null = null;
  /** The members of this bus, while it is one of them. */
  private joined: SimulatedBus[] | null = null;
  private timer: NodeJS.Timeout | null = null;

  constructor(name: string) {
    this.name = name;
  }

  join(listener: CanListener): boolean {
    this.listener = listener;
    if (this.joined !== null) return true;
    this.joined = members.get(this.name) ?? [];
    this.joined.push(this);
    members.set(this.name, this.joined);
    return true;
  }

  leave(): void {
    this.listener = null;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    const { joined } = this;
    if (joined === null) return;
    this.joined = null;
    joined.splice(joined.indexOf(this), 1);
    if (joined.length === 0) members.delete(this.name);
  }

  send(frame: CanFrame): number {
    const { joined } = this;
    if (joined === null) return SEND_FAILED;
    for (let i = 0; i < joined.length; i += 1) {
      const other = joined[i]!;
      // A receiver in need of time delays the next frame: CAN has overload frames for that.
      if (other !== this && other.listener?.hasRoomFor(1) === false) return this.full();
    }
    for (let i = 0; i < joined.length; i += 1) {
      if (joined[i] !== this) joined[i]!.listener?.received(frame);
    }
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
