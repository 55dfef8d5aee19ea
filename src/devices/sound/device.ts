/**
 * The requests of the sound device (virtio 1.3, section 5.14.6): what there is, what streams are
 * set to, and the frames themselves.
 *
 *   controlq:  request | status, items that were asked for
 *   txq:       stream, frames | status
 *   rxq:       stream | frames, status
 */
import {
  Alarm,
  type DeviceHost,
  type HandlerResult,
  LATER,
  type OpenDevice,
  type Request,
  type ServedQueue,
} from '../../kit/index.js';
import { type ChainReader, type ChainWriter, DriverFault } from '../../virtio/index.js';
import type { SoundBackEnd } from './backend.js';
import { FORMATS, hasBit, type PcmParams, RATES } from './format.js';
import { JackPanel } from './jacks.js';
import { PcmStream, type StreamState } from './stream.js';
import type { StoredStream, StreamStore } from './stream-store.js';
import {
  CHANNEL_MAPS,
  ChmapInfo,
  PCM_F,
  PcmInfo,
  PcmSetParams,
  PcmStatus,
  SND_D,
  SND_EVT,
  SND_R,
  SND_S,
  SndConfig,
  SndEvent,
} from './wire.js';

/** States in which a request is allowed (section 5.14.6.6.1); RELEASE always is. */
const ALLOWED: Readonly<Record<number, readonly StreamState[]>> = {
  [SND_R.PCM_SET_PARAMS]: ['idle', 'set', 'prepared'],
  [SND_R.PCM_PREPARE]: ['set', 'prepared'],
  [SND_R.PCM_START]: ['prepared', 'stopped'],
  [SND_R.PCM_STOP]: ['running'],
};

/** Largest buffer of a driver, and so the largest I/O message: far more than anybody needs. */
const BUFFER_BYTES_MAX = 2 ** 26;
/** How long, in milliseconds, streams are kept for a driver whose front end is gone. */
const ABSENCE_MS = 10_000;
/** Largest structure that an information request may ask for, in bytes. */
const INFO_SIZE_MAX = 1024;

export interface SoundDeviceOptions {
  readonly streamCount: number;
  readonly jackCount: number;
  /** Where streams are kept for a process that replaces this one. */
  readonly store?: StreamStore | undefined;
}

/** Where a stream belongs: one of each direction makes a function group. */
const groupOf = (streamId: number): number => streamId >> 1;

export class SoundDevice {
  readonly streams: readonly PcmStream[];
  readonly jacks: JackPanel;
  private readonly backEnd: SoundBackEnd;
  private readonly host: DeviceHost;
  private readonly store: StreamStore | undefined;
  private readonly streamInfos: readonly Uint8Array[];
  private readonly chmapInfos: readonly Uint8Array[];
  /** No front end is there, or none has been yet. */
  private isAway = true;
  private readonly absence = new Alarm(() => this.forget());

