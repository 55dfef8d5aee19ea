/**
 * An input device as a named pipe, where there is no uinput: a script (one JSON object a line) that
 * begins with what the device is. A report is one line, whole or not there: what comes while the
 * pipe is full and nobody reads is lost.
 */
import { closeSync, constants, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { deviceLine, type EventList, type InputDriver, reportLine } from '../devices/index.js';
import { makeFifo } from '../native/index.js';
import { newCounters, type Presentation } from './presentation.js';

/** Bytes that a pipe takes whole or not at all (PIPE_BUF). */
const LINE_MAX = 4096;

export class InputPipe implements Presentation {
  readonly path: string;
  readonly counters = newCounters();
  private fd: number | null;

  /** @throws SystemError */
  constructor(driver: InputDriver, folder: string) {
    this.path = join(folder, 'events');
    rmSync(this.path, { force: true });
    makeFifo(this.path, 0o600);
    // Open for reading too: the pipe then has a reader at all times, and writing never fails.
    this.fd = openSync(this.path, constants.O_RDWR | constants.O_NONBLOCK);
    // The pipe is empty: there is room for a line of any length.
    writeSync(this.fd, deviceLine(driver.description));
    driver.listen((events) => this.report(events));
  }

  private report(events: EventList): void {
    if (this.fd === null) return;
    this.counters.requests += 1;
    const line = reportLine(events);
    try {
      if (line.length > LINE_MAX) this.counters.errors += 1;
      else this.counters.bytesRead += writeSync(this.fd, line);
    } catch {
      this.counters.errors += 1; // It is full.
    }
  }

  connectionChanged(): void {}

  driverFailed(): void {
    this.end();
  }

  private end(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
  }

  async close(): Promise<void> {
    this.end();
    rmSync(this.path, { force: true });
  }
}
