/**
 * A bus behind a CAN interface of this machine's kernel: hardware, or a `vcan`.
 *
 * An own frame that comes back from the kernel is on the bus: frames are confirmed with it. What
 * has gone to the kernel waits in `pending`, in order; drivers confirm in that order as a rule.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, VloError } from '../../errors.js';
import {
  CAN_ERROR,
  CAN_ID,
  CanSocket,
  ERRNO,
  type RawCanFrame,
  Watch,
} from '../../native/index.js';
import {
  type CanBus,
  CanFrame,
  type CanListener,
  SEND_DONE,
  SEND_FAILED,
  SEND_FULL,
  SEND_PENDING,
} from './backend.js';
import { CAN_FLAG, DATA_SIZE_FD, ID_MAX_EXTENDED, ID_MAX_STANDARD } from './wire.js';

/** MTU of an interface that takes FD frames. */
const MTU_FD = 72;
/** Bytes of data of an error frame. */
const ERROR_SIZE = 8;
/** How soon a full interface is tried again: the kernel does not tell when there is room. */
const RETRY_MS = 1;
/** How often the interface is looked at, and lost confirmations are looked for. */
const CHECK_MS = 200;
/** How long an interface is waited for that somebody else is about to change. */
const CONNECT_MS_MAX = 2000;
/** Calls that may be needed to empty a socket: more than fit into its buffer. */
const STALE_MAX = 1000;
/** Calls in a row that bring frames, before others get their turn. */
const ROUNDS_MAX = 8;

/** A frame that the kernel has and the bus may not have yet. */
class PendingFrame {
  readonly frame = new CanFrame();
  token = 0;
}

export interface SocketCanOptions {
  /** False for a bus that is not asked to confirm frames. */
  readonly canConfirm: boolean;
  readonly log: (line: string) => void;
}

export class SocketCanBus implements CanBus {
  hasFd = false;
  private readonly name: string;
  private readonly options: SocketCanOptions;
  private listener: CanListener | null = null;
  private confirms = false;
  /** The socket, and once it is connected what tells of its frames. */
  private socket: CanSocket | null = null;
  private watch: Watch | null = null;
  private retryTimer: NodeJS.Timeout | null = null;
  private readonly checkTimer: NodeJS.Timeout;
  /** The interface is down or gone, or not connected yet. */
  private isAway = true;
  private isTold = false;
  private droppedCount = 0;
  private readonly pending: PendingFrame[] = [];
  private readonly spare: PendingFrame[] = [];
  private readonly frame = new CanFrame();
  private readonly raw: RawCanFrame = { word: 0, length: 0, isFd: false, isOwn: false };

  private constructor(name: string, options: SocketCanOptions) {
    this.name = name;
    this.options = options;
    this.checkTimer = setInterval(() => this.check(), CHECK_MS);
    this.checkTimer.unref();
  }

  /**
   * Connects to an interface. One that is busy is waited for a little; it is then connected later.
   * @throws VloError VLO_CAN_INTERFACE when there is no such interface, or it is of another kind
   */
  static async open(name: string, options: SocketCanOptions): Promise<SocketCanBus> {
    const bus = new SocketCanBus(name, options);
    try {
      const socket = new CanSocket(name);
      bus.hasFd = socket.mtu >= MTU_FD;
      await Promise.race([bus.connect(socket), sleep(CONNECT_MS_MAX, null, { ref: false })]);
      return bus;
    } catch (error) {
      bus.close();
      throw interfaceError(name, error);
    }
  }

  private async connect(socket: CanSocket): Promise<void> {
    this.socket = socket;
    const receivesOwn = this.options.canConfirm;
    const isConnected = await socket.connect({ receivesOwn, errors: CAN_ERROR.BUS_OFF });
    if (this.socket !== socket) return; // Closed meanwhile.
    if (!isConnected) {
      this.closeSocket(); // The next check tries again.
      return;
    }
    this.watch = new Watch(socket.fd, () => this.readable());
    this.watch.pause();
    this.check();
  }

