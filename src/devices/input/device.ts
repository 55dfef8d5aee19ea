/**
 * The two queues and the config space of the input device (virtio 1.x, section 5.8).
 *
 *   source ── report ─► eventq      all events up to SYN_REPORT, or none of them yet
 *   source ◄─ status ── statusq     LEDs and sounds
 *
 * A report that finds too few buffers is held, and the source with it, until the driver supplies
 * more. Sources that cannot be held lose events by themselves; they then tell their state, and the
 * driver gets a report of what is different (`state.ts`).
 */
import {
  Alarm,
  type DeviceHost,
  type OpenDevice,
  type Request,
  type ServedQueue,
} from '../../kit/index.js';
import type { ChainWriter } from '../../virtio/index.js';
import {
  EventList,
  type InputSink,
  type InputSource,
  type InputState,
  REPORT_EVENTS_MAX,
} from './backend.js';
import { answerTo, bitsOf, hasBit } from './config-codec.js';
import { StateSum, slotCountOf } from './state.js';
import { EV, InputConfig, InputEvent } from './wire.js';

/** How long a report may wait for room for all of it while there is room for a part, in ms. */
const WHOLE_MS_MAX = 1000;

export class InputDevice implements InputSink {
  private readonly source: InputSource;
  private readonly host: DeviceHost;
  private readonly config = new Uint8Array(InputConfig.size);
  private readonly sourceState: StateSum;
  private readonly driverState: StateSum;
  private readonly changes = new EventList();
  private isStarted = false;
  private needsSync = false;
  /** The report that waits for room, and how many of its events the driver has. */
  private held: EventList | null = null;
  private sent = 0;
  /** A report that came while another one was held. */
  private waiting: EventList | null = null;
  private isSourceHeld = false;
  /** A driver that never supplies as many buffers as its ring has entries gets parts after all. */
  private readonly patience = new Alarm(() => {
    const { queue } = this;
    if (this.held !== null && queue !== null) this.sendParts(this.held, queue);
    this.pump();
  });

  constructor(source: InputSource, host: DeviceHost) {
    this.source = source;
    this.host = host;
    const slotCount = slotCountOf(source.description);
    this.sourceState = new StateSum(slotCount);
    this.driverState = new StateSum(slotCount);
  }

