/**
 * A sound card as named pipes in a folder: `playback-0` takes a WAV file or plain frames,
 * `capture-0` gives a WAV file without an end.
 *
 *   cat song.wav > playback-0
 *   timeout 5 cat capture-0 > voice.wav
 */
import { constants, openSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SoundDriver, SoundStream, StreamInfo, StreamParams } from '../devices/index.js';
import { FORMATS } from '../devices/sound/format.js';
import {
  decodeWavHeader,
  encodeWavHeader,
  looksLikeWav,
  WAV_CODES,
  type WavFormat,
} from '../devices/sound/wav.js';
import { makeFifo } from '../native/index.js';
import { newCounters, type Presentation, type PresentationCounters } from './presentation.js';

/** Periods a second. */
const PERIODS_A_SECOND = 50;
/** Periods that are handed over before a stream is started. */
const PERIODS_AHEAD = 4;
/** How often is looked whether somebody wants to record, in milliseconds. */
const LOOK_MS = 100;
/** Frames of a file without an end: as much as a header can promise. */
const ENDLESS = 2 ** 32;

/** What plain frames are taken for: CD quality where the stream has it, else what is near. */
function usualFormat({ formats, rates, channelsMin, channelsMax }: StreamInfo): WavFormat {
  const first = ['S16_LE', 'S32_LE', 'S24_3LE', 'FLOAT_LE', 'U8'].find((n) => formats.includes(n));
  const name = first ?? formats[0];
  const distance = (rate: number): number => Math.abs(rate - 48000);
  const [rate = 48000] = [...rates].sort((a, b) => distance(a) - distance(b));
  return {
    format: FORMATS.find((format) => format.name === name)!,
    rate,
    channels: Math.min(Math.max(2, channelsMin), channelsMax),
  };
}

/** Periods of a format: whole frames, and no more than fit. */
function streamParams(
  { format, rate, channels }: WavFormat,
  { periodBytesMax }: SoundStream,
): StreamParams {
  const frameBits = format.bits * channels;
  const frames = Math.min(
    Math.ceil(rate / PERIODS_A_SECOND),
    Math.floor((periodBytesMax * 8) / frameBits),
  );
  // Two frames of 4 bits make a byte.
  const periodBytes = Math.floor(((frames - (frames % 2)) * frameBits) / 8);
  return { format: format.name, rate, channels, periodBytes };
}

abstract class SoundPipe {
  protected readonly stream: SoundStream;
  protected readonly path: string;
  protected readonly counters: PresentationCounters;
  protected readonly log: (line: string) => void;
  protected readonly closing = new AbortController();
  protected pipe: Socket | null = null;

  constructor(
    stream: SoundStream,
    path: string,
    counters: PresentationCounters,
    log: (line: string) => void,
  ) {
    this.stream = stream;
    this.path = path;
    this.counters = counters;
    this.log = log;
    rmSync(path, { force: true });
    makeFifo(path, 0o666);
  }

  protected get isClosed(): boolean {
    return this.closing.signal.aborted;
  }

  /** Serves one application after the other. */
  abstract run(): Promise<void>;

  protected failed(error: unknown): void {
    this.counters.errors += 1;
    this.log(`${this.path}: ${(error as Error).message}`);
  }

  close(): void {
    this.closing.abort();
    this.pipe?.destroy();
    rmSync(this.path, { force: true });
  }
}

/** What is written to the pipe is played. */
class PlaybackPipe extends SoundPipe {
  async run(): Promise<void> {
    this.pipe = this.open();
    while (!this.isClosed) {
      const { pipe } = this;
      try {
        await this.playFrom(pipe);
      } catch (error) {
        if (!this.isClosed) this.failed(error);
      }
      if (this.isClosed) return;
      // A new descriptor hears of writers that come from now on; the old one only of the last end.
      this.pipe = this.open();
      pipe.destroy();
    }
  }

  private open(): Socket {
    const fd = openSync(this.path, constants.O_RDONLY | constants.O_NONBLOCK);
    const pipe = new Socket({ fd, readable: true, writable: false });
    pipe.on('error', () => pipe.destroy());
    return pipe;
  }

  private async playFrom(pipe: Socket): Promise<void> {
    const player = new Player(this.stream, this.counters);
    let problem: unknown = null;
    try {
      for await (const chunk of pipe) {
        // The rest of what cannot be played is read and forgotten: it is no frames.
        if (problem === null) await player.add(chunk as Buffer).catch((error) => (problem = error));
      }
      if (problem === null) await player.end();
    } finally {
      await player.release();
    }
    if (problem !== null) throw problem;
  }
}

/** One file or one flow of frames on its way to a stream. */
class Player {
  private readonly stream: SoundStream;
  private readonly counters: PresentationCounters;
  /** What was not handed over yet. */
  private rest: Buffer = Buffer.alloc(0);
  private params: StreamParams | null = null;
  /** Bytes of frames that are still to come, by the header. */
  private left = ENDLESS;
  private periods = 0;

