/**
 * What is pressed, switched and touched: the sum of all events. Of two such states (the source's
 * and the driver's) the difference can be told, when events were lost between them.
 */
import type { EventList, InputDescription, InputState } from './backend.js';
import {
  ABS_MT_FIRST,
  ABS_MT_LAST,
  ABS_MT_SLOT,
  ABS_MT_TRACKING_ID,
  EV,
  KEY_REPEATED,
  SYN,
} from './wire.js';

const KEY_COUNT = 0x300;
const SWITCH_COUNT = 0x20;
const AXIS_COUNT = 0x40;
const CONTACT_AXES = ABS_MT_LAST - ABS_MT_FIRST + 1;
const ID_AT = ABS_MT_TRACKING_ID - ABS_MT_FIRST;
/** The tracking id of a contact that is not there. */
const NO_CONTACT = -1;
/** Values that no switch and no axis has. */
const UNKNOWN_SWITCH = 0xff;
const UNKNOWN_AXIS = -(2 ** 31);
/** The most contacts that are kept apart. */
const SLOTS_MAX = 64;

/** Contacts that a touch device keeps apart; 0 for one that does not. */
export const slotCountOf = ({ axes }: InputDescription): number => {
  const slots = axes.get(ABS_MT_SLOT);
  return slots === undefined ? 0 : Math.min(Math.max(slots.max, 0), SLOTS_MAX - 1) + 1;
};

export class StateSum implements InputState {
  private readonly keys = new Uint8Array(KEY_COUNT);
  private readonly switches = new Uint8Array(SWITCH_COUNT);
  private readonly axes = new Int32Array(AXIS_COUNT);
  /** The values of each contact's axes, one contact after the other. */
  private readonly contacts: Int32Array;
  private readonly slotCount: number;
  private slot = 0;

  constructor(slotCount: number) {
    this.slotCount = slotCount;
    this.contacts = new Int32Array(slotCount * CONTACT_AXES);
    this.clearContacts();
  }

  apply(type: number, code: number, value: number): void {
    if (type === EV.KEY) {
      if (value !== KEY_REPEATED) this.keys[code] = value === 0 ? 0 : 1;
    } else if (type === EV.SW) this.switches[code] = value;
    else if (type === EV.ABS) this.applyAxis(code, value);
  }

  private applyAxis(code: number, value: number): void {
    if (this.slotCount === 0 || code < ABS_MT_SLOT || code > ABS_MT_LAST) this.axes[code] = value;
    else if (code === ABS_MT_SLOT) this.slot = Math.min(Math.max(value, 0), this.slotCount - 1);
    else this.contacts[this.slot * CONTACT_AXES + code - ABS_MT_FIRST] = value;
  }

  /** As far as the first `count` events say. */
  applyAll({ types, codes, values }: EventList, count: number): void {
    for (let i = 0; i < count; i += 1) this.apply(types[i]!, codes[i]!, values[i]!);
  }

  release(): void {
    this.keys.fill(0);
    this.clearContacts();
  }

  private clearContacts(): void {
    for (let at = ID_AT; at < this.contacts.length; at += CONTACT_AXES) {
      this.contacts[at] = NO_CONTACT;
    }
  }

  /** A new driver knows nothing of switches, axes and contacts; keys it takes for released. */
  forgetAxes(): void {
    this.switches.fill(0);
    this.axes.fill(0);
    this.contacts.fill(0);
    this.clearContacts();
    this.slot = 0;
  }

  /**
   * Nobody knows what the driver was told by another process: any of these keys may be pressed, and
   * every contact may be there.
   */
  assumePressed(keys: readonly number[]): void {
    for (const key of keys) this.keys[key] = 1;
    for (let at = ID_AT; at < this.contacts.length; at += CONTACT_AXES) this.contacts[at] = 0;
  }

  /** The same of these switches and axes: each will be told. */
  assumeOthers(switches: readonly number[], axes: readonly number[]): void {
    for (const code of switches) this.switches[code] = UNKNOWN_SWITCH;
    for (const code of axes) {
      const isContact = this.slotCount > 0 && code >= ABS_MT_SLOT && code <= ABS_MT_LAST;
      if (!isContact) this.axes[code] = UNKNOWN_AXIS;
    }
  }

  /**
   * Adds the events that make `other` out of this one, with the SYN_REPORT at their end; none when
   * they are the same. What does not fit is left for the next time.
   */
  difference(other: StateSum, events: EventList): void {
    events.count = 0;
    addDifferent(events, EV.KEY, this.keys, other.keys);
    addDifferent(events, EV.SW, this.switches, other.switches);
    addDifferent(events, EV.ABS, this.axes, other.axes);
    this.addContacts(events, other);
    if (events.count > 0) events.add(EV.SYN, SYN.REPORT, 0);
  }

  private addContacts(events: EventList, other: StateSum): void {
    let { slot } = this;
    for (let at = 0; at < this.slotCount; at += 1) {
      const start = at * CONTACT_AXES;
      for (let axis = 0; axis < CONTACT_AXES; axis += 1) {
        const value = other.contacts[start + axis]!;
        if (value === this.contacts[start + axis]) continue;
        // Nobody wants to know where a contact is that is not there.
        if (axis !== ID_AT && other.contacts[start + ID_AT] === NO_CONTACT) continue;
        if (slot !== at) add(events, EV.ABS, ABS_MT_SLOT, at);
        slot = at;
        add(events, EV.ABS, ABS_MT_FIRST + axis, value);
      }
    }
    if (slot !== other.slot) add(events, EV.ABS, ABS_MT_SLOT, other.slot);
  }
}

/** Leaves room for the end of the report. */
function add(events: EventList, type: number, code: number, value: number): void {
  if (events.count < events.types.length - 1) events.add(type, code, value);
}

type Values = Uint8Array | Int32Array;

function addDifferent(events: EventList, type: number, from: Values, to: Values): void {
  for (let code = 0; code < to.length; code += 1) {
    if (from[code] !== to[code]) add(events, type, code, to[code]!);
  }
}
