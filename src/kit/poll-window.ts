/**
 * How long a loop keeps looking at its rings before it sleeps, learned from how long it slept.
 */

import { performance } from 'node:perf_hooks';
import { yieldProcessor } from '../native/index.js';

/** Longest time in milliseconds that a loop holds the thread before the event loop gets a turn. */
export const SLICE_MS = 0.5;
/** Looks between two readings of the clock. */
export const LOOKS_PER_CLOCK = 16;
/** First window, in milliseconds, when looking begins to pay. */
const WINDOW_FIRST_MS = 0.016;

/** A yield that took so long, in milliseconds, gave the processor to somebody who is busy. */
const YIELD_LONG_MS = 0.15;
/** For so long looking is then given up, in milliseconds. */
const CONTENDED_MS = 20;

/** The time to look: it grows while wake-ups come soon after falling asleep, else it is nothing. */
export class PollWindow {
  /** Current length in milliseconds. */
  ms: number;
  private readonly maxMs: number;
  private contendedUntil = 0;

  /** @param maxMs longest window in milliseconds; 0 never looks. @param ms length to begin with. */
  constructor(maxMs: number, ms = 0) {
    this.maxMs = maxMs;
    this.ms = ms;
  }

  /** A wake-up came after so long a sleep: would looking have caught it? */
  wokeAfter(sleptMs: number): void {
    if (sleptMs > this.maxMs || performance.now() < this.contendedUntil) this.ms = 0;
    else if (this.ms === 0) this.ms = Math.min(WINDOW_FIRST_MS, this.maxMs);
    else this.ms = Math.min(this.ms * 2, this.maxMs);
  }

  /**
   * Lets others have the processor between two looks: on a machine with few of them, whoever is
   * waited for may want this very one. Where somebody else keeps it for long, who looks comes off
   * worse than who sleeps, because a wake-up gets the processor at once.
   * @returns the time now
   */
  yield(): number {
    const before = performance.now();
    yieldProcessor();
    const now = performance.now();
    if (now - before > YIELD_LONG_MS) {
      this.ms = 0;
      this.contendedUntil = now + CONTENDED_MS;
    }
    return now;
  }
}
