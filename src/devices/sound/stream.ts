/**
 * One stream: its life, and its I/O messages, each of which ends when its frames have been heard
 * or recorded, by the clock.
 *
 *   idle ──► set ──► prepared ──► running ◄──► stopped
 *             ▲          └───────── release ──────┘
 *             └────────────────────────┘
 *
 * The clock runs on while the driver is late by less than a period, as it would with a buffer of
 * that size in the device. After that the stream has run dry, and begins anew with what comes.
 */
import { Alarm, type Request, type ServedQueue } from '../../kit/index.js';
import type { ChainWriter } from '../../virtio/index.js';
import type { PcmPort } from './backend.js';
import { bytesPerMs, type PcmOffer, type PcmParams, writeSilence } from './format.js';
import { SND_D, SND_S } from './wire.js';

/** How long in milliseconds until a port that could move nothing is asked again. */
const RETRY_MS = 4;
/** Messages of a stream that was not prepared fail at this pace, so that nobody is kept busy. */
const REFUSAL_MS = 10;

export type StreamState = 'idle' | 'set' | 'prepared' | 'running' | 'stopped';

/** An I/O message between its arrival and its end; reused. */
class Message {
  request!: Request;
  queue!: ServedQueue;
  status!: ChainWriter;
  size = 0;
  code: number = SND_S.OK;
  isBegun = false;
  isMoved = false;
}

/** What a stream tells its device. */
export interface StreamEvents {
  xrun(stream: PcmStream): void;
  /** The port fails with an errno, or (0) works again. */
  health(stream: PcmStream, errno: number): void;
}

/** Figures of a stream, from the start of the device. */
export interface StreamCounters {
  periods: number;
  xruns: number;
  /** Messages that ended with an error. */
  errors: number;
}

export class PcmStream {
  readonly id: number;
  readonly direction: number;
  readonly offer: PcmOffer;
  readonly counters: StreamCounters = { periods: 0, xruns: 0, errors: 0 };
  state: StreamState = 'idle';
  params: PcmParams | null = null;
  /** Features of the stream that the driver chose. */
  features = 0;
  errno = 0;
  /** It was released in this turn: messages that were placed before that end at once. */
  isEnding = false;
  private readonly events: StreamEvents;
  private port: PcmPort | null = null;
  private readonly waiting: Message[] = [];
  private readonly spare: Message[] = [];
  private readonly alarm = new Alarm(() => this.run());
  /** When the message that is being played ends; else when the last one ended. */
  private end = 0;
  /** What was left to play when the stream was stopped, in milliseconds. */
  private left = 0;
  private isDry = false;

  constructor(id: number, direction: number, offer: PcmOffer, events: StreamEvents) {
    this.id = id;
    this.direction = direction;
    this.offer = offer;
    this.events = events;
  }

  set(params: PcmParams, features: number): void {
    this.closePort();
    this.params = params;
    this.features = features;
    this.state = 'set';
  }

  prepare(port: PcmPort): void {
    this.port = port;
    this.isEnding = false;
    this.left = 0;
    this.state = 'prepared';
    this.alarm.clear();
  }

  start(): void {
    this.state = 'running';
    this.end = performance.now() + this.left;
    this.isDry = false;
    this.run();
  }

  stop(): void {
    const isUnderWay = this.waiting[0]?.isBegun === true;
    this.left = isUnderWay ? Math.max(0, this.end - performance.now()) : 0;
    this.state = 'stopped';
    this.alarm.clear();
  }

  /** Ends all messages and closes the port; what was not played yet is not played. */
  release(): void {
    this.flush();
    this.closePort();
    if (this.params !== null) this.state = 'set';
  }

  /** The driver reset the device. */
  reset(): void {
    this.release();
    this.isEnding = false;
    this.params = null;
    this.state = 'idle';
  }

  /** The port is closed before the next one opens. What failed with it may work with that one. */
  closePort(): void {
    this.alarm.clear();
    this.port?.close();
    this.port = null;
    this.setHealth(0);
    // Messages that were placed before the stream was set up anew: nobody else would end them.
    if (this.waiting.length > 0) this.alarm.set(REFUSAL_MS);
  }

  get isOpen(): boolean {
    return this.port !== null;
  }

