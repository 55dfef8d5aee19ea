/** One stream as a program uses it: its parameters, its life, and the frames. */
import { VloError } from '../../errors.js';
import { FORMATS, hasBit, RATES } from './format.js';
import { PCM_F, PcmInfo, PcmRequest, PcmSetParams, SND_D, SND_R, SND_S } from './wire.js';

/** Messages of a stream that may be on their way at a time: its buffer, in periods. */
export const PERIODS = 8;

/** What a stream can do. */
export interface StreamInfo {
  readonly id: number;
  readonly direction: 'playback' | 'capture';
  /** Names of formats as ALSA has them. */
  readonly formats: readonly string[];
  /** Frames a second. */
  readonly rates: readonly number[];
  readonly channelsMin: number;
  readonly channelsMax: number;
  /** It says when it has run dry. */
  readonly tellsXruns: boolean;
}

/** What it is to do. */
export interface StreamParams {
  readonly format: string;
  readonly rate: number;
  readonly channels: number;
  /** Bytes of each I/O message; at most {@link SoundStream.periodBytesMax}. */
  readonly periodBytes: number;
}

/** @internal What a stream needs of its driver. */
export interface StreamHost {
  control(name: string, request: Uint8Array): Promise<void>;
  /** Places a message of a slot; what it holds is in the stream's own memory. */
  send(stream: SoundStream, slot: number, size: number): void;
  /** Memory of a slot, for the frames. */
  frames(stream: SoundStream, slot: number): Uint8Array;
  readonly error: VloError | null;
}

const namesIn = (mask: number): string[] =>
  FORMATS.filter(({ code }) => hasBit(mask, code)).map(({ name }) => name);

/** @internal */
export function describeStream(id: number, bytes: Uint8Array): StreamInfo {
  const { direction, formats, rates, features, ...channels } = PcmInfo.decode(bytes);
  return {
    id,
    direction: direction === SND_D.OUTPUT ? 'playback' : 'capture',
    formats: namesIn(formats),
    rates: RATES.filter((_, code) => hasBit(rates, code)),
    channelsMin: channels.channelsMin,
    channelsMax: channels.channelsMax,
    tellsXruns: (features & PCM_F.EVT_XRUNS) !== 0,
  };
}

export class SoundStream {
  readonly info: StreamInfo;
  readonly periodBytesMax: number;
  /** Messages that the device answered with an error. */
  errors = 0;
  /** Times that the stream ran dry, as far as the device says. */
  xruns = 0;
  private readonly host: StreamHost;
  private readonly free: number[] = Array.from({ length: PERIODS }, (_, slot) => slot);
  /** Recorded messages that nobody took yet, in order: slot and bytes of frames. */
  private recorded: { slot: number; size: number }[] = [];
  private waiting: (() => void)[] = [];
  private params: StreamParams | null = null;
  private isRunning = false;

  /** @internal */
  constructor(info: StreamInfo, periodBytesMax: number, host: StreamHost) {
    this.info = info;
    this.periodBytesMax = periodBytesMax;
    this.host = host;
  }

  /**
   * Sets the parameters, and prepares the stream.
   * @throws VloError VLO_REQUEST_INVALID for what is not offered; VLO_DEVICE_FAILED
   */
  async prepare(params: StreamParams): Promise<void> {
    const { format, rate, channels, periodBytes } = params;
    const { info, periodBytesMax } = this;
    const isOffered =
      info.formats.includes(format) &&
      info.rates.includes(rate) &&
      channels >= info.channelsMin &&
      channels <= info.channelsMax;
    if (!isOffered || !(periodBytes > 0 && periodBytes <= periodBytesMax)) {
      const wish = `${format}, ${rate} Hz, ${channels} channels, periods of ${periodBytes} bytes`;
      throw new VloError('VLO_REQUEST_INVALID', `stream ${info.id} cannot do this: ${wish}`);
    }
    await this.setUp(params);
    this.params = params;
  }

