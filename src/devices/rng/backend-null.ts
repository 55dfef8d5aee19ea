/** A source of entropy for tests: a counter, with every failure that a real one can have. */
import type { EntropySource } from './backend.js';

export class NullSource implements EntropySource {
  /** Set by tests: the next reads return this instead of bytes (0 or a negative errno). */
  result: number | null = null;
  /** Addresses and sizes that were asked for. */
  readonly asked: { address: number; size: number }[] = [];
  private ready: (() => void) | null = null;

  read(address: number, size: number): number {
    this.asked.push({ address, size });
    return this.result ?? size;
  }

  waitReady(ready: () => void): void {
    this.ready = ready;
  }

  /** Bytes are there again. */
  refill(): void {
    this.result = null;
    const { ready } = this;
    this.ready = null;
    ready?.();
  }

  close(): void {
    this.ready = null;
  }
}
