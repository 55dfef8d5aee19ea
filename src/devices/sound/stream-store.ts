/**
 * What the driver made of each stream, in a file: a process that replaces this one goes on with it.
 * Linux's driver sets a stream up once, and cannot know that another process plays it.
 */
import { VloError } from '../../errors.js';
import { RecordStore } from '../../kit/index.js';
import { defineStruct } from '../../virtio/index.js';
import { RATES } from './format.js';
import type { PcmStream, StreamState } from './stream.js';

/** A stream, as in the file; 0 stands for a stream that nothing was made of. */
const Entry = defineStruct({
  state: 'u8',
  channels: 'u8',
  format: 'u8',
  rate: 'u8',
  features: 'u32',
  bufferBytes: 'u32',
  periodBytes: 'u32',
});
const STATES: readonly StreamState[] = ['idle', 'set', 'prepared', 'running', 'stopped'];

/** What is kept of a stream: its state, and what PCM_SET_PARAMS had said. */
export interface StoredStream extends Omit<ReturnType<typeof Entry.decode>, 'state'> {
  readonly state: StreamState;
}

export class StreamStore {
  private readonly entries: RecordStore;
  private readonly entry = new Uint8Array(Entry.size);

  /** @throws VloError VLO_OPTION_INVALID */
  constructor(path: string, log: (line: string) => void = () => {}) {
    try {
      this.entries = new RecordStore(path, Entry.size, (line) => log(`--state: ${line}`));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new VloError('VLO_OPTION_INVALID', `sound: --state: cannot open '${path}' (${code})`);
    }
  }

  /** What was kept of a stream; null when nothing was, or nothing that makes sense. */
  load(id: number): StoredStream | null {
    if (!this.entries.load(id, this.entry)) return null;
    const { state: index, ...params } = Entry.decode(this.entry);
    const state = STATES[index];
    return state === undefined || state === 'idle' ? null : { state, ...params };
  }

  save({ id, state, params, features }: PcmStream): void {
    const { channels = 0, bufferBytes = 0, periodBytes = 0 } = params ?? {};
    const rate = params === null ? 0 : RATES.indexOf(params.rate);
    const format = params?.format.code ?? 0;
    const fields = { channels, format, rate, features, bufferBytes, periodBytes };
    this.entries.save(id, Entry.encode({ state: STATES.indexOf(state), ...fields }));
  }

  close(): void {
    this.entries.close();
  }
}