  place(request: Request, queue: ServedQueue, status: ChainWriter): void {
    const message = this.spare.pop() ?? new Message();
    const { reader, writer } = request;
    message.request = request;
    message.queue = queue;
    message.status = status;
    message.size = this.direction === SND_D.OUTPUT ? reader.remaining : writer.remaining;
    message.code = SND_S.OK;
    message.isBegun = false;
    message.isMoved = false;
    this.waiting.push(message);
    if (this.isEnding) this.flush();
    else if (this.state === 'running') {
      if (this.waiting.length === 1) this.run();
    } else if (this.port === null && !this.alarm.isSet) this.alarm.set(REFUSAL_MS);
  }

  /** Ends all messages at once. */
  flush(): void {
    while (this.waiting.length > 0) this.finish();
  }

  /**
   * Puts the last message back into its queue, which stops: it is heard or recorded when the queue
   * goes on. False when there is none, when a part of it was, or when others were taken later.
   */
  putBack(): boolean {
    const message = this.waiting.at(-1);
    if (message === undefined) return false;
    const { request, isBegun } = message;
    const isInPart = this.direction === SND_D.OUTPUT ? isBegun : request.writer.written > 0;
    if (isInPart || !message.queue.tryPutBack(request)) return false;
    this.spare.push(this.waiting.pop()!);
    return true;
  }

  private run(): void {
    this.alarm.clear();
    if (this.state !== 'running') {
      if (this.port === null) this.refuse();
      return;
    }
    const now = performance.now();
    for (;;) {
      const message = this.waiting[0];
      if (message === undefined) {
        this.runDry(now);
        return;
      }
      if (!message.isBegun) this.begin(message, now);
      const isDue = now >= this.end;
      // What is played is passed on at once; what is recorded is there at the end.
      const isWanted = isDue || this.direction === SND_D.OUTPUT;
      if (isWanted && !message.isMoved && !this.move(message)) {
        this.alarm.set(RETRY_MS);
        return;
      }
      if (!isDue) {
        this.alarm.set(this.end - now);
        return;
      }
      this.counters.periods += 1;
      this.finish();
    }
  }

  private begin(message: Message, now: number): void {
    const params = this.params!;
    const rate = bytesPerMs(params);
    const isLate = now - this.end > params.bufferBytes / rate;
    if (isLate && !this.isDry) this.xrun();
    if (isLate || this.isDry) this.end = now;
    this.isDry = false;
    this.end += message.size / rate;
    message.isBegun = true;
  }

  private runDry(now: number): void {
    if (this.isDry) return;
    const params = this.params!;
    const limit = this.end + params.periodBytes / bytesPerMs(params);
    if (now < limit) {
      this.alarm.set(limit - now);
      return;
    }
    this.isDry = true;
    this.xrun();
  }

  private xrun(): void {
    this.counters.xruns += 1;
    this.events.xrun(this);
  }

  /** Moves what can be moved; true when that is all. */
  private move(message: Message): boolean {
    const { reader, writer } = message.request;
    const isOutput = this.direction === SND_D.OUTPUT;
    const cursor = isOutput ? reader : writer;
    if (cursor.remaining > 0) {
      const result = isOutput ? this.port!.play(reader) : this.port!.record(writer);
      if (result < 0) {
        message.code = SND_S.IO_ERR;
        this.counters.errors += 1;
        if (!isOutput) writeSilence(writer, this.params!.format);
      }
      if (result !== 0) this.setHealth(Math.min(0, result));
      message.isMoved = result < 0 || cursor.remaining === 0;
    } else message.isMoved = true;
    return message.isMoved;
  }

  private setHealth(result: number): void {
    if (-result === this.errno) return;
    this.errno = -result;
    this.events.health(this, this.errno);
  }

  /** The stream was never prepared: its device may have been started again under the driver. */
  private refuse(): void {
    const { waiting, counters } = this;
    counters.errors += waiting.length;
    for (const message of waiting) message.code = SND_S.IO_ERR;
    this.flush();
  }

  /** Ends the first message. */
  private finish(): void {
    const message = this.waiting.shift()!;
    const { status, queue, request, code } = message;
    status.writeU32(code);
    status.writeU32(0); // Whatever has ended has been heard.
    this.spare.push(message);
    queue.complete(request);
  }
}