  join(listener: CanListener, confirms: boolean): boolean {
    this.check();
    if (this.isAway) {
      const hint = `'ip link set ${this.name} up'`;
      if (!this.isTold) this.options.log(`the interface '${this.name}' is down or gone: ${hint}`);
      this.isTold = true;
      return false;
    }
    this.listener = listener;
    this.confirms = confirms && this.options.canConfirm;
    this.listen();
    return true;
  }

  /** Hears frames from now on: those that came before are nobody's. */
  private listen(): void {
    const { socket } = this;
    if (socket === null) return;
    for (let count = 0; count < STALE_MAX && socket.receive() !== 0; count += 1);
    this.droppedCount = socket.droppedCount;
    this.watch?.resume();
  }

  leave(): void {
    this.listener = null;
    this.watch?.pause();
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
    this.spare.push(...this.pending.splice(0));
  }

  close(): void {
    this.leave();
    clearInterval(this.checkTimer);
    this.closeSocket();
  }

  private closeSocket(): void {
    this.watch?.close();
    this.socket?.close();
    this.watch = null;
    this.socket = null;
    this.isAway = true;
  }

  send(frame: CanFrame, token: number): number {
    const { socket } = this;
    if (socket === null || this.isAway) return SEND_FAILED;
    socket.outgoing.set(frame.data);
    const isExtended = (frame.flags & CAN_FLAG.EXTENDED) !== 0;
    const isRemote = (frame.flags & CAN_FLAG.RTR) !== 0;
    const bits = (isExtended ? CAN_ID.EXTENDED : 0) + (isRemote ? CAN_ID.REMOTE : 0);
    const isFd = (frame.flags & CAN_FLAG.FD) !== 0;
    const result = socket.send(bits + frame.id, frame.length, isFd);
    if (result === -ERRNO.ENOBUFS! || result === -ERRNO.EAGAIN!) return this.full();
    if (result === -ERRNO.ENETDOWN! || result === -ERRNO.ENXIO!) this.goneAway();
    if (result < 0) return SEND_FAILED;
    if (!this.confirms) return SEND_DONE;
    const entry = this.spare.pop() ?? new PendingFrame();
    entry.frame.copy(frame);
    entry.token = token;
    this.pending.push(entry);
    return SEND_PENDING;
  }

  private full(): number {
    this.retrySoon();
    return SEND_FULL;
  }

  private retrySoon(): void {
    this.retryTimer ??= setTimeout(() => {
      this.retryTimer = null;
      if (!this.isAway) this.watch?.resume();
      this.listener?.writable();
    }, RETRY_MS);
  }

  /** Tells whoever listens on the interface that its controller is off the bus. */
  tellBusOff(): void {
    this.socket?.outgoing.fill(0);
    this.socket?.send(CAN_ID.ERROR + CAN_ERROR.BUS_OFF, ERROR_SIZE, false);
  }

