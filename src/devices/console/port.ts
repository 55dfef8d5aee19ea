/** One port of a console: moves bytes between its two queues and the host's end of it. */
import { NOT_NOW, type Request, type ServedQueue } from '../../kit/index.js';
import { IOV_MAX, IovecList } from '../../native/index.js';
import { DriverFault } from '../../virtio/index.js';
import type { PortEnd, PortSpec } from './backend.js';
import { Backlog } from './backlog.js';

/** Bytes that one call moves at most. */
const CALL_SIZE_MAX = 256 * 1024;
/** Bytes of one request, and buffers, that are dealt with before others get their turn. */
const TURN_SIZE_MAX = 2 ** 20;
const TURN_BUFFERS_MAX = 64;

/** No position of a queue. */
const NOWHERE = -1;

export class Port {
  readonly id: number;
  readonly spec: PortSpec;
  /** The host's end. */
  readonly end: PortEnd;
  /** The queues, while they run. */
  receive: ServedQueue | null = null;
  transmit: ServedQueue | null = null;
  /** The driver was told of the port, has set it up, and has opened it. */
  isAdded = false;
  isReady = false;
  isGuestOpen = false;
  /** A driver waits, in a loop, until what it sends is taken. */
  isConsole = false;
  /** Events that the driver is to be told of, each once, the oldest first. */
  readonly pending: number[] = [];
  /** Bytes that were lost because nobody read them. */
  lostCount = 0;
  private readonly list = new IovecList();
  private backlog: Backlog | null = null;
  /** Bytes of the first request in the ring that the end has taken already. */
  private sentCount = 0;
  private stoppedAt = NOWHERE;
  private isStoppedFresh = false;
  private wantsRead = false;
  private isWaiting = false;
  private isClosed = false;

  constructor(id: number, spec: PortSpec, end: PortEnd) {
    this.id = id;
    this.spec = spec;
    this.end = end;
  }

  /** The driver forgot the port. */
  forget(): void {
    this.isAdded = false;
    this.isReady = false;
    this.isGuestOpen = false;
    this.isConsole = false;
    this.pending.length = 0;
    this.wantsRead = false;
    this.wish();
  }

  /** The device was reset: a queue that had served nothing may be another one next time. */
  reset(): void {
    if (this.isStoppedFresh) this.stoppedAt = NOWHERE;
  }

  /** A queue of the port runs. Where it goes on, so does the request that was sent in part. */
  started(queue: ServedQueue): void {
    if (queue.isSupply) {
      this.receive = queue;
      return;
    }
    this.transmit = queue;
    if (queue.position !== this.stoppedAt) this.sentCount = 0;
  }

  stopping(queue: ServedQueue): void {
    if (queue === this.receive) this.receive = null;
    if (queue !== this.transmit) return;
    this.transmit = null;
    this.stoppedAt = queue.position;
    this.isStoppedFresh = queue.isFresh;
  }

  /** A request of the driver: its bytes go to the end. A port whose end nobody is at swallows. */
  send({ reader }: Request, queue: ServedQueue): typeof NOT_NOW | undefined {
    if (this.isConsole) return this.sendConsole(reader);
    reader.skip(Math.min(this.sentCount, reader.remaining));
    const { end, list } = this;
    let left = TURN_SIZE_MAX;
    while (reader.remaining > 0 && end.isOpen) {
      if (left <= 0) {
        setImmediate(() => queue.resume());
        return NOT_NOW;
      }
      gather(reader, list);
      const size = end.write(list);
      if (size < 0) break;
      if (size === 0) {
        this.isWaiting = true;
        this.wish();
        return NOT_NOW;
      }
      reader.skip(size);
      this.sentCount += size;
      left -= size;
    }
    this.sentCount = 0;
    return undefined;
  }

  private sendConsole(reader: Request['reader']): undefined {
    this.sentCount = 0;
    if (!this.end.isOpen) return undefined;
    this.backlog ??= new Backlog();
    const { backlog } = this;
    // Bounded: the backlog takes what is left, or it is lost.
    while (reader.remaining > 0 && backlog.isEmpty) {
      if (backlog.push(reader) === 0) break;
      backlog.flush(this.end);
    }
    backlog.push(reader);
    this.lostCount += reader.remaining;
    this.flush();
    return undefined;
  }

  private flush(): void {
    this.backlog!.flush(this.end);
    this.isWaiting = !this.backlog!.isEmpty;
    if (this.isWaiting) this.wish();
  }

  /** One character, whatever became of the driver. */
  sendByte(byte: number): void {
    this.backlog ??= new Backlog();
    this.backlog.pushByte(byte);
    this.flush();
  }

  /** The end may be read or written again. */
  pump(): void {
    if (this.isClosed) return;
    if (this.isWaiting) {
      this.isWaiting = false;
      if (this.backlog !== null) this.flush();
      this.transmit?.resume();
    }
    this.wantsRead = this.fill();
    this.wish();
  }

  /** Fills the driver's buffers; true when the end is to be watched for more. */
  private fill(): boolean {
    const { end, receive, list } = this;
    if (receive === null || !this.isGuestOpen || !end.isOpen) return false;
    for (let i = 0; i < TURN_BUFFERS_MAX; i += 1) {
      const buffer = receive.take();
      if (buffer === null) return false;
      const { writer } = buffer;
      if (writer.remaining === 0) {
        receive.complete(buffer);
        receive.blame(new DriverFault('request', 'a receive buffer has no room'));
        return false;
      }
      gather(writer, list);
      const size = end.read(list);
      if (size <= 0) {
        receive.putBack(buffer);
        return size === 0;
      }
      writer.advance(size);
      receive.complete(buffer);
    }
    return true;
  }

  private wish(): void {
    this.end.want(this.wantsRead, this.isWaiting);
  }

  close(): void {
    this.isClosed = true;
    this.end.close();
    this.backlog?.free();
    this.list.free();
  }
}

/** Lists what one call moves: never more segments than the kernel takes. */
function gather(cursor: Request['reader'] | Request['writer'], list: IovecList): void {
  list.clear();
  let size = Math.min(cursor.remaining, CALL_SIZE_MAX);
  if (size > IOV_MAX && cursor.countSegments(size) > IOV_MAX) size = IOV_MAX;
  cursor.gather(list, size);
}
