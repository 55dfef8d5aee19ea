/** A timer that is set again and again; it does not keep the process alive. */
export class Alarm {
  private readonly ring: () => void;
  private timer: NodeJS.Timeout | null = null;

  /** `ring` runs when the time has come. */
  constructor(ring: () => void) {
    this.ring = ring;
  }

  /** True between {@link set} and its end. */
  get isSet(): boolean {
    return this.timer !== null;
  }

  /** Rings in so many milliseconds, rounded up; the time that was set before does not count. */
  set(delayMs: number): void {
    this.clear();
    this.timer = setTimeout(this.ended, Math.ceil(delayMs));
    this.timer.unref();
  }

  /** Does not ring. Idempotent. */
  clear(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private readonly ended = (): void => {
    this.timer = null;
    this.ring();
  };
}
