/**
 * A stream of bytes between a pair of queues and something outside: what the driver sends goes
 * there, what comes from there fills the buffers that the driver supplies. Neither side is waited
 * for: a request that is not taken whole goes back to the ring until there is room.
 */
import { IOV_MAX, IovecList } from '../native/index.js';
import { type ChainReader, type ChainWriter, DriverFault } from '../virtio/index.js';
import { NOT_NOW, type Request } from './define.js';
import type { ServedQueue } from './served-queue.js';

/** Bytes that one call moves at most. */
const CALL_SIZE_MAX = 256 * 1024;
/** Bytes of one request, and buffers, that are dealt with before others get their turn. */
const TURN_SIZE_MAX = 2 ** 20;
const TURN_BUFFERS_MAX = 64;
/** No position of a queue. */
const NOWHERE = -1;

/** Result of a read or write where nobody is at the other end any more. */
export const GONE = -1;

/** What a {@link ByteStream} is between. */
export interface ByteEnd {
  /** Somebody is there. What is sent to nobody is lost. */
  readonly isOpen: boolean;
  /**
   * Fills the list's memory, without waiting. @returns bytes; 0 when there are none; {@link GONE}
   */
  read(list: IovecList): number;
  /** Takes bytes, without waiting. @returns how many; 0 when it is full; {@link GONE} */
  write(list: IovecList): number;
  /** Asks for a call of {@link ByteStream.pump} when a read or write may succeed. */
  want(readable: boolean, writable: boolean): void;
  /** Frees everything. */
  close(): void;
}

export class ByteStream<End extends ByteEnd = ByteEnd> {
  /** The outside. */
  readonly end: End;
  /** The queues, while they run. */
  receive: ServedQueue | null = null;
  transmit: ServedQueue | null = null;
  /** False: the driver has buffers, and is not to be sent anything yet. */
  isReceiving = false;
  /** Something waits until the end can be written to again. */
  protected isWaiting = false;
  private readonly list = new IovecList();
  /** Bytes of the first request in the ring that the end has taken already. */
  private sentCount = 0;
  private stoppedAt = NOWHERE;
  private isStoppedFresh = false;
  private wantsRead = false;
  private isClosed = false;

  constructor(end: End) {
    this.end = end;
  }

  /** The device was reset: a queue that had served nothing may be another one next time. */
  reset(): void {
    if (this.isStoppedFresh) this.stoppedAt = NOWHERE;
  }

  /** A queue of the stream runs. Where it goes on, so does the request that was sent in part. */
  started(queue: ServedQueue): void {
    if (queue.isSupply) {
      this.receive = queue;
      return;
    }
    this.transmit = queue;
    if (queue.position !== this.stoppedAt) this.sentCount = 0;
  }

  /** A queue, of this stream or another, stops. */
  stopping(queue: ServedQueue): void {
    if (queue === this.receive) this.receive = null;
    if (queue !== this.transmit) return;
    this.transmit = null;
    this.stoppedAt = queue.position;
    this.isStoppedFresh = queue.isFresh;
  }

  /** Handler of the transmit queue. */
  send({ reader }: Request, queue: ServedQueue): typeof NOT_NOW | undefined {
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

  /** The end may be read or written again, or the driver takes something again. */
  pump(): void {
    if (this.isClosed) return;
    if (this.isWaiting) {
      this.isWaiting = false;
      this.transmit?.resume();
    }
    this.wantsRead = this.fill();
    this.wish();
  }

  /** Fills the driver's buffers; true when the end is to be watched for more. */
  private fill(): boolean {
    const { end, receive, list } = this;
    if (receive === null || !this.isReceiving || !end.isOpen) return false;
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

  protected wish(): void {
    this.end.want(this.wantsRead, this.isWaiting);
  }

  close(): void {
    this.isClosed = true;
    this.end.close();
    this.list.free();
  }
}

/** Lists what one call moves: never more segments than the kernel takes. */
function gather(cursor: ChainReader | ChainWriter, list: IovecList): void {
  list.clear();
  let size = Math.min(cursor.remaining, CALL_SIZE_MAX);
  if (size > IOV_MAX && cursor.countSegments(size) > IOV_MAX) size = IOV_MAX;
  cursor.gather(list, size);
}
