/**
 * An entropy source as a named pipe, where there is no FUSE. Up to a pipe's content (64 KiB) is
 * read from the device before anybody asks; each byte goes to one reader.
 */
import { constants, openSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { RngDriver } from '../devices/index.js';
import { makeFifo } from '../native/index.js';
import { newCounters, type Presentation } from './presentation.js';

const CHUNK_SIZE = 4096;

export class RandomFifo implements Presentation {
  readonly path: string;
  readonly counters = newCounters();
  private readonly driver: RngDriver;
  private readonly pipe: Socket;
  private isClosed = false;

  /** @throws SystemError */
  constructor(driver: RngDriver, folder: string) {
    this.driver = driver;
    this.path = join(folder, 'random');
    rmSync(this.path, { force: true });
    makeFifo(this.path, 0o644);
    // Open for reading too: the pipe then has a reader at all times, and writing never fails.
    const fd = openSync(this.path, constants.O_RDWR | constants.O_NONBLOCK);
    this.pipe = new Socket({ fd, readable: false, writable: true });
    this.pipe.on('error', () => this.pipe.destroy());
    void this.fill();
  }

  private async fill(): Promise<void> {
    while (!this.isClosed && !this.pipe.destroyed) {
      const bytes = await this.driver.read(new Uint8Array(CHUNK_SIZE)).catch(() => null);
      if (bytes === null) break;
      this.counters.requests += 1;
      this.counters.bytesRead += bytes.length;
      if (this.pipe.write(bytes)) continue;
      await new Promise<void>((resolve) => {
        const goOn = (): void => {
          this.pipe.off('drain', goOn).off('close', goOn);
          resolve();
        };
        this.pipe.on('drain', goOn).on('close', goOn);
      });
    }
    this.pipe.destroy();
  }

  connectionChanged(): void {}

  driverFailed(): void {
    this.pipe.destroy();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.pipe.destroy();
    rmSync(this.path, { force: true });
  }
}
