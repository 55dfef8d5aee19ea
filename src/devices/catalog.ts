/** All device types of this package, in the order in which help shows them. */
import type { AnyDeviceDefinition } from '../kit/index.js';
import { blk } from './blk/index.js';
import { can } from './can/index.js';
import { consoleDevice } from './console/index.js';
import { gpio } from './gpio/index.js';
import { input } from './input/index.js';
import { rng } from './rng/index.js';
import { sound } from './sound/index.js';

export const DEVICES: readonly AnyDeviceDefinition[] = [
  blk,
  rng,
  consoleDevice,
  gpio,
  input,
  can,
  sound,
];
