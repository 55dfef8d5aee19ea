/** Frames as they lie in requests and in the driver's buffers: a header, then the data. */
import type { MessageFifo } from '../../kit/index.js';
import type { ChainReader } from '../../virtio/index.js';
import type { CanFrame } from './backend.js';
import {
  CAN_FLAG,
  CAN_FLAGS_KNOWN,
  CAN_MESSAGE,
  CanHeader,
  DATA_SIZE_CLASSIC,
  DATA_SIZE_FD,
  ID_MAX_EXTENDED,
  ID_MAX_STANDARD,
} from './wire.js';

const AT = CanHeader.offsets;

/** Reads a frame that is to be sent; false when it is none, or one that no bus knows. */
export function readFrame(reader: ChainReader, frame: CanFrame): boolean {
  if (reader.remaining < CanHeader.size) return false;
  const type = reader.readU16();
  const length = reader.readU16();
  reader.readU32(); // Reserved for the length code of classic CAN, and for CAN XL.
  const flags = reader.readU32();
  const id = reader.readU32();
  if (type !== CAN_MESSAGE.TX || (flags & ~CAN_FLAGS_KNOWN) !== 0) return false;
  const idMax = (flags & CAN_FLAG.EXTENDED) !== 0 ? ID_MAX_EXTENDED : ID_MAX_STANDARD;
  const lengthMax = (flags & CAN_FLAG.FD) !== 0 ? DATA_SIZE_FD : DATA_SIZE_CLASSIC;
  if (id > idMax || length > lengthMax) return false;
  const isRemote = (flags & CAN_FLAG.RTR) !== 0;
  if (!isRemote && reader.remaining < length) return false;
  frame.id = id;
  frame.flags = flags;
  frame.length = length;
  // What lies behind the data, or is left of the last frame, must not reach the bus.
  const dataSize = isRemote ? 0 : length;
  for (let i = 0; i < dataSize; i += 1) frame.data[i] = reader.readU8();
  frame.data.fill(0, dataSize);
  return true;
}

/** Adds a frame that was received; false when it was lost. */
export function pushFrame(fifo: MessageFifo, { id, flags, length, data }: CanFrame): boolean {
  // Linux's driver wants as many bytes as `length` says, of a remote request too.
  const at = fifo.push(CanHeader.size + length);
  if (at < 0) return false;
  const { view, bytes } = fifo;
  bytes.fill(0, at, at + CanHeader.size + length);
  view.setUint16(at + AT.messageType, CAN_MESSAGE.RX, true);
  view.setUint16(at + AT.length, length, true);
  view.setUint32(at + AT.flags, flags, true);
  view.setUint32(at + AT.id, id, true);
  const start = at + CanHeader.size;
  // A remote request has a length and no data.
  const dataSize = (flags & CAN_FLAG.RTR) !== 0 ? 0 : length;
  for (let i = 0; i < dataSize; i += 1) bytes[start + i] = data[i]!;
  return true;
}
