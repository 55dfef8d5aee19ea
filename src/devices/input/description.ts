/** What an input device is: how back ends say it, and known kinds. */
import type { AxisRange, InputDescription } from './backend.js';
import { codeOf, codesMatching, PROPERTY } from './codes.js';
import { bitmapOf } from './config-codec.js';
import {
  ABS_MT_POSITION_X,
  ABS_MT_POSITION_Y,
  ABS_MT_SLOT,
  ABS_MT_TRACKING_ID,
  ABS_X,
  ABS_Y,
  BTN_TOUCH,
  EV,
} from './wire.js';

const BUS_VIRTUAL = 6;

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
