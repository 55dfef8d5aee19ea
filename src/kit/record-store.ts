/**
 * Records of a fixed size in a file, for what has to outlive the process: a driver sets its device
 * up once, and cannot know that another process serves it.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

export class RecordStore {
  private readonly path: string;
  private readonly size: number;
  private readonly log: (line: string) => void;
  private readonly fd: number;
  private hasFailed = false;

  /**
   * Opens a file of records of `size` bytes, or makes one. @throws the system's error when that is
   * not possible.
   */
  constructor(path: string, size: number, log: (line: string) => void) {
    this.path = path;
    this.size = size;
    this.log = log;
    // Neither cut nor made anew: what is in it is what a predecessor has left.
    closeSync(openSync(path, 'a+', 0o600));
    this.fd = openSync(path, 'r+');
  }

  /** Reads a record; false when the file does not have it. */
  load(index: number, record: Uint8Array): boolean {
    return readSync(this.fd, record, 0, this.size, index * this.size) === this.size;
  }

  /** A full disk must not stop a device: it is told of, once, and what is kept is older. */
  save(index: number, record: Uint8Array): void {
    try {
      writeSync(this.fd, record, 0, this.size, index * this.size);
      this.hasFailed = false;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (!this.hasFailed) this.log(`'${this.path}' cannot be written (${code})`);
      this.hasFailed = true;
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}
