/** When a process that died is started again, and when it is given up. */
import type { RestartLimit } from './config-model.js';

/** A process that served for so long, in milliseconds, is started again at once. */
const SERVED_MS_MIN = 100;
const DELAY_MS_FIRST = 100;
const DELAY_MS_MAX = 5000;

/**
 * The longest pause. Where the limit can be reached at all, all its starts fit into half the time:
 * longer pauses would let what never starts be tried for ever.
 */
function longestDelay({ limit, withinMs }: RestartLimit): number {
  const fitting = withinMs / (2 * limit);
  return fitting < DELAY_MS_FIRST ? DELAY_MS_MAX : Math.min(DELAY_MS_MAX, fitting);
}

export class RestartPolicy {
  private readonly bound: RestartLimit;
  private readonly delayMsMax: number;
  private deaths: number[] = [];
  /** Deaths in a row of processes that hardly served. */
  private failures = 0;

  constructor(bound: RestartLimit) {
    this.bound = bound;
    this.delayMsMax = longestDelay(bound);
  }

  /**
   * A process died that had served for `servedMs`.
   * @returns how long to wait before the next start, in milliseconds; null: no more starts
   */
  died(nowMs: number, servedMs: number): number | null {
    this.deaths = [...this.deaths.filter((at) => nowMs - at < this.bound.withinMs), nowMs];
    if (this.deaths.length > this.bound.limit) return null;
    this.failures = servedMs >= SERVED_MS_MIN ? 0 : this.failures + 1;
    if (this.failures === 0) return 0;
    return Math.min(this.delayMsMax, DELAY_MS_FIRST * 2 ** (this.failures - 1));
  }

  /** Somebody asked for a new start: what was is forgotten. */
  forgive(): void {
    this.deaths = [];
    this.failures = 0;
  }
}
