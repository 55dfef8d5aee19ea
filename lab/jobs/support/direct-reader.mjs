/** An application that reads a device past the page cache, into memory that it knows. */

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { Mapping } from '../../../dist/native/index.js';

/** What the application has in its memory. */
export const OWN_BYTE = 0xa5;

export class DirectReader {
  static async open(node) {
    const reader = new DirectReader();
    reader.file = await open(node, constants.O_RDWR | constants.O_DIRECT);
    return reader;
  }

  /** Reads; `bytes` is the whole buffer, as it is afterwards. */
  async read(size, offset = 0) {
    const mapping = Mapping.anonymous(size);
    const bytes = mapping.bytes(0, size).fill(OWN_BYTE);
    try {
      const { bytesRead: length } = await this.file.read(bytes, 0, size, offset);
      return { error: null, length, bytes: Buffer.from(bytes) };
    } catch (error) {
      return { error: error.code, length: 0, bytes: Buffer.from(bytes) };
    } finally {
      mapping.retire();
    }
  }

  /** Writes one byte over and over. */
  async write(size, byte, offset = 0) {
    const mapping = Mapping.anonymous(size);
    const bytes = mapping.bytes(0, size).fill(byte);
    const { bytesWritten } = await this.file.write(bytes, 0, size, offset);
    mapping.retire();
    if (bytesWritten !== size) throw new Error(`${bytesWritten} of ${size} bytes were written`);
  }

  close() {
    return this.file.close();
  }
}
