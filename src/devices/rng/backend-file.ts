/** Random bytes from a file or character device, by default the kernel's generator. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { VloError } from '../../errors.js';
import { ERRNO, preadInto, readInto, Watch } from '../../native/index.js';
import type { EntropySource } from './backend.js';

/** How long to wait, in milliseconds, before a source that ended is asked again. */
const END_RETRY_MS = 100;

export class FileSource implements EntropySource {
  private readonly fd: number;
  private readonly isFile: boolean;
  private readonly size: number;
  private offset = 0;
  private watch: Watch | null = null;
  private timer: NodeJS.Timeout | null = null;
  /** The last read found the end: a pipe without a writer, for which readability says nothing. */
  private isAtEnd = false;

  /** @throws VloError VLO_SOURCE_ACCESS when the source cannot be opened or is empty. */
  constructor(path: string) {
    try {
      this.fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
      throw new VloError(
        'VLO_SOURCE_ACCESS',
        `entropy source '${path}' cannot be opened (${code}); check --filename`,
        { cause },
      );
    }
    const stat = fstatSync(this.fd);
    this.isFile = stat.isFile();
    this.size = stat.size;
    if (!stat.isDirectory() && (!this.isFile || this.size > 0)) return;
    closeSync(this.fd);
    const reason = stat.isDirectory() ? 'is a folder' : 'is empty';
    throw new VloError('VLO_SOURCE_ACCESS', `entropy source '${path}' ${reason}; check --filename`);
  }

  read(address: number, size: number): number {
    if (this.isFile) return this.readFile(address, size);
    const result = readInto(this.fd, address, size);
    this.isAtEnd = result === 0;
    return result === -ERRNO.EAGAIN! || result === -ERRNO.EINTR! ? 0 : result;
  }

  /** A file is read round and round: what it holds is the user's choice. */
  private readFile(address: number, size: number): number {
    const part = Math.min(size, this.size - this.offset);
    const result = preadInto(this.fd, address, part, this.offset);
    if (result <= 0) return result === 0 ? -ERRNO.EIO! : result;
    this.offset = (this.offset + result) % this.size;
    return result;
  }

  waitReady(ready: () => void): void {
    if (this.isAtEnd) {
      this.timer = setTimeout(ready, END_RETRY_MS);
      this.timer.unref();
      return;
    }
    const watch = new Watch(this.fd, () => {
      watch.close();
      this.watch = null;
      ready();
    });
    this.watch = watch;
  }

  close(): void {
    this.watch?.close();
    if (this.timer !== null) clearTimeout(this.timer);
    closeSync(this.fd);
  }
}
