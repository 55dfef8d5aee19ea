/** Wire facts of the CAN device: virtio 1.4 specification, section "CAN Device". */
import { defineStruct } from '../../virtio/index.js';

/** Feature bits, as masks. */
export const CAN_F = {
  CAN_CLASSIC: 1n << 0n,
  CAN_FD: 1n << 1n,
  /** Needs {@link CAN_F.CAN_CLASSIC}. */
  RTR_FRAMES: 1n << 2n,
  /** A request is used when its frame is on the bus, not when it is merely on its way. */
  LATE_TX_ACK: 1n << 3n,
} as const;

/** Types of messages. */
export const CAN_MESSAGE = {
  TX: 0x0001,
  RX: 0x0101,
  SET_CTRL_MODE_START: 0x0201,
  SET_CTRL_MODE_STOP: 0x0202,
} as const;

/** Results of transmissions and control messages. */
export const CAN_RESULT = { OK: 0, NOT_OK: 1 } as const;

/** Flags of a frame; all other bits are undefined. */
export const CAN_FLAG = { RTR: 0x2000, FD: 0x4000, EXTENDED: 0x8000 } as const;
export const CAN_FLAGS_KNOWN = CAN_FLAG.RTR | CAN_FLAG.FD | CAN_FLAG.EXTENDED;

/** Largest identifiers: 11 and 29 bits. */
export const ID_MAX_STANDARD = 0x7ff;
export const ID_MAX_EXTENDED = 0x1fffffff;

/** Most bytes of data. */
export const DATA_SIZE_CLASSIC = 8;
export const DATA_SIZE_FD = 64;

/** Bit of `status`: the controller has left the bus by itself. */
export const STATUS_BUS_OFF = 1;

/** Config space. */
export const CanConfig = defineStruct({ status: 'u16' });

/** What comes before the data of a frame, sent or received. */
export const CanHeader = defineStruct({
  messageType: 'u16',
  length: 'u16',
  reservedClassicDlc: 'u8',
  padding: 'u8',
  reservedXlPriority: 'u16',
  flags: 'u32',
  id: 'u32',
});

/** Size of the largest message that carries a frame. */
export const FRAME_MESSAGE_SIZE_MAX = CanHeader.size + DATA_SIZE_FD;

/** A message of the control queue; a result of one byte answers it. */
export const CanControl = defineStruct({ messageType: 'u16' });
