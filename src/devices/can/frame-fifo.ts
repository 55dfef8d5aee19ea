/**
 * Received frames that wait for a buffer of the driver, as messages that the driver will read:
 *
 *   slots   ┌─────┬─────┬─────┬─────┐   each FRAME_MESSAGE_SIZE_MAX bytes
 *           └─────┴─────┴─────┴─────┘
 *             ▲ first, `count` of them wait
 *
 * A frame for which there is no slot is lost, as in a controller.
 */
import type { ChainWriter } from '../../virtio/index.js';
import type { CanFrame } from './backend.js';
import { CAN_FLAG, CAN_MESSAGE, CanHeader, FRAME_MESSAGE_SIZE_MAX } from './wire.js';

/** Frames that may wait; a power of two. */
export const FIFO_FRAMES = 1024;

const AT = CanHeader.offsets;

export class FrameFifo {
  /** Frames that wait. */
  count = 0;
  /** Frames that were lost since the last {@link clear}. */
  lostCount = 0;
  private first = 0;
  private readonly bytes = new Uint8Array(FIFO_FRAMES * FRAME_MESSAGE_SIZE_MAX);
  private readonly view = new DataView(this.bytes.buffer);
  private readonly sizes = new Uint8Array(FIFO_FRAMES);

  /** Frames that still fit. */
  get room(): number {
    return FIFO_FRAMES - this.count;
  }

  /** False when it was lost. */
  push({ id, flags, length, data }: CanFrame): boolean {
    if (this.room === 0) {
      this.lostCount += 1;
      return false;
    }
    const index = (this.first + this.count) & (FIFO_FRAMES - 1);
    const at = index * FRAME_MESSAGE_SIZE_MAX;
    const { view, bytes } = this;
    view.setUint16(at + AT.messageType, CAN_MESSAGE.RX, true);
    view.setUint16(at + AT.length, length, true);
    view.setUint32(at + AT.flags, flags, true);
    view.setUint32(at + AT.id, id, true);
    // A remote request has a length and no data.
    const dataSize = (flags & CAN_FLAG.RTR) !== 0 ? 0 : length;
    const start = at + CanHeader.size;
    for (let i = 0; i < length; i += 1) bytes[start + i] = i < dataSize ? data[i]! : 0;
    // Linux's driver wants as many bytes as `length` says, of a remote request too.
    this.sizes[index] = CanHeader.size + length;
    this.count += 1;
    return true;
  }

  /** Bytes of the message that has waited longest. */
  get firstSize(): number {
    return this.sizes[this.first]!;
  }

  /** Writes it, byte by byte: nothing is allocated for a frame. */
  writeFirst(writer: ChainWriter): void {
    const at = this.first * FRAME_MESSAGE_SIZE_MAX;
    for (let i = 0; i < this.firstSize; i += 1) writer.writeU8(this.bytes[at + i]!);
  }

  /** Takes it out. */
  shift(): void {
    this.first = (this.first + 1) & (FIFO_FRAMES - 1);
    this.count -= 1;
  }

  clear(): void {
    this.count = 0;
    this.lostCount = 0;
  }
}
