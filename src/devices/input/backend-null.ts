/** Input for tests: tells what it is told to, and can lose events as a real source does. */
import {
  EventList,
  type InputDescription,
  type InputSink,
  type InputSource,
  type InputState,
} from './backend.js';
import { PROFILES } from './description.js';
import { EV, SYN } from './wire.js';

/** An event: type, code, value. */
export type Triple = readonly [number, number, number];

export class NullInput implements InputSource {
  readonly description: InputDescription;
  readonly isLive: boolean;
  /** What the driver set. */
  readonly status: Triple[] = [];
  sink: InputSink | null = null;
  isClosed = false;
  private readonly waiting: Triple[][] = [];
  private readonly list = new EventList();
  private isHeld = false;

  constructor(description: InputDescription = PROFILES.keyboard, isLive = false) {
    this.description = description;
    this.isLive = isLive;
  }

  start(sink: InputSink): void {
    this.sink = sink;
    this.flush();
  }

  /** Tells a report, now or when there is room; SYN_REPORT is added. */
  tell(...events: Triple[]): void {
    this.waiting.push([...events, [EV.SYN, SYN.REPORT, 0]]);
    this.flush();
  }

  /** Loses all that waits, and tells a state instead. */
  lose(fill: (state: InputState) => void): void {
    this.waiting.length = 0;
    this.sink!.resync(fill);
  }

  private flush(): void {
    while (this.sink !== null && !this.isHeld) {
      const events = this.waiting.shift();
      if (events === undefined) return;
      this.list.count = 0;
      for (const [type, code, value] of events) this.list.add(type, code, value);
      this.isHeld = !this.sink.report(this.list);
    }
  }

  resume(): void {
    this.isHeld = false;
    this.flush();
  }

  setStatus(type: number, code: number, value: number): void {
    this.status.push([type, code, value]);
  }

  close(): void {
    this.isClosed = true;
  }
}
