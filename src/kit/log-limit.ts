/**
 * Lines of a log, not more than a reader can take: much of what a device logs is told to it by the
 * driver, and a hostile one would fill the disk.
 */

/** Lines that may come at once. */
const BURST = 200;
/** Lines a second, on average. */
const RATE = 10;

export class LogLimit {
  private readonly write: (line: string) => void;
  private readonly now: () => number;
  private allowance = BURST;
  private lastAt: number;
  private leftOut = 0;

  /** `now` gives a time in milliseconds. */
  constructor(write: (line: string) => void, now: () => number = () => performance.now()) {
    this.write = write;
    this.now = now;
    this.lastAt = now();
  }

  /** Writes a line, or counts it: before the next one stands how many are missing. */
  log(line: string): void {
    const now = this.now();
    this.allowance = Math.min(BURST, this.allowance + ((now - this.lastAt) / 1000) * RATE);
    this.lastAt = now;
    if (this.allowance < 1) {
      if (this.leftOut === 0) this.write(`more than ${RATE} lines a second: some are left out`);
      this.leftOut += 1;
      return;
    }
    this.allowance -= 1;
    if (this.leftOut > 0) this.write(`${this.leftOut} lines were left out`);
    this.leftOut = 0;
    this.write(line);
  }
}
