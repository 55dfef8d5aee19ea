/** Jacks: what is plugged in, by the user's word, and whether the stream behind it works. */
import type { ChainReader } from '../../virtio/index.js';
import { JACK_F, JackInfo, JackRemap, SND_D, SND_EVT, SND_S } from './wire.js';

// Pin configuration as High Definition Audio has it (7.3.3.31): a 3.5 mm jack at the rear.
const REAR_MINI_JACK = (0x01 << 24) | (0x1 << 16);
const LINE_OUT = 0x0 << 20;
const MICROPHONE = 0xa << 20;
/** Association and sequence number, the lowest byte of the configuration. */
const PLACE_MASK = 0xff;
/** Pin capabilities (7.3.4.9): can tell what is plugged in; output; input. */
const CAN_TELL = 1 << 2;
const CAN_PLAY = 1 << 4;
const CAN_RECORD = 1 << 5;
/** First association number for a jack; 0 is reserved. */
const ASSOCIATION_FIRST = 1;

class Jack {
  isPlugged = true;
  isWorking = true;
  /** What the driver was told. */
  told = true;

  get isConnected(): boolean {
    return this.isPlugged && this.isWorking;
  }
}

/** The jacks of a device: one for each stream, in the same order. */
export class JackPanel {
  /** Answers of JACK_INFO. */
  readonly infos: readonly Uint8Array[];
  private readonly places: readonly number[];
  private readonly jacks: readonly Jack[];
  private readonly tell: (code: number, id: number) => boolean;

  /** `tell` passes an event on; false when that is not possible now. */
  constructor(
    count: number,
    groupOf: (id: number) => number,
    tell: (code: number, id: number) => boolean,
  ) {
    this.tell = tell;
    this.jacks = Array.from({ length: count }, () => new Jack());
    this.infos = this.jacks.map((_, id) => {
      const isOutput = id % 2 === SND_D.OUTPUT;
      const place = (ASSOCIATION_FIRST + groupOf(id)) << 4;
      return JackInfo.encode({
        nid: groupOf(id),
        features: JACK_F.REMAP,
        defconf: REAR_MINI_JACK | (isOutput ? LINE_OUT : MICROPHONE) | (place & PLACE_MASK),
        caps: CAN_TELL | (isOutput ? CAN_PLAY : CAN_RECORD),
        connected: 1,
      });
    });
    this.places = this.infos.map((info) => info[JackInfo.offsets.defconf]!);
  }

  /** Something is plugged in, or nothing is any more; false when there is no such jack. */
  setPlugged(id: number, isPlugged: boolean): boolean {
    const jack = this.jacks[id];
    if (jack === undefined) return false;
    jack.isPlugged = isPlugged;
    this.changed(id);
    return true;
  }

  /** The stream of this number works, or not. */
  setWorking(id: number, isWorking: boolean): void {
    const jack = this.jacks[id];
    if (jack === undefined) return;
    jack.isWorking = isWorking;
    this.changed(id);
  }

  isConnected(id: number): boolean {
    return this.jacks[id]!.isConnected;
  }

  /** Tells what could not be told before. */
  tellAll(): void {
    for (const id of this.jacks.keys()) this.changed(id);
  }

  private changed(id: number): void {
    const jack = this.jacks[id]!;
    const { isConnected } = jack;
    this.infos[id]![JackInfo.offsets.connected] = isConnected ? 1 : 0;
    if (jack.told === isConnected) return;
    const code = isConnected ? SND_EVT.JACK_CONNECTED : SND_EVT.JACK_DISCONNECTED;
    if (this.tell(code, id)) jack.told = isConnected;
  }

  /** The driver has asked for these jacks: that is what it knows. */
  infosRead(startId: number, count: number): void {
    for (const jack of this.jacks.slice(startId, startId + count)) jack.told = jack.isConnected;
  }

  /** The next driver asks for all jacks, and finds each of them where it was at first. */
  reset(): void {
    this.infosRead(0, this.jacks.length);
    for (const [id, info] of this.infos.entries()) {
      info[JackInfo.offsets.defconf] = this.places[id]!;
    }
  }

  /** Serves JACK_REMAP; the reader is past the code. Returns the status. */
  remap(reader: ChainReader): number {
    const { size } = JackRemap;
    if (reader.remaining < size - 4) return SND_S.BAD_MSG;
    const [id, association, sequence] = [reader.readU32(), reader.readU32(), reader.readU32()];
    const info = this.infos[id];
    if (info === undefined || association > 15 || sequence > 15) return SND_S.BAD_MSG;
    info[JackInfo.offsets.defconf] = (association << 4) | sequence;
    return SND_S.OK;
  }
}
