/** One port of a console: a stream of bytes, and what its driver knows of it. */
import {
  ByteBacklog,
  ByteStream,
  type NOT_NOW,
  type Request,
  type ServedQueue,
} from '../../kit/index.js';
import type { PortEnd, PortSpec } from './backend.js';

/** Bytes of one request for a console; no terminal is sent more at once. */
const CONSOLE_SIZE_MAX = 2 ** 20;
/** Bytes that a console has said and nobody has read yet; what is too much is lost. */
const BACKLOG_SIZE = 256 * 1024;

export class Port extends ByteStream<PortEnd> {
  readonly id: number;
  readonly spec: PortSpec;
  /** The driver was told of the port, and has set it up. */
  isAdded = false;
  isReady = false;
  /** A driver waits, in a loop, until what it sends is taken. */
  isConsole = false;
  /** Events that the driver is to be told of, each once, the oldest first. */
  readonly pending: number[] = [];
  private backlog: ByteBacklog | null = null;

  constructor(id: number, spec: PortSpec, end: PortEnd) {
    super(end);
    this.id = id;
    this.spec = spec;
  }

  /** The driver forgot the port. */
  forget(): void {
    this.isAdded = false;
    this.isReady = false;
    this.isReceiving = false;
    this.isConsole = false;
    this.pending.length = 0;
    this.pump();
  }

  override send(request: Request, queue: ServedQueue): typeof NOT_NOW | undefined {
    if (!this.isConsole) return super.send(request, queue);
    const { reader } = request;
    this.backlog ??= new ByteBacklog(BACKLOG_SIZE);
    const { backlog } = this;
    // Never held up: the backlog takes what the end does not, or it is lost.
    for (let left = CONSOLE_SIZE_MAX; reader.remaining > 0 && this.end.isOpen && left > 0; ) {
      const size = backlog.push(reader);
      if (size === 0) break;
      left -= size;
      this.flush();
    }
    return undefined;
  }

  /** One character, whatever became of the driver. */
  sendByte(byte: number): void {
    this.backlog ??= new ByteBacklog(BACKLOG_SIZE);
    this.backlog.pushByte(byte);
    this.flush();
  }

  override pump(): void {
    super.pump();
    if (this.backlog !== null) this.flush();
  }

  private flush(): void {
    const backlog = this.backlog!;
    if (backlog.isEmpty) return;
    backlog.flush(this.end);
    if (backlog.isEmpty) return;
    this.isWaiting = true;
    this.wish();
  }

  override close(): void {
    super.close();
    this.backlog?.free();
    this.backlog = null;
  }
}
