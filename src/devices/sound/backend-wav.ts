/** WAV files: what is played is written to one, what is recorded is read from another. */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { VloError } from '../../errors.js';
import { ERRNO, IOV_MAX, IovecList, NativeBuffer, preadv, pwritev } from '../../native/index.js';
import type { ChainReader, ChainWriter } from '../../virtio/index.js';
import type { PcmPort, SoundBackEnd } from './backend.js';
import { NullPort } from './backend-null.js';
import { maskOf, type PcmOffer, type PcmParams, RATES, writeSilence } from './format.js';
import {
  decodeWavHeader,
  encodeWavHeader,
  WAV_CODES,
  WAV_HEADER_SIZE,
  WAV_SEARCH_SIZE,
  type WavHeader,
} from './wav.js';
import { CHANNELS_MAX, SND_D } from './wire.js';

export interface WavOptions {
  /** File to write, with `{stream}` and `{take}` for their numbers; null plays to nobody. */
  readonly playbackFile: string | null;
  /** File to read; null records silence. */
  readonly captureFile: string | null;
  /** The file to read begins again at its end; else silence follows. */
  readonly loop: boolean;
  readonly limits: PcmOffer;
}

/** Reads of a short file that is repeated, before others get their turn. */
const ROUNDS_MAX = 1024;

const list = new IovecList(64);

function accessError(option: string, path: string, cause: unknown): VloError {
  const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  const message = `'${path}' cannot be opened (${reason}); check --${option}`;
  return new VloError('VLO_SOUND_ACCESS', message, { cause });
}

export class WavSound implements SoundBackEnd {
  private readonly options: WavOptions;
  private readonly header: WavHeader | null;
  /** How often each stream was prepared. */
  private readonly takes = new Map<number, number>();

  /** @throws VloError VLO_SOUND_ACCESS for a file that cannot be read, or one not written */
  constructor(options: WavOptions) {
    const { playbackFile, captureFile } = options;
    this.options = options;
    this.header = captureFile === null ? null : readHeader(captureFile);
    if (playbackFile === null) return;
    try {
      const isThere = existsSync(playbackFile);
      accessSync(isThere ? playbackFile : dirname(playbackFile), constants.W_OK);
    } catch (cause) {
      throw accessError('playback-file', playbackFile, cause);
    }
  }

  offer(direction: number): PcmOffer {
    const { limits, playbackFile } = this.options;
    const { header } = this;
    if (direction === SND_D.OUTPUT) {
      if (playbackFile === null) return limits;
      return { ...limits, formats: limits.formats & maskOf(WAV_CODES) };
    }
    if (header === null) return limits;
    return {
      formats: maskOf([header.format.code]),
      rates: maskOf([RATES.indexOf(header.rate)]),
      channelsMin: header.channels,
      channelsMax: header.channels,
    };
  }

  /** @throws VloError VLO_SOUND_ACCESS for a file that cannot be used now, or has become another */
  open(streamId: number, direction: number, params: PcmParams): PcmPort {
    const { playbackFile, captureFile, loop } = this.options;
    if (direction === SND_D.INPUT) {
      if (captureFile === null) return new NullPort(params);
      return openSource(captureFile, this.header!, loop);
    }
    if (playbackFile === null) return new NullPort(params);
    const take = (this.takes.get(streamId) ?? 0) + 1;
    this.takes.set(streamId, take);
    const path = playbackFile.replaceAll('{stream}', `${streamId}`).replaceAll('{take}', `${take}`);
    return new WavSink(path, params);
  }

  close(): void {}
}

/** @throws VloError VLO_SOUND_ACCESS */
function readHeader(path: string): WavHeader {
  const fd = openFile('capture-file', path, constants.O_RDONLY);
  try {
    return headerOf(fd, path);
  } finally {
    closeSync(fd);
  }
}

/** A pipe in the place of a file must not stop the process until somebody opens its other end. */
function openFile(option: string, path: string, flags: number): number {
  try {
    return openSync(path, flags | constants.O_NONBLOCK, 0o644);
  } catch (cause) {
    throw accessError(option, path, cause);
  }
}

