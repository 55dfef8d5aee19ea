/** What an input device says of itself: bitmaps, answers to the driver, and known kinds. */
import type { AxisRange, InputDescription } from './backend.js';
import { codeOf, codesMatching, PROPERTY } from './codes.js';
import {
  ABS_MT_POSITION_X,
  ABS_MT_POSITION_Y,
  ABS_MT_SLOT,
  ABS_MT_TRACKING_ID,
  ABS_X,
  ABS_Y,
  ANSWER_SIZE_MAX,
  BTN_TOUCH,
  EV,
  InputAbs,
  InputIds,
  SELECT,
} from './wire.js';

/** Longest text in bytes: Linux's driver keeps 64, and does not end a longer one. */
const TEXT_SIZE_MAX = 63;
const NOTHING = new Uint8Array(0);
const BUS_VIRTUAL = 6;

/** A bitmap with these bits set, no longer than it has to be. */
export function bitmapOf(bits: readonly number[]): Uint8Array {
  if (bits.length === 0) return NOTHING;
  const bytes = new Uint8Array((Math.max(...bits) >> 3) + 1);
  for (const bit of bits) bytes[bit >> 3]! |= 1 << (bit & 7);
  return bytes;
}

/** A bitmap without the zeros at its end. */
export function trimBitmap(bytes: Uint8Array): Uint8Array {
  let size = Math.min(bytes.length, ANSWER_SIZE_MAX);
  while (size > 0 && bytes[size - 1] === 0) size -= 1;
  return bytes.slice(0, size);
}

/** True when a bit is set. */
export const hasBit = (bytes: Uint8Array | undefined, bit: number): boolean =>
  bytes !== undefined && ((bytes[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0;

/** The bits that are set. */
export const bitsOf = (bytes: Uint8Array = NOTHING): number[] =>
  Array.from({ length: bytes.length * 8 }, (_, bit) => bit).filter((bit) => hasBit(bytes, bit));

function textOf(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  let size = Math.min(bytes.length, TEXT_SIZE_MAX);
  // Not in the middle of a character.
  while (size > 0 && size < bytes.length && (bytes[size]! & 0xc0) === 0x80) size -= 1;
  return bytes.subarray(0, size);
}

/** What the driver gets for a selection; empty for one that there is nothing for. */
export function answerTo(of: InputDescription, select: number, subsel: number): Uint8Array {
  if (select === SELECT.EV_BITS) return of.codes.get(subsel) ?? NOTHING;
  if (select === SELECT.ABS_INFO) {
    const axis = of.axes.get(subsel);
    return axis === undefined ? NOTHING : encodeAxis(axis);
  }
  if (subsel !== 0) return NOTHING;
  if (select === SELECT.ID_NAME) return textOf(of.name);
  if (select === SELECT.ID_SERIAL) return textOf(of.serial);
  if (select === SELECT.ID_DEVIDS) return InputIds.encode({ ...of.ids });
  return select === SELECT.PROP_BITS ? of.properties : NOTHING;
}

function encodeAxis({ min, max, fuzz, flat, res }: AxisRange): Uint8Array {
  const unsigned = (value: number): number => value >>> 0;
  return InputAbs.encode({
    min: unsigned(min),
    max: unsigned(max),
    fuzz: unsigned(fuzz),
    flat: unsigned(flat),
    res: unsigned(res),
  });
}

/** Contacts that a touch device keeps apart; 0 for one that does not. */
export const slotCountOf = ({ axes }: InputDescription): number => {
  const slots = axes.get(ABS_MT_SLOT);
  return slots === undefined ? 0 : Math.min(Math.max(slots.max, 0), SLOTS_MAX - 1) + 1;
};
const SLOTS_MAX = 64;

/** A range of an axis; what is left out is 0. */
export const rangeOf = (min: number, max: number, more: Partial<AxisRange> = {}): AxisRange => ({
  ...{ min, max, fuzz: 0, flat: 0, res: 0 },
  ...more,
});

/** What {@link describe} makes a description of. */
export interface DescriptionParts {
  readonly name: string;
  readonly serial?: string;
  readonly ids?: InputDescription['ids'];
  readonly properties?: readonly number[];
  readonly codes: Readonly<Record<number, readonly number[]>>;
  readonly axes?: ReadonlyMap<number, AxisRange>;
}

/** A description, with the axes among its codes. */
export function describe(parts: DescriptionParts): InputDescription {
  const { axes = new Map<number, AxisRange>() } = parts;
  const codes = new Map<number, Uint8Array>();
  const all: Record<number, readonly number[]> = { ...parts.codes, [EV.ABS]: [...axes.keys()] };
  for (const [type, bits] of Object.entries(all)) {
    if (bits.length > 0) codes.set(Number(type), bitmapOf(bits));
  }
  return {
    name: parts.name,
    serial: parts.serial ?? '',
    ids: parts.ids ?? { bustype: BUS_VIRTUAL, vendor: 0, product: 0, version: 1 },
    properties: bitmapOf(parts.properties ?? []),
    codes,
    axes,
  };
}

const codes = (type: number, names: string): number[] =>
  names.split(' ').map((name) => codeOf(type, name)!);

const BUTTONS = codes(EV.KEY, 'BTN_LEFT BTN_RIGHT BTN_MIDDLE BTN_SIDE BTN_EXTRA');
const WHEELS = codes(EV.REL, 'REL_WHEEL REL_HWHEEL');
const AXIS = rangeOf(0, 32767);
const CONTACT_ID_MAX = 65535;

/** Devices that a script is, unless it says something else. */
export const PROFILES = {
  keyboard: describe({
    name: 'Virtual keyboard',
    codes: {
      [EV.KEY]: codesMatching(EV.KEY, /^KEY_/).filter((code) => code < 0x100),
      [EV.LED]: codes(EV.LED, 'LED_NUML LED_CAPSL LED_SCROLLL'),
      [EV.REP]: codes(EV.REP, 'REP_DELAY REP_PERIOD'),
    },
  }),
  mouse: describe({
    name: 'Virtual mouse',
    codes: { [EV.KEY]: BUTTONS, [EV.REL]: [...codes(EV.REL, 'REL_X REL_Y'), ...WHEELS] },
  }),
  tablet: describe({
    name: 'Virtual tablet',
    codes: { [EV.KEY]: BUTTONS, [EV.REL]: WHEELS },
    axes: new Map([
      [ABS_X, AXIS],
      [ABS_Y, AXIS],
    ]),
  }),
  touchscreen: describe({
    name: 'Virtual touch screen',
    properties: [codeOf(PROPERTY, 'INPUT_PROP_DIRECT')!],
    codes: { [EV.KEY]: [BTN_TOUCH] },
    axes: new Map([
      [ABS_X, AXIS],
      [ABS_Y, AXIS],
      [ABS_MT_SLOT, rangeOf(0, 9)],
      [ABS_MT_POSITION_X, AXIS],
      [ABS_MT_POSITION_Y, AXIS],
      [ABS_MT_TRACKING_ID, rangeOf(0, CONTACT_ID_MAX)],
    ]),
  }),
} as const satisfies Record<string, InputDescription>;

export type ProfileName = keyof typeof PROFILES;
export const PROFILE_NAMES = Object.keys(PROFILES) as [ProfileName, ...ProfileName[]];