  constructor(stream: SoundStream, counters: PresentationCounters) {
    this.stream = stream;
    this.counters = counters;
  }

  async add(chunk: Buffer): Promise<void> {
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    if (this.params === null) await this.begin(false);
    if (this.params === null) return;
    const { periodBytes } = this.params;
    while (this.rest.length >= periodBytes && this.left > 0) await this.write(periodBytes);
    if (this.left === 0) this.rest = Buffer.alloc(0);
  }

  /** Finds out what it is, as soon as that is possible. */
  private async begin(isEnd: boolean): Promise<void> {
    const { rest, stream } = this;
    if (rest.length === 0 || (rest.length < 4 && looksLikeWav(rest) && !isEnd)) return;
    let format = usualFormat(stream.info);
    if (looksLikeWav(rest)) {
      const header = decodeWavHeader(rest);
      if (header === null && !isEnd) return;
      if (header === null || typeof header === 'string') {
        throw new RangeError(header ?? 'its header is cut short');
      }
      format = header;
      this.left = header.size === ENDLESS - 1 ? ENDLESS : header.size;
      this.rest = rest.subarray(header.offset);
    }
    const params = streamParams(format, stream);
    await stream.prepare(params);
    this.params = params;
  }

  private async write(size: number): Promise<void> {
    const part = this.rest.subarray(0, Math.min(size, this.left));
    this.rest = this.rest.subarray(part.length);
    if (this.left < ENDLESS) this.left -= part.length;
    await this.stream.write(part);
    this.periods += 1;
    this.counters.requests += 1;
    this.counters.bytesWritten += part.length;
    if (this.periods === PERIODS_AHEAD) await this.stream.start();
  }

  /** Plays what is left, to its end. */
  async end(): Promise<void> {
    if (this.params === null) await this.begin(true);
    if (this.params === null) return;
    if (this.rest.length > 0 && this.left > 0) await this.write(this.params.periodBytes);
    if (this.periods === 0) return;
    if (this.periods < PERIODS_AHEAD) await this.stream.start();
    await this.stream.drain();
  }

  async release(): Promise<void> {
    if (this.params !== null && this.stream.isUsable) await this.stream.release();
  }
}

/** What the stream records can be read from the pipe. */
class CapturePipe extends SoundPipe {
  async run(): Promise<void> {
    const { signal } = this.closing;
    while (!this.isClosed) {
      const fd = this.tryOpen();
      try {
        if (fd === null) await sleep(LOOK_MS, undefined, { signal, ref: false });
        else await this.recordTo(new Socket({ fd, readable: false, writable: true }));
      } catch (error) {
        if (!this.isClosed) this.failed(error);
      }
    }
  }

  /** Null while nobody reads. */
  private tryOpen(): number | null {
    try {
      return openSync(this.path, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch {
      return null;
    }
  }

  private async recordTo(pipe: Socket): Promise<void> {
    const { stream, counters } = this;
    this.pipe = pipe;
    pipe.on('error', () => pipe.destroy());
    try {
      const format = usualFormat(stream.info);
      await stream.prepare(streamParams(format, stream));
      await stream.start();
      // Formats that a WAV file does not have come as they are.
      if (WAV_CODES.includes(format.format.code)) pipe.write(encodeWavHeader(format, ENDLESS));
      while (!this.isClosed && !pipe.destroyed) {
        const frames = await stream.read();
        counters.requests += 1;
        counters.bytesRead += frames.length;
        if (!pipe.write(frames)) await drained(pipe);
      }
    } finally {
      pipe.destroy();
      if (stream.isUsable) await stream.release();
    }
  }
}

/** Resolves when there is room in a pipe, or nobody reads from it any more. */
function drained(pipe: Socket): Promise<void> {
  return new Promise((resolve) => {
    const goOn = (): void => {
      pipe.off('drain', goOn).off('close', goOn);
      resolve();
    };
    pipe.on('drain', goOn).on('close', goOn);
    if (pipe.destroyed) goOn();
  });
}

/** The pipes of all streams of a card. */
export class SoundPipes implements Presentation {
  /** The folder that they are in. */
  readonly path: string;
  readonly counters = newCounters();
  private readonly pipes: readonly SoundPipe[];

  /** @throws SystemError */
  constructor(driver: SoundDriver, folder: string, log: (line: string) => void) {
    this.path = folder;
    const counts = { playback: 0, capture: 0 };
    this.pipes = driver.streams.map((stream) => {
      const { direction } = stream.info;
      const path = join(folder, `${direction}-${counts[direction]}`);
      counts[direction] += 1;
      const Pipe = direction === 'playback' ? PlaybackPipe : CapturePipe;
      return new Pipe(stream, path, this.counters, log);
    });
    for (const pipe of this.pipes) void pipe.run();
  }

  connectionChanged(): void {}

  driverFailed(): void {
    for (const pipe of this.pipes) pipe.close();
  }

  async close(): Promise<void> {
    for (const pipe of this.pipes) pipe.close();
  }
}
