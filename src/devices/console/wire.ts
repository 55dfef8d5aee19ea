/** Wire facts of the console device: virtio 1.x specification, section 5.3. */
import { defineStruct } from '../../virtio/index.js';

/** Feature bits (section 5.3.3), as masks. */
export const CONSOLE_F = {
  SIZE: 1n << 0n,
  MULTIPORT: 1n << 1n,
  EMERG_WRITE: 1n << 2n,
} as const;

/** Events of control messages (section 5.3.6.2). */
export const EVENT = {
  /** Driver: it is ready for messages. */
  DEVICE_READY: 0,
  /** Device: there is a port. */
  DEVICE_ADD: 1,
  /** Device: a port is gone. */
  DEVICE_REMOVE: 2,
  /** Driver: a port is set up. */
  PORT_READY: 3,
  /** Device: a port is a console. */
  CONSOLE_PORT: 4,
  /** Device: a console has another size. */
  RESIZE: 5,
  /** Both: this end of a port was opened or closed. */
  PORT_OPEN: 6,
  /** Device: the name of a port. */
  PORT_NAME: 7,
} as const;

/** Config space (section 5.3.4). */
export const ConsoleConfig = defineStruct({
  cols: 'u16',
  rows: 'u16',
  maxNrPorts: 'u32',
  emergWr: 'u32',
});

/** A control message, in both control queues; a size or a name may follow. */
export const ControlMessage = defineStruct({ id: 'u32', event: 'u16', value: 'u16' });

/** What follows {@link ControlMessage} in RESIZE. */
export const ResizeMessage = defineStruct({ cols: 'u16', rows: 'u16' });

/** Most ports of a device: more queues than two for each, and two, no vhost-user peer serves. */
export const PORT_COUNT_MAX = 31;

/** Longest name of a port in bytes: a control message fits into any buffer that drivers supply. */
export const NAME_SIZE_MAX = 120;

/** Index of the receive queue of a port; its transmit queue is the next one. */
export const receiveIndex = (id: number): number => (id === 0 ? 0 : 2 + id * 2);

/** Index of the control receive queue; the control transmit queue is the next one. */
export const CONTROL_RECEIVE = 2;
export const CONTROL_TRANSMIT = 3;

/** The port that a receive or transmit queue belongs to. */
export const portOf = (queueIndex: number): number =>
  queueIndex < CONTROL_RECEIVE ? 0 : (queueIndex >> 1) - 1;
