/**
 * How long a loop keeps looking at its rings before it sleeps, learned from how long it slept.
 */

/** Longest time in milliseconds that a loop holds the thread before the event loop gets a turn. */
export const SLICE_MS = 0.5;
/** Looks between two readings of the clock. */
export const LOOKS_PER_CLOCK = 16;
/** First window, in milliseconds, when looking begins to pay. */
const WINDOW_FIRST_MS = 0.016;

/** The time to look: it grows while wake-ups come soon after falling asleep, else it is nothing. */
export class PollWindow {
  /** Current length in milliseconds. */
  ms: number;
  private readonly maxMs: number;

  /** @param maxMs longest window in milliseconds; 0 never looks. @param ms length to begin with. */
  constructor(maxMs: number, ms = 0) {
    this.maxMs = maxMs;
    this.ms = ms;
  }

  /** A wake-up came after so long a sleep: would looking have caught it? */
  wokeAfter(sleptMs: number): void {
    if (sleptMs > this.maxMs) this.ms = 0;
    else if (this.ms === 0) this.ms = Math.min(WINDOW_FIRST_MS, this.maxMs);
    else this.ms = Math.min(this.ms * 2, this.maxMs);
  }
}
