/** No sound at all: what is played is gone, what is recorded is silence. It runs anywhere. */
import type { ChainReader, ChainWriter } from '../../virtio/index.js';
import type { PcmPort, SoundBackEnd } from './backend.js';
import type { PcmOffer, PcmParams } from './format.js';
import { writeSilence } from './format.js';

export class NullPort implements PcmPort {
  private readonly params: PcmParams;

  constructor(params: PcmParams) {
    this.params = params;
  }

  play(reader: ChainReader): number {
    const size = reader.remaining;
    reader.skip(size);
    return size;
  }

  record(writer: ChainWriter): number {
    const size = writer.remaining;
    writeSilence(writer, this.params.format);
    return size;
  }

  close(): void {}
}

export class NullSound implements SoundBackEnd {
  private readonly limits: PcmOffer;

  /** All that `limits` allow. */
  constructor(limits: PcmOffer) {
    this.limits = limits;
  }

  offer(): PcmOffer {
    return this.limits;
  }

  open(_streamId: number, _direction: number, params: PcmParams): PcmPort {
    return new NullPort(params);
  }

  close(): void {}
}