  /** The driver's buffers, while the queue runs. */
  private get queue(): ServedQueue | null {
    return this.host.queue('eventq');
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<'eventq' | 'statusq'> {
    return {
      features: 0n,
      config: this.config,
      writeConfig: (offset, bytes) => this.select(offset, bytes),
      handlers: { statusq: (request) => this.setStatus(request) },
      queueStarted: (queue) => this.start(queue),
      supplied: () => this.pump(),
      queueStopping: (queue) => this.stop(queue),
      close: () => this.close(),
    };
  }

  /** The driver asks by writing `select` and `subsel`; the answer appears beside them. */
  private select(offset: number, bytes: Uint8Array): void {
    const { config } = this;
    const { size, answer: at } = InputConfig.offsets;
    // Only these two are the driver's; front ends write back the whole space to change them.
    if (offset >= size) return;
    config.set(bytes.subarray(0, size - offset), offset);
    const answer = answerTo(this.source.description, config[0]!, config[1]!);
    config.fill(0, size);
    config[size] = answer.length;
    config.set(answer, at);
  }

  private setStatus({ reader }: Request): undefined {
    const [type, code] = [reader.readU16(), reader.readU16()];
    const value = reader.readU32() | 0;
    // A driver may not press keys of the source: what else it sends back is not for us.
    if (type !== EV.LED && type !== EV.SND) return;
    if (!hasBit(this.source.description.codes.get(type), code)) return;
    this.source.setStatus(type, code, value);
  }

  private start(queue: ServedQueue): void {
    if (queue.name !== 'eventq') return;
    const isFirst = !this.isStarted;
    if (queue.isFresh) {
      // The first part of a report went to the driver that was there before: this one gets it all.
      this.sent = 0;
      this.driverState.forgetAxes();
    } else if (isFirst) {
      // The driver knows another process, and whatever that one had told.
      const { codes } = this.source.description;
      this.driverState.assumePressed(bitsOf(codes.get(EV.KEY)));
      // A script has no state but what it tells.
      if (this.source.isLive) {
        this.driverState.assumeOthers(bitsOf(codes.get(EV.SW)), bitsOf(codes.get(EV.ABS)));
      }
    }
    this.isStarted = true;
    this.needsSync = true;
    if (isFirst) this.source.start(this);
  }

  private stop(queue: ServedQueue): void {
    if (queue.name !== 'eventq') return;
    this.patience.clear();
    if (!this.source.isLive || this.held === null) return;
    this.drop(this.held);
    this.pump();
  }

  /** Forgets the reports that wait: the driver will be told of the state that they lead to. */
  private drop(held: EventList): void {
    // What it has of a report that went in parts is not taken back.
    this.driverState.applyAll(held, this.sent);
    for (const events of [held, this.waiting]) {
      if (events === null || events === this.changes) continue;
      this.sourceState.applyAll(events, events.count);
    }
    this.held = null;
    this.waiting = null;
    this.sent = 0;
  }

  report(events: EventList): boolean {
    if (this.queue === null && this.source.isLive) {
      this.sourceState.applyAll(events, events.count);
      return true;
    }
    if (this.held === null) {
      this.held = events;
      if (this.sendHeld()) return true;
    } else this.waiting = events;
    this.isSourceHeld = true;
    return false;
  }

  resync(fill: (state: InputState) => void): void {
    fill(this.sourceState);
    this.needsSync = true;
    this.pump();
  }

  /** Tells the driver what waits: what a loss has changed goes before what came after it. */
  private pump(): void {
    while (this.sendHeld()) {
      if (this.needsSync && this.queue !== null) {
        this.driverState.difference(this.sourceState, this.changes);
        this.needsSync = this.changes.count === REPORT_EVENTS_MAX;
        if (this.changes.count > 0) this.held = this.changes;
      }
      this.held ??= this.waiting;
      if (this.held === this.waiting) this.waiting = null;
      if (this.held !== null) continue;
      if (!this.isSourceHeld) return;
      this.isSourceHeld = false;
      this.source.resume();
      return;
    }
  }

  /** True when nothing is held any more. */
  private sendHeld(): boolean {
    const { held, queue } = this;
    if (held === null) return true;
    if (queue === null || !this.send(held, queue)) return false;
    this.held = null;
    this.sent = 0;
    this.driverState.applyAll(held, held.count);
    if (held !== this.changes) this.sourceState.applyAll(held, held.count);
    return true;
  }

  /**
   * All or none, as far as the driver's buffers can hold all. A longer report goes in parts, and
   * nothing comes between them: QEMU's queue has 4 entries.
   */
  private send(events: EventList, queue: ServedQueue): boolean {
    const isLong = events.count > queue.size || this.sent > 0;
    if (!isLong && queue.deliverEach(events.count, InputEvent.size, this.fill)) {
      this.sent = events.count;
    }
    if (isLong) this.sendParts(events, queue);
    if (this.sent > 0) this.patience.clear();
    else if (!this.patience.isSet) this.patience.set(WHOLE_MS_MAX);
    return this.sent === events.count;
  }

  private sendParts(events: EventList, queue: ServedQueue): void {
    while (this.sent < events.count && queue.deliverEach(1, InputEvent.size, this.fill)) {
      this.sent += 1;
    }
  }

  private readonly fill = (writer: ChainWriter, index: number): void => {
    const { types, codes, values } = this.held!;
    const at = this.sent + index;
    writer.writeU16(types[at]!);
    writer.writeU16(codes[at]!);
    writer.writeU32(values[at]! >>> 0);
  };

  private close(): void {
    this.patience.clear();
    this.source.close();
  }
}
