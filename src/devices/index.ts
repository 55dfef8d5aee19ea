/** All device types of this package, by name. */

export { BlkDriver, type BlkDriverOptions, type RequestOptions } from './blk/driver.js';
export {
  BlkSlots,
  type SlotHandler,
  STATUS_LOST,
  STATUS_MISSING,
} from './blk/driver-slots.js';
export { blk } from './blk/index.js';
export {
  type CanBus,
  CanFrame,
  type CanListener,
  SEND_DONE,
} from './can/backend.js';
export { SocketCanBus } from './can/backend-socketcan.js';
export { CanDriver, type CanDriverOptions, type SendResult } from './can/driver.js';
export { can } from './can/index.js';
export { DEVICES } from './catalog.js';
export { PtyEnd } from './console/backend-pty.js';
export {
  ConsoleDriver,
  type ConsolePort,
  type ConsolePortEvents,
} from './console/driver.js';
export { consoleDevice } from './console/index.js';
export { GpioDriver } from './gpio/driver.js';
export { gpio } from './gpio/index.js';
export {
  type EndWatch,
  LineCommands,
  type LineHost,
  type LineState,
  parseCommand,
} from './gpio/line-commands.js';
export { LineSocket, sayToLines } from './gpio/line-socket.js';
export { DIRECTION, TRIGGER } from './gpio/wire.js';
export type { EventList, InputDescription } from './input/backend.js';
export { bitsOf as bitsOfInput } from './input/config-codec.js';
export { InputDriver } from './input/driver.js';
export { input } from './input/index.js';
export { deviceLine, reportLine } from './input/script.js';
export { RngDriver } from './rng/driver.js';
export { rng } from './rng/index.js';
export { SoundDriver, type SoundDriverOptions } from './sound/driver.js';
export { SoundStream, type StreamInfo, type StreamParams } from './sound/driver-stream.js';
export { sound } from './sound/index.js';
