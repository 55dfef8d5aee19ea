/**
 * Scripts of input: JSON objects, one a line.
 *
 *   {"device": {"name": "Panel", "keys": ["KEY_A"], "abs": {"ABS_X": {"max": 4095}}}}   first line
 *   {"key": "KEY_A"}                                            pressed and released
 *   {"key": "KEY_LEFTSHIFT", "value": 1, "after": 20}           20 ms after the line before
 *   {"rel": {"REL_X": 5}, "at": 1000}                           1 s after the start
 *   {"abs": {"ABS_X": 100}} {"switch": {"SW_LID": 1}}
 *   {"touch": {"slot": 0, "id": 1, "x": 10, "y": 20}}           id -1: it is lifted
 *   {"events": [["EV_MSC", "MSC_SCAN", 4], ["EV_KEY", "KEY_A", 1]]}
 *
 * Each line makes one report (`key` without a value: two), closed by SYN_REPORT.
 */
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import {
  type AxisRange,
  type EventList,
  type InputDescription,
  REPORT_EVENTS_MAX,
} from './backend.js';
import { codeOf, nameOf, PROPERTY } from './codes.js';
import { bitsOf, hasBit } from './config-codec.js';
import { describe, rangeOf } from './description.js';
import {
  ABS_MT_POSITION_X,
  ABS_MT_POSITION_Y,
  ABS_MT_SLOT,
  ABS_MT_TRACKING_ID,
  ABS_X,
  ABS_Y,
  BTN_TOUCH,
  EV,
  SYN,
} from './wire.js';

/** A line, ready to be played. */
export interface ScriptStep {
  /** When, in ms: from the start of the script, or from the step before; neither: at once. */
  readonly atMs: number | null;
  readonly afterMs: number;
  /** Events, three numbers each; every report ends with SYN_REPORT. */
  readonly events: readonly number[];
}

const INT_MAX = 2 ** 31 - 1;
const number = v.pipe(v.number(), v.integer(), v.minValue(-INT_MAX - 1), v.maxValue(INT_MAX));
const word = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff));
const time = v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(INT_MAX)));
const code = v.union([v.string(), word]);
const values = v.record(v.string(), number);

const TouchSchema = v.strictObject({
  slot: v.optional(v.pipe(number, v.minValue(0)), 0),
  id: v.optional(number),
  x: v.optional(number),
  y: v.optional(number),
});

const LineSchema = v.strictObject({
  at: time,
  after: time,
  key: v.optional(v.union([code, v.array(code)])),
  value: v.optional(v.pipe(number, v.minValue(0), v.maxValue(2))),
  rel: v.optional(values),
  abs: v.optional(values),
  switch: v.optional(values),
  touch: v.optional(v.union([TouchSchema, v.array(TouchSchema)])),
  events: v.optional(v.array(v.tuple([code, code, number]))),
});
type Line = v.InferOutput<typeof LineSchema>;

const EVENT_LINE_KEYS: ReadonlySet<string> = new Set(['events', 'at', 'after']);
const isTime = (value: unknown): boolean =>
  value === undefined || (typeof value === 'number' && value >= 0 && value <= INT_MAX);
const isCode = (value: unknown): boolean =>
  typeof value === 'string' ||
  (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0xffff);
const isEvent = (value: unknown): boolean =>
  Array.isArray(value) &&
  value.length === 3 &&
  isCode(value[0]) &&
  isCode(value[1]) &&
  typeof value[2] === 'number' &&
  (value[2] | 0) === value[2];

/**
 * True for a good line with nothing but events, as programs write them by the thousand: the schema
 * takes as long as all else together. It has the last word on any other line.
 */
function isEventLine(line: Record<string, unknown>): line is Line {
  for (const key in line) if (!EVENT_LINE_KEYS.has(key)) return false;
  const { events, at, after } = line;
  return Array.isArray(events) && events.every(isEvent) && isTime(at) && isTime(after);
}

const AxisSchema = v.strictObject({
  min: v.optional(number, 0),
  max: number,
  fuzz: v.optional(number, 0),
  flat: v.optional(number, 0),
  res: v.optional(number, 0),
});

