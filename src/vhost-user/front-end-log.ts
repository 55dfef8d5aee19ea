/**
 * The dirty log as a front end sees it (section Migration): it makes the bitmap, hands it to the
 * back end, and takes the pages out that were written.
 */
import { createMemfd, type Fd, Mapping, PAGE_SIZE } from '../native/index.js';
import { LOG_PAGE_BYTES } from './messages-constants.js';

export class FrontEndLog {
  readonly fd: Fd;
  /** Size of the bitmap in bytes. */
  readonly size: number;
  private readonly mapping: Mapping;
  private readonly words: Int32Array;

  /** @param guestAddressEnd first guest address that needs no bit. */
  constructor(guestAddressEnd: number) {
    const byteCount = Math.ceil(guestAddressEnd / LOG_PAGE_BYTES / 8);
    this.size = Math.max(1, Math.ceil(byteCount / PAGE_SIZE)) * PAGE_SIZE;
    this.fd = createMemfd('vlo-log', this.size);
    try {
      this.mapping = Mapping.shared(this.fd.number, this.size);
    } catch (error) {
      this.fd.close();
      throw error;
    }
    const bytes = this.mapping.bytes(0, this.size);
    this.words = new Int32Array(bytes.buffer, bytes.byteOffset, this.size / 4);
  }

  /** Takes the dirty pages out: their guest addresses, ascending. From then on they are clean. */
  takeDirty(): number[] {
    const addresses: number[] = [];
    for (let at = 0; at < this.words.length; at += 1) {
      if (this.words[at] === 0) continue;
      // The back end sets bits meanwhile: what is read is what is cleared.
      const word = Atomics.exchange(this.words, at, 0);
      for (let bit = 0; bit < 32; bit += 1) {
        if ((word >>> bit) & 1) addresses.push((at * 32 + bit) * LOG_PAGE_BYTES);
      }
    }
    return addresses;
  }

  /** Lets the memory go. */
  retire(): void {
    this.mapping.retire();
    this.fd.close();
  }
}