  constructor(
    backEnd: SoundBackEnd,
    { streamCount, jackCount, store }: SoundDeviceOptions,
    host: DeviceHost,
  ) {
    this.backEnd = backEnd;
    this.host = host;
    this.store = store;
    const events = {
      xrun: (stream: PcmStream) => {
        if ((stream.features & PCM_F.EVT_XRUNS) !== 0) this.tell(SND_EVT.PCM_XRUN, stream.id);
      },
      health: (stream: PcmStream, errno: number) => this.healthChanged(stream, errno),
    };
    this.streams = Array.from({ length: streamCount }, (_, id) => {
      const direction = id % 2 === 0 ? SND_D.OUTPUT : SND_D.INPUT;
      return new PcmStream(id, direction, backEnd.offer(direction), events);
    });
    this.jacks = new JackPanel(jackCount, groupOf, (code, id) => this.tell(code, id));
    this.streamInfos = this.streams.map(encodeStream);
    this.chmapInfos = this.streams.flatMap(encodeMaps);
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'controlq' | 'eventq' | 'txq' | 'rxq'> {
    const transfer = (direction: number) => (request: Request, queue: ServedQueue) =>
      this.transfer(request, queue, direction);
    return {
      features: 0n,
      config: SndConfig.encode({
        jacks: this.jacks.infos.length,
        streams: this.streams.length,
        chmaps: this.chmapInfos.length,
      }),
      handlers: {
        controlq: (request) => this.control(request),
        txq: transfer(SND_D.OUTPUT),
        rxq: transfer(SND_D.INPUT),
      },
      supplied: () => this.jacks.tellAll(),
      queueStarted: (queue) => this.queueStarted(queue),
      queueStopping: ({ name }) => this.stopping(name),
      reset: (cause) => {
        if (cause === 'driver') this.reset();
        else this.leave();
      },
      close: () => {
        this.forget();
        this.store?.close();
        this.backEnd.close();
      },
    };
  }

  /** What was not begun waits in the ring until the queue goes on; the rest ends. */
  private stopping(queueName: string): void {
    const direction = { txq: SND_D.OUTPUT, rxq: SND_D.INPUT }[queueName];
    const streams = this.streams.filter((stream) => stream.direction === direction);
    // Only the last one that was taken can go back, whatever stream it is of.
    while (streams.some((stream) => stream.putBack()));
    for (const stream of streams) stream.flush();
  }

  /** The driver may come back by another front end. */
  private leave(): void {
    this.isAway = true;
    this.absence.set(ABSENCE_MS);
  }

  /** A driver that goes on after its front end came back does not set its streams up again. */
  private queueStarted({ name, isFresh }: ServedQueue): void {
    if (name !== 'controlq' || !this.isAway) return;
    this.isAway = false;
    this.absence.clear();
    if (isFresh) this.reset();
    else for (const stream of this.streams) this.restore(stream, this.store?.load(stream.id));
  }

  /** Where streams were closed, or this process is another one, what was kept is set up again. */
  private restore(stream: PcmStream, kept: StoredStream | null | undefined): void {
    if (!kept || stream.state !== 'idle' || this.setParams(stream, kept) !== SND_S.OK) return;
    if (kept.state === 'set' || this.prepare(stream) !== SND_S.OK) return;
    if (kept.state === 'prepared') return;
    stream.start();
    if (kept.state === 'stopped') stream.stop();
  }

  private reset(): void {
    this.forget();
    this.keep();
  }

  private forget(): void {
    this.absence.clear();
    for (const stream of this.streams) stream.reset();
    this.jacks.reset();
  }

  private keep(): void {
    for (const stream of this.streams) this.store?.save(stream);
  }

  /** False when the driver has no buffer for an event: it is then lost, unless it is said again. */
  private tell(code: number, data: number): boolean {
    return this.host.queue('eventq')?.deliver([SndEvent.encode({ code, data })]) === true;
  }

  private healthChanged({ id, isOpen }: PcmStream, errno: number): void {
    if (errno !== 0) this.host.log(`stream ${id} fails (errno ${errno})`);
    else this.host.log(isOpen ? `stream ${id} works again` : `stream ${id} failed, and is closed`);
    this.jacks.setWorking(id, errno === 0);
  }

  private control({ reader, writer }: Request): HandlerResult {
    if (writer.remaining < 4) {
      throw new DriverFault('request', 'a control request has no room for its status');
    }
    if (reader.remaining < 4) {
      writer.writeU32(SND_S.BAD_MSG);
      return undefined;
    }
    const code = reader.readU32();
    if (code === SND_R.JACK_INFO) {
      this.answerInfos(reader, writer, this.jacks.infos, (startId, count) =>
        this.jacks.infosRead(startId, count),
      );
    } else if (code === SND_R.PCM_INFO) this.answerInfos(reader, writer, this.streamInfos);
    else if (code === SND_R.CHMAP_INFO) this.answerInfos(reader, writer, this.chmapInfos);
    else if (code === SND_R.JACK_REMAP) writer.writeU32(this.jacks.remap(reader));
    else if (code === SND_R.PCM_RELEASE || ALLOWED[code] !== undefined) {
      writer.writeU32(this.controlStream(code, reader));
      this.keep();
      if (code === SND_R.PCM_RELEASE) return this.released();
    } else writer.writeU32(SND_S.NOT_SUPP);
    return undefined;
  }

  /**
   * A release is answered after all messages that the driver placed before it. The control queue
   * is served first, so some may still lie in their ring: they end as they are found in this turn.
   */
  private released(): Promise<void> {
    return new Promise((resolve) =>
      setImmediate(() => {
        for (const stream of this.streams) stream.isEnding = false;
        resolve();
      }),
    );
  }

  private answerInfos(
    reader: ChainReader,
    writer: ChainWriter,
    infos: readonly Uint8Array[],
    onRead: (startId: number, count: number) => void = () => {},
  ): void {
    const startId = reader.remaining < 12 ? infos.length + 1 : reader.readU32();
    if (startId > infos.length) {
      writer.writeU32(SND_S.BAD_MSG);
      return;
    }
    const count = reader.readU32();
    const size = reader.readU32();
    const isThere = startId + count <= infos.length && size <= INFO_SIZE_MAX;
    if (!isThere || count * size > writer.remaining - 4) {
      writer.writeU32(SND_S.BAD_MSG);
      return;
    }
    writer.writeU32(SND_S.OK);
    onRead(startId, count);
    for (let id = startId; id < startId + count; id += 1) {
      // Drivers of another version may know a shorter or a longer structure.
      const info = infos[id]!.subarray(0, size);
      writer.write(info);
      for (let left = size - info.length; left > 0; left -= 1) writer.writeU8(0);
    }
  }

  private controlStream(code: number, reader: ChainReader): number {
    if (reader.remaining < 4) return SND_S.BAD_MSG;
    const stream = this.streams[reader.readU32()];
    if (stream === undefined) return SND_S.BAD_MSG;
    const isSetUp = code === SND_R.PCM_SET_PARAMS || code === SND_R.PCM_PREPARE;
    // Linux leaves RELEASE out after an xrun, when no message of the stream is under way.
    if (isSetUp && stream.state === 'stopped') stream.release();
    if (code === SND_R.PCM_RELEASE) {
      stream.release();
      stream.isEnding = true;
    } else if (!ALLOWED[code]!.includes(stream.state)) return SND_S.BAD_MSG;
    else if (code === SND_R.PCM_SET_PARAMS) {
      const isWhole = reader.remaining >= PcmSetParams.size;
      return isWhole ? this.setParams(stream, reader.take(PcmSetParams)) : SND_S.BAD_MSG;
    } else if (code === SND_R.PCM_PREPARE) return this.prepare(stream);
    else if (code === SND_R.PCM_START) stream.start();
    else stream.stop();
    return SND_S.OK;
  }

  private setParams(stream: PcmStream, fields: Omit<StoredStream, 'state'>): number {
    const { bufferBytes, periodBytes, features, format, rate, channels } = fields;
    const { offer } = stream;
    const isOffered =
      hasBit(offer.formats, format) &&
      hasBit(offer.rates, rate) &&
      channels >= offer.channelsMin &&
      channels <= offer.channelsMax;
    if (!isOffered || (features & ~PCM_F.EVT_XRUNS) !== 0) return SND_S.NOT_SUPP;
    const params: PcmParams = {
      format: FORMATS[format]!,
      rate: RATES[rate]!,
      channels,
      bufferBytes,
      periodBytes,
    };
    const isWhole = periodBytes > 0 && bufferBytes > 0 && bufferBytes % periodBytes === 0;
    if (!isWhole || bufferBytes > BUFFER_BYTES_MAX) return SND_S.BAD_MSG;
    stream.set(params, features);
    return SND_S.OK;
  }

  private prepare(stream: PcmStream): number {
    const { id, direction, params } = stream;
    // Drivers prepare twice; nothing was played meanwhile, and there is nothing to begin anew.
    if (stream.state === 'prepared') return SND_S.OK;
    stream.closePort();
    try {
      stream.prepare(this.backEnd.open(id, direction, params!));
      return SND_S.OK;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      this.host.log(`stream ${id} cannot be prepared: ${message} (${code ?? 'no code'})`);
      stream.release();
      return SND_S.IO_ERR;
    }
  }

  private transfer(
    request: Request,
    queue: ServedQueue,
    direction: number,
  ): typeof LATER | undefined {
    const { reader, writer } = request;
    const status = writer.splitTail(PcmStatus.size);
    const stream = this.streams[reader.readU32()];
    const size = direction === SND_D.OUTPUT ? reader.remaining : writer.remaining;
    if (stream?.direction === direction && size <= BUFFER_BYTES_MAX) {
      stream.place(request, queue, status);
      return LATER;
    }
    status.writeU32(SND_S.IO_ERR);
    status.writeU32(0);
    return undefined;
  }
}

function encodeStream({ id, direction, offer }: PcmStream): Uint8Array {
  return PcmInfo.encode({ nid: groupOf(id), features: PCM_F.EVT_XRUNS, direction, ...offer });
}

/** The usual maps for the numbers of channels that a stream can have. */
function encodeMaps({ id, direction, offer }: PcmStream): Uint8Array[] {
  const { channelsMin, channelsMax } = offer;
  return CHANNEL_MAPS.filter(({ length }) => length >= channelsMin && length <= channelsMax).map(
    (map) =>
      ChmapInfo.encode({
        nid: groupOf(id),
        direction,
        channels: map.length,
        positions: Uint8Array.from(map),
      }),
  );
}
