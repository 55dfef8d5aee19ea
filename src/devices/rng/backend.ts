/** Where random bytes come from. */

/** A source of entropy. */
export interface EntropySource {
  /**
   * Fills memory of this process with up to `size` bytes, without waiting.
   * @returns bytes filled, at least 1; 0 when none are there yet; a negative errno on failure.
   */
  read(address: number, size: number): number;
  /** Calls `ready` once when {@link read} may succeed again, after it returned 0. */
  waitReady(ready: () => void): void;
  /** Frees everything. */
  close(): void;
}