  private async setUp({ format, rate, channels, periodBytes }: StreamParams): Promise<void> {
    const settings = PcmSetParams.encode({
      bufferBytes: periodBytes * PERIODS,
      periodBytes,
      features: this.info.tellsXruns ? PCM_F.EVT_XRUNS : 0,
      channels,
      format: FORMATS.find(({ name }) => name === format)!.code,
      rate: RATES.indexOf(rate),
    });
    const request = this.request(SND_R.PCM_SET_PARAMS);
    await this.host.control('SET_PARAMS', Buffer.concat([request, settings]));
    await this.say('PREPARE', SND_R.PCM_PREPARE);
  }

  /** False when the driver has failed or was closed. */
  get isUsable(): boolean {
    return this.host.error === null;
  }

  private request(code: number): Uint8Array {
    return PcmRequest.encode({ code, streamId: this.info.id });
  }

  private say(name: string, code: number): Promise<void> {
    return this.host.control(name, this.request(code));
  }

  /** Starts it; what is to be played should be there already. */
  async start(): Promise<void> {
    if (this.info.direction === 'capture') this.refill();
    await this.say('START', SND_R.PCM_START);
    this.isRunning = true;
  }

  /** Stops and releases it: what was not played by now is not played. */
  async release(): Promise<void> {
    const { isRunning } = this;
    this.isRunning = false;
    this.params = null;
    if (isRunning) await this.say('STOP', SND_R.PCM_STOP);
    await this.say('RELEASE', SND_R.PCM_RELEASE);
    await this.drain();
    for (const { slot } of this.recorded.splice(0)) this.free.push(slot);
  }

  /** @internal The back end was started again, and knows nothing of the stream. */
  async recover(): Promise<void> {
    const { params, isRunning } = this;
    if (params === null) return;
    await this.say('RELEASE', SND_R.PCM_RELEASE);
    await this.setUp(params);
    if (isRunning) await this.say('START', SND_R.PCM_START);
  }

  /**
   * Hands over frames to play, at most a period; resolves when there is room for the next.
   * @throws VloError VLO_REQUEST_INVALID for more than a message can hold
   */
  async write(frames: Uint8Array): Promise<void> {
    if (frames.length > this.periodBytesMax) {
      const text = `${frames.length} bytes of frames; a message holds ${this.periodBytesMax}`;
      throw new VloError('VLO_REQUEST_INVALID', text);
    }
    while (this.free.length === 0 && this.host.error === null) await this.change();
    if (this.host.error !== null) throw this.host.error;
    const slot = this.free.pop()!;
    this.host.frames(this, slot).set(frames);
    this.host.send(this, slot, frames.length);
  }

  /** Copies the next period that was recorded. */
  async read(): Promise<Uint8Array> {
    while (this.recorded.length === 0 && this.host.error === null) await this.change();
    if (this.host.error !== null) throw this.host.error;
    const { slot, size } = this.recorded.shift()!;
    const frames = this.host.frames(this, slot).slice(0, size);
    this.free.push(slot);
    if (this.isRunning) this.refill();
    return frames;
  }

  /** Resolves when all messages have ended. */
  async drain(): Promise<void> {
    while (this.outstanding > 0 && this.host.error === null) await this.change();
  }

  private get outstanding(): number {
    return PERIODS - this.free.length - this.recorded.length;
  }

  private refill(): void {
    const { periodBytes } = this.params!;
    for (let slot = this.free.pop(); slot !== undefined; slot = this.free.pop()) {
      this.host.send(this, slot, periodBytes);
    }
  }

  private change(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** @internal A message came back, with so many bytes of frames. */
  ended(slot: number, status: number, size: number): void {
    if (status !== SND_S.OK) this.errors += 1;
    if (this.info.direction === 'capture') this.recorded.push({ slot, size });
    else this.free.push(slot);
    this.wake();
  }

  /** @internal Whoever waits looks again. */
  wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}