  private readable(): void {
    let wasDown = false;
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      const { socket } = this;
      if (socket === null) return;
      if (this.listener?.hasRoomFor(CanSocket.batchSize) === false) {
        // They wait in the kernel, which has room for more of them.
        this.watch?.pause();
        this.retrySoon();
        if (wasDown) this.endAll(false);
        return;
      }
      const count = socket.receive();
      if (count < 0) {
        if (!socket.isUp) {
          this.goneAway();
          return;
        }
        wasDown = true; // For a moment; what came before that can still be read.
        continue;
      }
      for (let i = 0; i < count && this.socket === socket; i += 1) {
        socket.take(i, this.raw, this.frame.data);
        this.arrived();
      }
      if (!CanSocket.isMore(count)) break;
    }
    if (!wasDown) return;
    // What the interface had when it went down was not sent, and nobody will say so.
    this.endAll(false);
    if (this.listener !== null) this.watch?.resume();
  }

  /** A frame of this bus, one of our own, or an error. */
  private arrived(): void {
    const { raw, frame, listener } = this;
    if ((raw.word & CAN_ID.ERROR) !== 0) {
      if ((raw.word & CAN_ERROR.BUS_OFF) !== 0) listener?.busOff();
      return;
    }
    const isExtended = (raw.word & CAN_ID.EXTENDED) !== 0;
    const isRemote = (raw.word & CAN_ID.REMOTE) !== 0;
    frame.id = raw.word & (isExtended ? ID_MAX_EXTENDED : ID_MAX_STANDARD);
    frame.flags =
      (isExtended ? CAN_FLAG.EXTENDED : 0) |
      (isRemote ? CAN_FLAG.RTR : 0) |
      (raw.isFd ? CAN_FLAG.FD : 0);
    frame.length = Math.min(raw.length, DATA_SIZE_FD);
    if (raw.isOwn) this.confirm(frame);
    else listener?.received(frame);
  }

  private confirm(frame: CanFrame): void {
    const { pending } = this;
    for (let index = 0; index < pending.length; index += 1) {
      const entry = pending[index]!;
      if (!entry.frame.equals(frame)) continue;
      if (index === 0) pending.shift();
      else pending.splice(index, 1);
      this.spare.push(entry);
      this.listener?.ended(entry.token, true);
      return;
    }
  }

  /** The interface went down, or away: frames fail until it is back. */
  private goneAway(): void {
    if (!this.isAway && this.listener !== null) {
      this.options.log(`the interface '${this.name}' is down: frames fail until it is up`);
    }
    this.isAway = true;
    this.watch?.pause();
    this.endAll(false);
  }

  private endAll(isSent: boolean): void {
    for (let entry = this.pending.shift(); entry !== undefined; entry = this.pending.shift()) {
      this.spare.push(entry);
      this.listener?.ended(entry.token, isSent);
    }
  }

  /** Looks whether the interface is there and up, whatever the last look has found. */
  private check(): void {
    const { socket } = this;
    if (socket === null || !socket.isThere) {
      // A socket of an interface that was removed is bound to nothing.
      if (socket !== null) this.goneAway();
      this.closeSocket();
      this.reconnect();
      return;
    }
    if (this.watch === null) return; // It is being connected.
    if (!socket.isUp) this.goneAway();
    else if (this.isAway) this.cameBack();
    else if (this.listener !== null) this.checkDropped(socket.droppedCount);
  }

  private reconnect(): void {
    try {
      void this.connect(new CanSocket(this.name));
    } catch (error) {
      if (!(error instanceof SystemError)) throw error; // It is not there.
    }
  }

  private cameBack(): void {
    this.isAway = false;
    this.isTold = false;
    if (this.listener === null) return;
    this.options.log(`the interface '${this.name}' is up again`);
    this.watch?.resume();
    this.listener.writable();
  }

  private checkDropped(droppedCount: number): void {
    if (droppedCount === this.droppedCount) return;
    const count = droppedCount - this.droppedCount;
    this.droppedCount = droppedCount;
    this.options.log(`the kernel had no room for ${count} frames`);
    // Confirmations may be among them, and will not come a second time.
    this.endAll(true);
  }
}

function interfaceError(name: string, error: unknown): unknown {
  if (!(error instanceof SystemError)) return error;
  const reasons: Readonly<Record<string, string>> = {
    EAFNOSUPPORT: "this kernel has no CAN: 'modprobe can-raw'",
    EPROTONOSUPPORT: "this kernel has no raw CAN sockets: 'modprobe can-raw'",
    ENOTSUP: 'it is no CAN interface',
    ENODEV: "there is no such CAN interface: 'ip link' lists all",
  };
  const reason = reasons[error.errno] ?? error.message;
  const message = `CAN interface '${name}': ${reason}; check --can-devices`;
  return new VloError('VLO_CAN_INTERFACE', message, { cause: error });
}
