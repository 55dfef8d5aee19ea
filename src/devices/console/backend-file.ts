/** A log file: all that the driver sends is appended, and nothing is ever said. */
import { closeSync, constants, openSync } from 'node:fs';
import { VloError } from '../../errors.js';
import { errnoName, type IovecList, writeVector } from '../../native/index.js';
import type { PortEnd, PortEvents } from './backend.js';

const { O_APPEND, O_CREAT, O_NONBLOCK, O_WRONLY } = constants;

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
      // A pipe that nobody reads would make the process wait for ever.
      this.fd = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o666);
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
      const hint = code === 'ENXIO' ? ': nobody reads this pipe' : '';
      throw new VloError('VLO_PORT_ACCESS', `'${path}' cannot be opened (${code})${hint}`, {
        cause,
      });
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
