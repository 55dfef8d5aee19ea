/** An entropy source as a file without an end, from which any number of programs read. */
import { constants } from 'node:fs';
import type { RngDriver } from '../devices/index.js';
import { VloError } from '../errors.js';
import { FOPEN, type FuseChannel } from '../fuse/index.js';
import { ERRNO, NativeBuffer } from '../native/index.js';
import type { PresentedFile } from './fuse-presentation.js';
import { newCounters } from './presentation.js';

/** Largest READ of the kernel, in bytes; programs may ask for any size. */
export const RANDOM_TRANSFER_MAX = 64 * 1024;

const { O_RDWR, O_WRONLY } = constants;

export class RandomFile implements PresentedFile {
  readonly name = 'random';
  readonly mode = 0o444;
  readonly size = 0;
  readonly counters = newCounters();
  channel!: FuseChannel;
  private readonly driver: RngDriver;
  private readonly incoming = new NativeBuffer(RANDOM_TRANSFER_MAX);
  private readonly outgoing = new NativeBuffer(RANDOM_TRANSFER_MAX);
  /** Reads that wait for the device, by the number of the request. */
  private readonly waiting = new Map<string, AbortController>();

  constructor(driver: RngDriver) {
    this.driver = driver;
  }

  payload(): Uint8Array {
    return this.incoming.bytes;
  }

  payloadAddress(): number {
    return this.incoming.address;
  }

  open(flags: number): number {
    if ((flags & (O_WRONLY | O_RDWR)) !== 0) return -ERRNO.EACCES!;
    return FOPEN.DIRECT_IO | FOPEN.NONSEEKABLE | FOPEN.STREAM;
  }

  read(low: number, high: number, _offset: number, size: number): void {
    void this.readFrom(low, high, Math.min(size, RANDOM_TRANSFER_MAX));
  }

  private async readFrom(low: number, high: number, size: number): Promise<void> {
    const { counters, outgoing } = this;
    const key = `${high}:${low}`;
    const aborter = new AbortController();
    this.waiting.set(key, aborter);
    counters.requests += 1;
    try {
      const bytes = await this.driver.read(new Uint8Array(size), { signal: aborter.signal });
      outgoing.bytes.set(bytes);
      this.channel.replyMemory(low, high, outgoing.address, size);
      // What was handed out is not kept.
      outgoing.bytes.fill(0, 0, size);
      counters.bytesRead += size;
    } catch (error) {
      if (aborter.signal.aborted) {
        this.channel.replyStatus(low, high, ERRNO.EINTR!);
      } else if (error instanceof VloError) {
        counters.errors += 1;
        this.channel.replyStatus(low, high, ERRNO.EIO!);
      } else throw error;
    } finally {
      this.waiting.delete(key);
    }
  }

  write(low: number, high: number): void {
    this.channel.replyStatus(low, high, ERRNO.EBADF!);
  }

  sync(low: number, high: number): void {
    this.channel.replyStatus(low, high, ERRNO.EINVAL!);
  }

  allocate(low: number, high: number): void {
    this.channel.replyStatus(low, high, ERRNO.EOPNOTSUPP!);
  }

  /** A read may wait for long, for a back end or for a slow source: a signal ends it. */
  interrupt(low: number, high: number): void {
    this.waiting.get(`${high}:${low}`)?.abort();
  }

  connectionChanged(): void {}

  close(): void {
    for (const aborter of this.waiting.values()) aborter.abort();
    this.incoming.free();
    this.outgoing.free();
  }
}
