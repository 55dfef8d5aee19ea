/** Wire facts of the input device: virtio 1.x specification, section 5.8, and Linux's evdev. */
import { defineStruct } from '../../virtio/index.js';

/** An event, in both queues (section 5.8.6). */
export const InputEvent = defineStruct({ type: 'u16', code: 'u16', value: 'u32' });

/** The config space (section 5.8.4): the driver writes `select` and `subsel`, and reads the rest. */
export const InputConfig = defineStruct({
  select: 'u8',
  subsel: 'u8',
  size: 'u8',
  reserved: { bytes: 5 },
  answer: { bytes: 128 },
});

/** Bytes that an answer has room for. */
export const ANSWER_SIZE_MAX = 128;

/** Values of `select`. */
export const SELECT = {
  UNSET: 0x00,
  ID_NAME: 0x01,
  ID_SERIAL: 0x02,
  ID_DEVIDS: 0x03,
  PROP_BITS: 0x10,
  EV_BITS: 0x11,
  ABS_INFO: 0x12,
} as const;

/** What ID_DEVIDS answers. */
export const InputIds = defineStruct({
  bustype: 'u16',
  vendor: 'u16',
  product: 'u16',
  version: 'u16',
});

/** What ABS_INFO answers; the numbers are signed. */
export const InputAbs = defineStruct({
  min: 'u32',
  max: 'u32',
  fuzz: 'u32',
  flat: 'u32',
  res: 'u32',
});

/** Types of events, as Linux numbers them. */
export const EV = {
  SYN: 0x00,
  KEY: 0x01,
  REL: 0x02,
  ABS: 0x03,
  MSC: 0x04,
  SW: 0x05,
  LED: 0x11,
  SND: 0x12,
  REP: 0x14,
} as const;

/** Codes of EV_SYN. */
export const SYN = { REPORT: 0, DROPPED: 3 } as const;

/** Codes that the device itself has to do with. */
export const ABS_X = 0x00;
export const ABS_Y = 0x01;
export const BTN_TOUCH = 0x14a;
export const ABS_MT_SLOT = 0x2f;
/** First and last of the axes that each contact of a touch screen has its own value of. */
export const ABS_MT_FIRST = 0x30;
export const ABS_MT_LAST = 0x3d;
export const ABS_MT_POSITION_X = 0x35;
export const ABS_MT_POSITION_Y = 0x36;
export const ABS_MT_TRACKING_ID = 0x39;
/** A key that repeats because it is held. */
export const KEY_REPEATED = 2;
