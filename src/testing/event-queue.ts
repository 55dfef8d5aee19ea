/** Things that happened, in order, for a test that waits for the next one. */
import { VloError } from '../errors.js';

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: VloError) => void;
  readonly timer: NodeJS.Timeout;
}

/** @internal */
export class EventQueue<T> {
  private readonly what: string;
  private readonly events: T[] = [];
  private readonly waiters: Waiter<T>[] = [];

  /** `what` names an event in the message of a time-out. */
  constructor(what: string) {
    this.what = what;
  }

  push(event: T): void {
    const waiter = this.waiters.shift();
    if (waiter === undefined) {
      this.events.push(event);
      return;
    }
    clearTimeout(waiter.timer);
    waiter.resolve(event);
  }

  /** The oldest event that nobody took, as soon as there is one. */
  next(timeoutMs: number): Promise<T> {
    const promise = new Promise<T>((resolve, reject) => {
      if (this.events.length > 0) {
        resolve(this.events.shift()!);
        return;
      }
      const timer = setTimeout(() => {
        this.waiters.splice(this.waiters.indexOf(waiter), 1);
        reject(new VloError('VLO_TIMEOUT', `${this.what}: nothing came within ${timeoutMs} ms`));
      }, timeoutMs);
      const waiter = { resolve, reject, timer };
      this.waiters.push(waiter);
    });
    // A test that ends early need not await it.
    promise.catch(() => {});
    return promise;
  }

  /** Fails all that wait. */
  close(): void {
    for (const { reject, timer } of this.waiters.splice(0)) {
      clearTimeout(timer);
      reject(new VloError('VLO_CLOSED', `${this.what}: the mock driver was closed`));
    }
  }
}
