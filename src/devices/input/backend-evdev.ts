/**
 * A real event device of Linux. When it is unplugged, all its keys are up; it is looked for each
 * second, and goes on when it is back.
 */
import { SystemError, VloError } from '../../errors.js';
import { ERRNO, EvdevFile, errnoName } from '../../native/index.js';
import {
  type AxisRange,
  EventList,
  type InputDescription,
  type InputSink,
  type InputSource,
  type InputState,
  REPORT_EVENTS_MAX,
} from './backend.js';
import { CODE_COUNTS } from './codes.js';
import { bitmapOf, bitsOf, hasBit, trimBitmap } from './config-codec.js';
import { slotCountOf } from './state.js';
import {
  ABS_MT_FIRST,
  ABS_MT_LAST,
  ABS_MT_SLOT,
  ABS_MT_TRACKING_ID,
  EV,
  KEY_REPEATED,
  SYN,
} from './wire.js';

/** How long to wait, in ms, before a device that is gone is looked for again. */
const RETRY_MS = 1000;
/** Types of events that are passed on. Force feedback needs more than the specification has. */
const TYPES = [EV.KEY, EV.REL, EV.ABS, EV.MSC, EV.SW, EV.LED, EV.SND];
/** Bytes of the bitmap of types, which the type 0 stands for. */
const TYPES_SIZE = 4;
const sizeOf = (type: number): number => ((CODE_COUNTS[type] ?? 0) + 7) >> 3;

export interface EvdevOptions {
  readonly path: string;
  /** Opens the device; tests have one of their own. */
  readonly open?: (path: string, onReadable: () => void) => EvdevFile;
  /** Take the events away from everybody else. */
  readonly isGrabbed: boolean;
  readonly log: (line: string) => void;
}

export class EvdevSource implements InputSource {
  readonly description: InputDescription;
  readonly isLive = true;
  private readonly options: EvdevOptions;
  private file: EvdevFile | null = null;
  private sink: InputSink | null = null;
  private readonly list = new EventList();
  /** Where in what was read the next event is. */
  private at = 0;
  /** Events were lost: what comes up to the next SYN_REPORT is half a report. */
  private isLost = false;
  /** LEDs as the driver set them: a device that comes back has them off. */
  private readonly leds = new Map<number, number>();
  private timer: NodeJS.Timeout | null = null;
  private isClosed = false;

  /** @throws VloError VLO_SOURCE_ACCESS */
  constructor(options: EvdevOptions) {
    this.options = options;
    const { path } = options;
    try {
      this.file = this.openFile();
      this.description = describeFile(this.file);
    } catch (cause) {
      this.file?.close();
      const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
      const reason = cause instanceof SystemError ? cause.errno : code;
      const hint = reason === 'EBUSY' ? 'another program has grabbed it; ' : '';
      throw new VloError(
        'VLO_SOURCE_ACCESS',
        `input device '${path}' cannot be opened (${reason}); ${hint}check --evdev-path`,
        { cause },
      );
    }
  }

