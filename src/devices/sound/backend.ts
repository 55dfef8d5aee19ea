/** Where what is played goes to, and where what is recorded comes from. */
import type { ChainReader, ChainWriter } from '../../virtio/index.js';
import type { PcmOffer, PcmParams } from './format.js';

/**
 * The open end of one stream. The device keeps the time; this moves bytes, without waiting.
 * Results are bytes moved, 0 when it has to be asked again later, or a negative errno.
 */
export interface PcmPort {
  /** Takes as much as there is room for. */
  play(reader: ChainReader): number;
  /** Fills as much as there is. */
  record(writer: ChainWriter): number;
  /** The stream was released. */
  close(): void;
}

export interface SoundBackEnd {
  /** What streams of a direction can do. */
  offer(direction: number): PcmOffer;
  /** Prepares a stream. @throws SystemError or VloError when that is not possible now */
  open(streamId: number, direction: number, params: PcmParams): PcmPort;
  /** Frees everything. */
  close(): void;
}
