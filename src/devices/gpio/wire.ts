/** Wire facts of the GPIO device: virtio 1.3 specification, section 5.16. */
import { defineStruct } from '../../virtio/index.js';

/** Feature bits (section 5.16.3), as masks. */
export const GPIO_F = { IRQ: 1n << 0n } as const;

/** Types of requests (section 5.16.6). */
export const GPIO_MSG = {
  GET_LINE_NAMES: 1,
  GET_DIRECTION: 2,
  SET_DIRECTION: 3,
  GET_VALUE: 4,
  SET_VALUE: 5,
  SET_IRQ_TYPE: 6,
} as const;

/** Status of a response. */
export const GPIO_STATUS = { OK: 0, ERR: 1 } as const;

/** Directions of a line. */
export const DIRECTION = { NONE: 0, OUT: 1, IN: 2 } as const;

/** What triggers an interrupt; BOTH is RISING and FALLING. */
export const TRIGGER = { NONE: 0, RISING: 1, FALLING: 2, BOTH: 3, HIGH: 4, LOW: 8 } as const;

/** Status of a returned buffer of the event queue (section 5.16.7). */
export const IRQ_STATUS = { INVALID: 0, VALID: 1 } as const;

/** Config space (section 5.16.4). */
export const GpioConfig = defineStruct({
  ngpio: 'u16',
  padding: { bytes: 2 },
  gpioNamesSize: 'u32',
});

/** Every request of requestq, device-readable. */
export const GpioRequest = defineStruct({ type: 'u16', gpio: 'u16', value: 'u32' });

/** The answer to all of them but GET_LINE_NAMES, whose value is the block of names. */
export const GpioResponse = defineStruct({ status: 'u8', value: 'u8' });

/** A buffer of eventq: the readable part says for which line, the writable part is a status. */
export const GpioIrqRequest = defineStruct({ gpio: 'u16' });

/** Size of the writable part of a buffer of eventq. */
export const IRQ_RESPONSE_SIZE = 1;