function headerOf(fd: number, path: string): WavHeader {
  const bytes = new Uint8Array(WAV_SEARCH_SIZE);
  let length = 0;
  try {
    length = readSync(fd, bytes, 0, bytes.length, 0);
  } catch (cause) {
    throw accessError('capture-file', path, cause);
  }
  const header = decodeWavHeader(bytes.subarray(0, length));
  const problem = typeof header === 'string' ? header : problemOf(header);
  if (problem === null) return header as WavHeader;
  throw sourceError(path, problem);
}

function sourceError(path: string, problem: string): VloError {
  const message = `'${path}' cannot be recorded from: ${problem}; check --capture-file`;
  return new VloError('VLO_SOUND_ACCESS', message);
}

/** Opens the file for a take: it may be another one than that whose format was offered. */
function openSource(path: string, offered: WavHeader, loop: boolean): WavSource {
  const fd = openFile('capture-file', path, constants.O_RDONLY);
  try {
    const header = headerOf(fd, path);
    const { format, rate, channels } = header;
    const isSame =
      format === offered.format && rate === offered.rate && channels === offered.channels;
    if (isSame) return new WavSource(fd, header, loop);
    throw sourceError(path, 'its format has changed since the device was started');
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function problemOf(header: WavHeader | null): string | null {
  if (header === null) return 'its header is cut short';
  if (!RATES.includes(header.rate)) return `virtio has no rate of ${header.rate} Hz`;
  return header.channels > CHANNELS_MAX ? `${header.channels} channels are too many` : null;
}

/** A file that is being written. It is a whole WAV file after each period. */
class WavSink implements PcmPort {
  private readonly fd: number;
  private readonly params: PcmParams;
  private readonly header: NativeBuffer;
  private size = 0;

  constructor(path: string, params: PcmParams) {
    const { O_WRONLY, O_CREAT, O_TRUNC } = constants;
    this.params = params;
    this.fd = openFile('playback-file', path, O_WRONLY | O_CREAT | O_TRUNC);
    this.header = new NativeBuffer(WAV_HEADER_SIZE);
    this.writeHeader();
  }

  private writeHeader(): number {
    this.header.bytes.set(encodeWavHeader(this.params, this.size));
    list.clear();
    list.push(this.header.address, WAV_HEADER_SIZE);
    return pwritev(this.fd, list.address, list.count, 0);
  }

  play(reader: ChainReader): number {
    list.clear();
    reader.gather(list, reader.remaining);
    const count = Math.min(list.count, IOV_MAX);
    const result = pwritev(this.fd, list.address, count, WAV_HEADER_SIZE + this.size);
    if (result <= 0) return result === 0 ? -ERRNO.EIO! : result;
    reader.skip(result);
    this.size += result;
    const written = this.writeHeader();
    return written < 0 ? written : result;
  }

  record(): number {
    return -ERRNO.EBADF!;
  }

  close(): void {
    closeSync(this.fd);
    this.header.free();
  }
}

/** A file that is being read. */
class WavSource implements PcmPort {
  private readonly fd: number;
  private readonly header: WavHeader;
  private readonly loop: boolean;
  private readonly size: number;
  private position = 0;

  constructor(fd: number, header: WavHeader, loop: boolean) {
    this.header = header;
    this.loop = loop;
    this.fd = fd;
    // A program that writes to a pipe cannot know the size, and leaves a number that is too large.
    this.size = Math.min(header.size, Math.max(0, fstatSync(this.fd).size - header.offset));
  }

  play(): number {
    return -ERRNO.EBADF!;
  }

  record(writer: ChainWriter): number {
    const wanted = writer.remaining;
    for (let round = 0; writer.remaining > 0; round += 1) {
      if (round === ROUNDS_MAX) return wanted - writer.remaining;
      if (this.position >= this.size && this.loop) this.position = 0;
      const part = Math.min(writer.remaining, this.size - this.position);
      if (part <= 0) break;
      list.clear();
      writer.gather(list, part);
      const offset = this.header.offset + this.position;
      const count = Math.min(list.count, IOV_MAX);
      const result = preadv(this.fd, list.address, count, offset);
      if (result < 0) return result;
      if (result === 0) break; // It was cut short meanwhile.
      writer.advance(result);
      this.position += result;
    }
    if (writer.remaining > 0) writeSilence(writer, this.header.format);
    return wanted;
  }

  close(): void {
    closeSync(this.fd);
  }
}