const DeviceSchema = v.strictObject({
  name: v.optional(v.string(), 'Scripted device'),
  serial: v.optional(v.string()),
  bustype: v.optional(word, 6),
  vendor: v.optional(word, 0),
  product: v.optional(word, 0),
  version: v.optional(word, 1),
  properties: v.optional(v.array(code), []),
  keys: v.optional(v.array(code), []),
  rel: v.optional(v.array(code), []),
  abs: v.optional(v.record(v.string(), AxisSchema), {}),
  msc: v.optional(v.array(code), []),
  switches: v.optional(v.array(code), []),
  leds: v.optional(v.array(code), []),
  sounds: v.optional(v.array(code), []),
  repeat: v.optional(v.boolean(), false),
});

const TYPE_NAMES: Readonly<Record<string, number>> = Object.fromEntries(
  Object.entries(EV).map(([name, type]) => [`EV_${name}`, type]),
);

/** What no event has as its type. */
const NO_TYPE = 0xffff;

const wrong = (message: string): VloError => new VloError('VLO_OPTION_INVALID', message);

/** Any JSON object of a line; null for an empty one. @throws VloError VLO_OPTION_INVALID */
export function parseLine(text: string): Record<string, unknown> | null {
  if (text.trim() === '') return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw wrong(`a JSON object is needed, not ${text.trim().slice(0, 60)}`);
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw wrong(`a JSON object is needed, not ${text.trim().slice(0, 60)}`);
}

function parse<T extends v.GenericSchema>(schema: T, value: unknown): v.InferOutput<T> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw wrong(`'${v.getDotPath(issue) ?? ''}': ${issue.message}`);
}

function codeFor(type: number, name: unknown): number {
  const found = codeOf(type, name);
  if (found === null) throw wrong(`there is no code '${name}' here`);
  return found;
}

/** The device that the first line of a script tells of. @throws VloError VLO_OPTION_INVALID */
export function describeDevice(value: unknown): InputDescription {
  const given = parse(DeviceSchema, value);
  const list = (type: number, names: readonly (string | number)[]): number[] =>
    names.map((name) => codeFor(type, name));
  const { name, serial, bustype, vendor, product, version, abs } = given;
  return describe({
    name,
    ...(serial === undefined ? {} : { serial }),
    ids: { bustype, vendor, product, version },
    properties: list(PROPERTY, given.properties),
    codes: {
      [EV.KEY]: list(EV.KEY, given.keys),
      [EV.REL]: list(EV.REL, given.rel),
      [EV.MSC]: list(EV.MSC, given.msc),
      [EV.SW]: list(EV.SW, given.switches),
      [EV.LED]: list(EV.LED, given.leds),
      [EV.SND]: list(EV.SND, given.sounds),
      [EV.REP]: given.repeat ? [0, 1] : [],
    },
    axes: new Map(
      Object.entries(abs).map(([axis, { min, max, ...more }]): [number, AxisRange] => [
        codeFor(EV.ABS, axis),
        rangeOf(min, max, more),
      ]),
    ),
  });
}

/** Turns lines into steps, for one device. */
export class ScriptCompiler {
  private readonly description: InputDescription;
  /** Contacts that are there, by slot. */
  private readonly contacts = new Set<number>();
  private events: number[] = [];

  constructor(description: InputDescription) {
    this.description = description;
  }

  /** @throws VloError VLO_OPTION_INVALID */
  compile(value: Record<string, unknown>): ScriptStep {
    const line = isEventLine(value) ? value : parse(LineSchema, value);
    this.events = [];
    if (line.value !== undefined && line.key === undefined) throw wrong("'value' needs a 'key'");
    this.addNamed(EV.REL, line.rel);
    this.addNamed(EV.ABS, line.abs);
    this.addNamed(EV.SW, line.switch);
    if (line.touch !== undefined) for (const touch of [line.touch].flat()) this.addTouch(touch);
    if (line.events !== undefined) for (const event of line.events) this.addRaw(...event);
    this.addKeys(line);
    this.end();
    const { at: atMs = null, after: afterMs = 0 } = line;
    return { atMs, afterMs, events: this.events };
  }

  private add(type: number, code: number, value: number): void {
    if (type !== EV.SYN && !hasBit(this.description.codes.get(type), code)) {
      throw wrong(`the device has no event of type ${type} and code ${code}`);
    }
    if (this.events.length >= REPORT_EVENTS_MAX * 3) throw wrong('too many events');
    this.events.push(type, code, value);
  }

