/** A log file: all that the driver sends is appended, and nothing is ever said. */
import { closeSync, openSync } from 'node:fs';
import { VloError } from '../../errors.js';
import { errnoName, type IovecList, writeVector } from '../../native/index.js';
import type { PortEnd, PortEvents } from './backend.js';

export class FileEnd implements PortEnd {
  readonly place: string;
  readonly isOpen = true;
  readonly size = null;
  private readonly events: PortEvents;
  private readonly fd: number;
  private hasFailed = false;

  /** @throws VloError VLO_PORT_ACCESS */
  constructor(path: string, events: PortEvents) {
    this.place = path;
    this.events = events;
    try {
      this.fd = openSync(path, 'a');
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
      throw new VloError('VLO_PORT_ACCESS', `'${path}' cannot be opened (${code})`, { cause });
    }
  }

  read(): number {
    return 0;
  }

  /** What a full disk does not take is lost: a driver must not wait for an administrator. */
  write(list: IovecList): number {
    const result = writeVector(this.fd, list.address, list.count);
    if (result >= 0) {
      this.hasFailed = false;
      return result;
    }
    if (!this.hasFailed) {
      this.events.log(`${this.place}: output is lost (${errnoName(-result)})`);
    }
    this.hasFailed = true;
    return list.size;
  }

  want(): void {}

  close(): void {
    closeSync(this.fd);
  }
}
