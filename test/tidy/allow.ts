/** What the tidy rules let through, each with the reason. An entry that is needed no more fails. */
import type { AllowList } from './repo.js';

/** Files of more than 500 lines. */
export const longFiles: AllowList = {};

/** Files with a function of more than 70 lines. */
export const longFunctions: AllowList = {};

/** Files in virtio/, kit/ and devices/ that use 64-bit BigInt, off the path of requests. */
export const bigInt: AllowList = {};

/** Devices of more logic than others. */
export const largeDevices: AllowList = {
  sound: 'eight control requests for two kinds of things, and a clock that stands in for hardware',
};
