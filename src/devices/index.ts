/** All device types of this package, by name. */

export { BlkDriver, type BlkDriverOptions, type RequestOptions } from './blk/driver.js';
export {
  BlkSlots,
  type SlotHandler,
  STATUS_LOST,
  STATUS_MISSING,
} from './blk/driver-slots.js';
export { blk } from './blk/index.js';
export { DEVICES } from './catalog.js';
export type { EventList, InputDescription } from './input/backend.js';
export { bitsOf as bitsOfInput } from './input/description.js';
export { InputDriver } from './input/driver.js';
export { input } from './input/index.js';
export { deviceLine, reportLine } from './input/script.js';
export { RngDriver } from './rng/driver.js';
export { rng } from './rng/index.js';
