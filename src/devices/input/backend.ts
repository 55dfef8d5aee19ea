/**
 * Where input comes from: a source knows what it is, tells of events, and takes what the driver
 * sets (LEDs and sounds).
 */

/** Range of an absolute axis. */
export interface AxisRange {
  readonly min: number;
  readonly max: number;
  readonly fuzz: number;
  readonly flat: number;
  readonly res: number;
}

/** What a source is: all that the driver can ask for. */
export interface InputDescription {
  readonly name: string;
  readonly serial: string;
  readonly ids: {
    readonly bustype: number;
    readonly vendor: number;
    readonly product: number;
    readonly version: number;
  };
  /** Bitmap of properties. */
  readonly properties: Uint8Array;
  /** Bitmap of codes, by type of event. */
  readonly codes: ReadonlyMap<number, Uint8Array>;
  readonly axes: ReadonlyMap<number, AxisRange>;
}

/** Most events of a report; Linux's devices come with far fewer. */
export const REPORT_EVENTS_MAX = 1024;

/** Events in a row: a report, with the SYN_REPORT at its end. Filled again and again. */
export class EventList {
  readonly types = new Uint16Array(REPORT_EVENTS_MAX);
  readonly codes = new Uint16Array(REPORT_EVENTS_MAX);
  readonly values = new Int32Array(REPORT_EVENTS_MAX);
  count = 0;

  /** Adds an event; false when the list is full. */
  add(type: number, code: number, value: number): boolean {
    if (this.count === REPORT_EVENTS_MAX) return false;
    this.types[this.count] = type;
    this.codes[this.count] = code;
    this.values[this.count] = value;
    this.count += 1;
    return true;
  }
}

/** Takes what a source tells; the device is one. */
export interface InputSink {
  /**
   * Takes a report. False: it is held until the driver has room, the list has to stay as it is, and
   * nothing more may be told before {@link InputSource.resume}.
   */
  report(events: EventList): boolean;
  /** The source is in this state, whatever it told before: the driver is told of what differs. */
  resync(fill: (state: InputState) => void): void;
}

/** What a source tells the device of its state, after events were lost. */
export interface InputState {
  /** All keys are up, and nothing touches. */
  release(): void;
  /** As the event would. */
  apply(type: number, code: number, value: number): void;
}

/** A source of input. */
export interface InputSource {
  readonly description: InputDescription;
  /** Events are of the moment: where no driver is, they are lost. Else they wait for one. */
  readonly isLive: boolean;
  /** A driver is there, for the first time: events may be told. */
  start(sink: InputSink): void;
  /** There is room again. */
  resume(): void;
  /** The driver set a LED or a sound that the source has. */
  setStatus(type: number, code: number, value: number): void;
  close(): void;
}