  /** Closes a report that has events. */
  private end(): void {
    const { events } = this;
    const isClosed = events.at(-3) === EV.SYN && events.at(-2) === SYN.REPORT;
    if (events.length > 0 && !isClosed) this.add(EV.SYN, SYN.REPORT, 0);
  }

  private addNamed(type: number, given: Readonly<Record<string, number>> | undefined): void {
    if (given === undefined) return;
    for (const [name, value] of Object.entries(given)) this.add(type, codeFor(type, name), value);
  }

  private addKeys({ key, value }: Line): void {
    if (key === undefined) return;
    const keys = [key].flat().map((name) => codeFor(EV.KEY, name));
    for (const code of keys) this.add(EV.KEY, code, value ?? 1);
    if (value !== undefined || keys.length === 0) return;
    this.end();
    for (const code of keys.reverse()) this.add(EV.KEY, code, 0);
  }

  private addTouch({ slot, id, x, y }: v.InferOutput<typeof TouchSchema>): void {
    const before = this.contacts.size;
    const slotMax = this.description.axes.get(ABS_MT_SLOT)?.max ?? 0;
    if (slot > slotMax) throw wrong(`'touch.slot' is ${slot}, and the device has up to ${slotMax}`);
    this.add(EV.ABS, ABS_MT_SLOT, slot);
    if (id !== undefined) {
      this.add(EV.ABS, ABS_MT_TRACKING_ID, id);
      if (id < 0) this.contacts.delete(slot);
      else this.contacts.add(slot);
    }
    if (x !== undefined) this.add(EV.ABS, ABS_MT_POSITION_X, x);
    if (y !== undefined) this.add(EV.ABS, ABS_MT_POSITION_Y, y);
    // What programs see that know of one contact only.
    const has = (type: number, code: number): boolean =>
      hasBit(this.description.codes.get(type), code);
    const [first] = this.contacts;
    if (slot === (first ?? slot)) {
      if (x !== undefined && has(EV.ABS, ABS_X)) this.add(EV.ABS, ABS_X, x);
      if (y !== undefined && has(EV.ABS, ABS_Y)) this.add(EV.ABS, ABS_Y, y);
    }
    const isTouched = this.contacts.size > 0;
    if (isTouched !== before > 0 && has(EV.KEY, BTN_TOUCH)) {
      this.add(EV.KEY, BTN_TOUCH, isTouched ? 1 : 0);
    }
  }

  private addRaw(typeName: string | number, name: string | number, value: number): void {
    const type = typeof typeName === 'number' ? typeName : (TYPE_NAMES[typeName] ?? NO_TYPE);
    if (type === EV.SYN) {
      const isReport = name === SYN.REPORT || name === 'SYN_REPORT';
      if (!isReport) throw wrong('of EV_SYN only SYN_REPORT is for a script');
      this.add(EV.SYN, SYN.REPORT, 0);
      return;
    }
    this.add(type, codeFor(type, name), value);
  }
}

/** The first line of a script for a device like this one. */
export function deviceLine(of: InputDescription): string {
  const names = (type: number): string[] => bitsOf(of.codes.get(type)).map((c) => nameOf(type, c));
  const device = {
    name: of.name,
    serial: of.serial,
    ...of.ids,
    properties: bitsOf(of.properties),
    keys: names(EV.KEY),
    rel: names(EV.REL),
    abs: Object.fromEntries([...of.axes].map(([axis, range]) => [nameOf(EV.ABS, axis), range])),
    msc: names(EV.MSC),
    switches: names(EV.SW),
    leds: names(EV.LED),
    sounds: names(EV.SND),
    repeat: of.codes.has(EV.REP),
  };
  return `${JSON.stringify({ device })}\n`;
}

const typeNames = new Map(Object.entries(TYPE_NAMES).map(([name, type]) => [type, name]));

/** A report as a line of a script. */
export function reportLine({ types, codes, values, count }: EventList): string {
  const events: unknown[] = [];
  for (let i = 0; i < count; i += 1) {
    const [type, code] = [types[i]!, codes[i]!];
    if (type === EV.SYN) continue;
    events.push([typeNames.get(type) ?? type, nameOf(type, code), values[i]!]);
  }
  return `${JSON.stringify({ events })}\n`;
}
