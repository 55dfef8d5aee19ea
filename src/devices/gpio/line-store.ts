/**
 * What the driver made of each line, in a file: a process that replaces this one goes on with it.
 * Linux's driver sets a line once, and cannot know that another process serves it.
 */
import { VloError } from '../../errors.js';
import { RecordStore } from '../../kit/index.js';
import { DIRECTION, TRIGGER } from './wire.js';

/** What is kept of a line. */
export interface StoredLine {
  isActive: boolean;
  direction: number;
  output: number;
  trigger: number;
}

/** Bytes of a line: whether it is the driver's, direction, output, trigger. */
const ENTRY_SIZE = 4;
const TRIGGERS: readonly number[] = Object.values(TRIGGER);

export class LineStore {
  private readonly entries: RecordStore;
  private readonly entry = new Uint8Array(ENTRY_SIZE);

  /** @throws VloError VLO_OPTION_INVALID */
  constructor(path: string, log: (line: string) => void = () => {}) {
    try {
      this.entries = new RecordStore(path, ENTRY_SIZE, (line) => log(`--state: ${line}`));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new VloError('VLO_OPTION_INVALID', `gpio: --state: cannot open '${path}' (${code})`);
    }
  }

  /** What was kept of a line; null when nothing was, or nothing that makes sense. */
  load(line: number): StoredLine | null {
    if (!this.entries.load(line, this.entry)) return null;
    const [isActive = 0, direction = 0, output = 0, trigger = 0] = this.entry;
    if (isActive > 1 || direction > DIRECTION.IN || output > 1) return null;
    if (!TRIGGERS.includes(trigger)) return null;
    // The value of a line that is no output yet is a part of making it one: Linux sets it first.
    if (isActive === 0 && trigger === TRIGGER.NONE && output === 0) return null;
    return { isActive: isActive === 1, direction, output, trigger };
  }

  save(line: number, { isActive, direction, output, trigger }: StoredLine): void {
    const { entry } = this;
    entry[0] = isActive ? 1 : 0;
    entry[1] = direction;
    entry[2] = output;
    entry[3] = trigger;
    this.entries.save(line, entry);
  }

  close(): void {
    this.entries.close();
  }
}