  private openFile(): EvdevFile {
    const { path, open = openEvdev } = this.options;
    const file = open(path, () => this.readable());
    try {
      file.ids(); // Anything but an event device says no.
      if (this.options.isGrabbed) file.grab();
      return file;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  start(sink: InputSink): void {
    this.sink = sink;
    if (this.file === null) return;
    // Keys that are held now were not meant for this driver.
    sink.resync((state) => readAxes(this.file!, this.description, state));
    this.file?.setWatched(true);
  }

  private readable(): void {
    const { file } = this;
    if (file === null) return;
    const result = file.read();
    this.at = 0;
    if (result < 0) this.lost(result);
    else this.tell();
  }

  /** Tells what was read; stops where a report is held. */
  private tell(): void {
    const { file, list, sink } = this;
    if (file === null || sink === null) return;
    while (this.at < file.count) {
      const index = this.at;
      this.at += 1;
      const [type, code, value] = [file.type(index), file.code(index), file.value(index)];
      if (type === EV.SYN && code === SYN.DROPPED) this.isLost = true;
      else if (type === EV.SYN && code === SYN.REPORT) {
        if (!this.endReport()) return;
      } else if (!this.isLost && this.isWanted(type, code, value)) {
        // The last place is for the end of the report.
        this.isLost = list.count === REPORT_EVENTS_MAX - 1 || !list.add(type, code, value);
      }
    }
  }

  /** LEDs are the driver's own; and a driver repeats keys by itself where it is told to. */
  private isWanted(type: number, code: number, value: number): boolean {
    if (type === EV.LED || type === EV.SND || type === EV.REP || type === EV.SYN) return false;
    const { codes } = this.description;
    if (type === EV.KEY && value === KEY_REPEATED && codes.has(EV.REP)) return false;
    return hasBit(codes.get(type), code);
  }

  /** False when the report is held. */
  private endReport(): boolean {
    const { file, list, sink } = this;
    if (this.isLost) {
      this.isLost = false;
      list.count = 0;
      // What was read already is older than the state, and must not come after it.
      this.at = file!.count;
      sink!.resync((state) => readState(file!, this.description, state));
      return true;
    }
    if (list.count === 0) return true;
    list.add(EV.SYN, SYN.REPORT, 0);
    if (!sink!.report(list)) {
      file!.setWatched(false);
      return false;
    }
    list.count = 0;
    return true;
  }

  resume(): void {
    this.list.count = 0;
    this.tell();
    // Still there, and not held again.
    if (this.file !== null && this.at >= this.file.count) this.file.setWatched(true);
  }

  /** The device is gone. */
  private lost(result: number): void {
    const { path, log } = this.options;
    const reason = -result === ERRNO.ENODEV ? 'unplugged' : errnoName(-result);
    log(`the input device '${path}' is lost (${reason}); it is looked for`);
    this.file?.close();
    this.file = null;
    this.list.count = 0;
    this.isLost = false;
    this.sink?.resync((state) => state.release());
    this.seek();
  }

  private seek(): void {
    if (this.isClosed) return;
    this.timer = setTimeout(() => {
      try {
        this.returned(this.openFile());
      } catch {
        this.seek();
      }
    }, RETRY_MS);
    this.timer.unref();
  }

  /** The device may be gone again at any time. */
  private returned(file: EvdevFile): void {
    const { options, description, sink } = this;
    let isSame: boolean;
    try {
      isSame = describesSame(describeFile(file), description);
    } catch (error) {
      file.close();
      throw error;
    }
    this.file = file;
    for (const [code, value] of this.leds) this.write(file, EV.LED, code, value);
    const hint = isSame ? '' : ', and it is another one: the driver knows what the first one had';
    options.log(`the input device '${options.path}' is back${hint}`);
    sink?.resync((state) => readAxes(file, description, state));
    file.setWatched(sink !== null);
  }

  setStatus(type: number, code: number, value: number): void {
    if (type === EV.LED) this.leds.set(code, value);
    if (this.file !== null) this.write(this.file, type, code, value);
  }

  private write(file: EvdevFile, type: number, code: number, value: number): void {
    // The memory holds events that were read and not told yet, so that they are put back.
    const kept = [file.type(0), file.code(0), file.value(0)] as const;
    file.put(0, type, code, value);
    const result = file.write(1);
    file.put(0, ...kept);
    if (result < 0) this.options.log(`a LED cannot be set: ${errnoName(-result)}`);
  }

  close(): void {
    this.isClosed = true;
    this.sink = null;
    if (this.timer !== null) clearTimeout(this.timer);
    this.file?.close();
    this.file = null;
  }
}

const openEvdev = (path: string, onReadable: () => void): EvdevFile =>
  new EvdevFile(path, onReadable);

function describeFile(file: EvdevFile): InputDescription {
  const codes = new Map<number, Uint8Array>();
  const axes = new Map<number, AxisRange>();
  for (const type of TYPES) {
    const bitmap = trimBitmap(file.codes(type, sizeOf(type)));
    if (bitmap.length > 0) codes.set(type, bitmap);
  }
  if (hasBit(file.codes(EV.SYN, TYPES_SIZE), EV.REP)) codes.set(EV.REP, bitmapOf([0, 1]));
  for (const code of bitsOf(codes.get(EV.ABS))) {
    const { min, max, fuzz, flat, res } = file.axis(code);
    axes.set(code, { min, max, fuzz, flat, res });
  }
  const properties = trimBitmap(file.properties());
  return { name: file.name(), serial: file.serial(), ids: file.ids(), properties, codes, axes };
}

const describesSame = (one: InputDescription, other: InputDescription): boolean =>
  JSON.stringify([...one.codes]) === JSON.stringify([...other.codes]) &&
  JSON.stringify([...one.axes]) === JSON.stringify([...other.axes]);

/** Switches, axes and contacts as they are now; a device that goes meanwhile is read as lost. */
function readAxes(file: EvdevFile, description: InputDescription, state: InputState): void {
  const { codes } = description;
  try {
    const switches = codes.has(EV.SW) ? file.switchesOn(sizeOf(EV.SW)) : undefined;
    for (const code of bitsOf(codes.get(EV.SW))) {
      state.apply(EV.SW, code, hasBit(switches, code) ? 1 : 0);
    }
    const slotCount = slotCountOf(description);
    const isContact = (code: number): boolean => code >= ABS_MT_SLOT && code <= ABS_MT_LAST;
    const all = bitsOf(codes.get(EV.ABS));
    for (const code of all) {
      if (slotCount === 0 || !isContact(code)) state.apply(EV.ABS, code, file.axis(code).value);
    }
    if (slotCount > 0) readContacts(file, all, slotCount, state);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
  }
}

function readContacts(
  file: EvdevFile,
  axes: readonly number[],
  slotCount: number,
  state: InputState,
): void {
  for (const code of axes) {
    if (code < ABS_MT_FIRST || code > ABS_MT_LAST) continue;
    for (const [slot, value] of file.contactValues(code, slotCount).entries()) {
      state.apply(EV.ABS, ABS_MT_SLOT, slot);
      state.apply(EV.ABS, code, code === ABS_MT_TRACKING_ID && value < 0 ? -1 : value);
    }
  }
  state.apply(EV.ABS, ABS_MT_SLOT, file.axis(ABS_MT_SLOT).value);
}

function readState(file: EvdevFile, description: InputDescription, state: InputState): void {
  try {
    const keys = file.keysDown(sizeOf(EV.KEY));
    for (const code of bitsOf(description.codes.get(EV.KEY))) {
      state.apply(EV.KEY, code, hasBit(keys, code) ? 1 : 0);
    }
    readAxes(file, description, state);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
  }
}
