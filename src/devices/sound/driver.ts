/**
 * The sound driver: plays to and records from any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const driver = await SoundDriver.connect({ path: '/tmp/snd.sock' });
 * const [stream] = driver.streams;
 * await stream.prepare({ format: 'S16_LE', rate: 48000, channels: 2, periodBytes: 3840 });
 * await stream.write(frames);
 * await stream.start();
 * ```
 */
import { assert, VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { DriverLoop } from '../../kit/driver-loop.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import { describeStream, PERIODS, SoundStream, type StreamHost } from './driver-stream.js';
import {
  JackInfo,
  PcmInfo,
  PcmStatus,
  PcmXfer,
  SND_EVT,
  SND_Q,
  SND_R,
  SND_S,
  SndConfig,
  SndEvent,
  SndHeader,
  SndQuery,
} from './wire.js';

/** Streams and jacks that are used, of as many as a device may have. */
const ITEMS_MAX = 16;
/** Largest period in bytes. */
const PERIOD_BYTES_MAX = 32768;
/** Memory of an I/O message: stream, status, frames. */
const STATUS_AT = 8;
const FRAMES_AT = 16;
const SLOT_SIZE = FRAMES_AT + PERIOD_BYTES_MAX;
/** Memory of a control request and of its answer. */
const ANSWER_AT = 64;
const CONTROL_SIZE = 1024;
const EVENT_COUNT = 8;
const QUEUE_SIZE = 256;

// Tokens of requests: one control request at a time, events, then the slots of each stream.
const CONTROL_TOKEN = 0;
const EVENT_TOKEN = 1;
const SLOT_TOKEN = EVENT_TOKEN + EVENT_COUNT;

const STATUS_NAMES: Readonly<Record<number, string>> = {
  [SND_S.BAD_MSG]: 'a bad message',
  [SND_S.NOT_SUPP]: 'not supported',
  [SND_S.IO_ERR]: 'an I/O error',
};

export interface SoundDriverOptions extends DriverOptions {
  /** Something was plugged in, or pulled. */
  readonly onJack?: (jackId: number, isConnected: boolean) => void;
}

/** A control request on its way. */
interface ControlCall {
  readonly requestSize: number;
  readonly answerSize: number;
  readonly resolve: (answer: Uint8Array) => void;
  readonly reject: (error: VloError) => void;
}

export class SoundDriver implements DriverClient, StreamHost {
  /** The streams of the device, by number. */
  readonly streams: readonly SoundStream[] = [];
  /** Whether something is plugged into each jack. */
  readonly jacks: boolean[] = [];
  private readonly host: DriverHost;
  private readonly options: SoundDriverOptions;
  private memory!: SharedBlock;
  private call: ControlCall | null = null;
  private lastCall: Promise<unknown> = Promise.resolve();
  /** Bytes of frames of each slot that is on its way. */
  private readonly sizes = new Map<number, number>();

  private constructor(host: DriverHost, options: SoundDriverOptions) {
    this.host = host;
    this.options = options;
  }

  /**
   * Connects to a back end and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: SoundDriverOptions): Promise<SoundDriver> {
    let driver: SoundDriver | null = null;
    const onConnection = (isConnected: boolean): void => {
      if (isConnected) driver?.recover();
      options.onConnection?.(isConnected);
    };
    const host = await DriverHost.connect({ ...options, onConnection }, 0n);
    try {
      driver = new SoundDriver(host, options);
      await driver.open();
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  private async open(): Promise<void> {
    const { host } = this;
    const config = SndConfig.decode(await host.readConfig(0, SndConfig.size));
    const streamCount = Math.min(config.streams, ITEMS_MAX);
    const size = CONTROL_SIZE + EVENT_COUNT * SndEvent.size + streamCount * PERIODS * SLOT_SIZE;
    const plan = { count: 4, size: QUEUE_SIZE, tableLength: 0, extraBytes: size + 4096 };
    await host.open(plan, this);
    this.memory = host.allocate(size);
    const infos = await this.query(SND_R.PCM_INFO, streamCount, PcmInfo.size);
    const streams = infos.map(
      (info, id) => new SoundStream(describeStream(id, info), PERIOD_BYTES_MAX, this),
    );
    (this.streams as SoundStream[]).push(...streams);
    const jackCount = Math.min(config.jacks, ITEMS_MAX);
    const jacks = await this.query(SND_R.JACK_INFO, jackCount, JackInfo.size);
    this.jacks.push(...jacks.map((info) => JackInfo.decode(info).connected !== 0));
    const events = host.rings[SND_Q.EVENT]!;
    for (let i = 0; i < EVENT_COUNT; i += 1) this.place(events, EVENT_TOKEN + i);
    host.loop.wake();
  }

  /** Asks for information about `count` items. */
  private async query(code: number, count: number, size: number): Promise<Uint8Array[]> {
    if (count === 0) return [];
    const request = SndQuery.encode({ code, startId: 0, count, size });
    const answer = await this.exchange('a query', request, SndHeader.size + count * size);
    const at = (index: number): number => SndHeader.size + index * size;
    return Array.from({ length: count }, (_, i) => answer.subarray(at(i), at(i + 1)));
  }

  /** @internal The loop that publishes what is placed, for whoever brings requests. */
  get loop(): DriverLoop {
    return this.host.loop;
  }

  get queueCount(): number {
    return this.host.rings.length;
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /** Gives the back end up: what is under way fails with `error`, and so does all that follows. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver: what is under way fails with VLO_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal */
  async control(name: string, request: Uint8Array): Promise<void> {
    await this.exchange(name, request, SndHeader.size);
  }

  /** One request after the other. @throws VloError VLO_DEVICE_FAILED */
  private exchange(name: string, request: Uint8Array, answerSize: number): Promise<Uint8Array> {
    const run = async (): Promise<Uint8Array> => {
      if (this.error !== null) throw this.error;
      assert(ANSWER_AT + answerSize <= CONTROL_SIZE, 'a control answer has room');
      const answer = await new Promise<Uint8Array>((resolve, reject) => {
        this.memory.bytes.set(request);
        this.call = { requestSize: request.length, answerSize, resolve, reject };
        this.place(this.host.rings[SND_Q.CONTROL]!, CONTROL_TOKEN);
        this.host.loop.wake();
      });
      const status = answer.length < SndHeader.size ? 0 : SndHeader.decode(answer).code;
      if (status === SND_S.OK && answer.length === answerSize) return answer;
      const text = STATUS_NAMES[status] ?? `status ${status}, ${answer.length} bytes`;
      throw new VloError('VLO_DEVICE_FAILED', `the device answered ${text} to ${name}`);
    };
    const answer = this.lastCall.then(run, run);
    this.lastCall = answer.catch(() => {});
    return answer;
  }

  /** @internal */
  send(stream: SoundStream, slot: number, size: number): void {
    const token = SLOT_TOKEN + stream.info.id * PERIODS + slot;
    const isPlayback = stream.info.direction === 'playback';
    this.sizes.set(token, size);
    this.place(this.host.rings[isPlayback ? SND_Q.TX : SND_Q.RX]!, token);
    this.host.loop.wake();
  }

  /** @internal */
  frames(stream: SoundStream, slot: number): Uint8Array {
    const at = this.slotAt(SLOT_TOKEN + stream.info.id * PERIODS + slot) + FRAMES_AT;
    return this.memory.bytes.subarray(at, at + PERIOD_BYTES_MAX);
  }

  private slotAt(token: number): number {
    return CONTROL_SIZE + EVENT_COUNT * SndEvent.size + (token - SLOT_TOKEN) * SLOT_SIZE;
  }

  private eventAt(token: number): number {
    return CONTROL_SIZE + (token - EVENT_TOKEN) * SndEvent.size;
  }

  /** @internal */
  place(ring: DriverQueue, token: number): void {
    const { address } = this.memory;
    ring.begin();
    if (token === CONTROL_TOKEN) {
      ring.addReadable(address, this.call!.requestSize);
      ring.addWritable(address + ANSWER_AT, this.call!.answerSize);
    } else if (token < SLOT_TOKEN) {
      ring.addWritable(address + this.eventAt(token), SndEvent.size);
    } else this.placeFrames(ring, token);
    assert(ring.commit(token), 'the ring has no room for a request');
  }

  private placeFrames(ring: DriverQueue, token: number): void {
    const at = this.slotAt(token);
    const streamId = Math.floor((token - SLOT_TOKEN) / PERIODS);
    this.memory.bytes.set(PcmXfer.encode({ streamId }), at);
    const address = this.memory.address + at;
    const size = this.sizes.get(token)!;
    ring.addReadable(address, PcmXfer.size);
    if (ring.index === SND_Q.TX) ring.addReadable(address + FRAMES_AT, size);
    else ring.addWritable(address + FRAMES_AT, size);
    ring.addWritable(address + STATUS_AT, PcmStatus.size);
  }

  /** @internal */
  used(token: number, length: number): void {
    const { bytes } = this.memory;
    if (token === CONTROL_TOKEN) {
      const { call } = this;
      this.call = null;
      // Each answer is a copy: the memory is for the next one.
      call?.resolve(bytes.slice(ANSWER_AT, ANSWER_AT + Math.min(length, call.answerSize)));
    } else if (token < SLOT_TOKEN) {
      const at = this.eventAt(token);
      const event = SndEvent.decode(bytes.subarray(at, at + SndEvent.size));
      this.place(this.host.rings[SND_Q.EVENT]!, token);
      if (length === SndEvent.size) this.heard(event);
    } else {
      const stream = this.streams[Math.floor((token - SLOT_TOKEN) / PERIODS)]!;
      const at = this.slotAt(token) + STATUS_AT;
      const { status } = PcmStatus.decode(bytes.subarray(at, at + PcmStatus.size));
      const recorded = Math.max(0, Math.min(length - PcmStatus.size, this.sizes.get(token)!));
      this.sizes.delete(token);
      stream.ended((token - SLOT_TOKEN) % PERIODS, status, recorded);
    }
    this.host.loop.yieldSoon();
  }

  private heard({ code, data }: { code: number; data: number }): void {
    if (code === SND_EVT.PCM_XRUN) {
      const stream = this.streams[data];
      if (stream !== undefined) stream.xruns += 1;
    }
    const isJack = code === SND_EVT.JACK_CONNECTED || code === SND_EVT.JACK_DISCONNECTED;
    if (!isJack || this.jacks[data] === undefined) return;
    this.jacks[data] = code === SND_EVT.JACK_CONNECTED;
    this.options.onJack?.(data, this.jacks[data]);
  }

  private recover(): void {
    for (const stream of this.streams) {
      stream.recover().catch((error: unknown) => {
        const { message } = error as Error;
        this.options.log?.(`stream ${stream.info.id} cannot go on: ${message}`);
      });
    }
  }

  /** @internal */
  failed(error: VloError): void {
    this.call?.reject(error);
    this.call = null;
    for (const stream of this.streams) stream.wake();
  }

  /** @internal */
  configChanged(): void {}
}
