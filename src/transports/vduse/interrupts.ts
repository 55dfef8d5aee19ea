/**
 * Interrupts of a VDUSE device: the call eventfds of a back end, watched here and turned into an
 * ioctl each, since VDUSE takes no eventfd from user space for them.
 */
import { consumeEvent, createEventFd, Watch } from '../../native/index.js';
import type { QueueEvents } from '../kernel-port.js';
import type { VduseFile } from './device.js';

/** How often, and how many times, a driver is tried that is just getting ready, in ms. */
const RETRY_MS = 1;
const RETRIES_MAX = 1000;

export class Interrupts {
  readonly events: readonly QueueEvents[];
  private readonly file: VduseFile;
  private readonly watches: readonly Watch[];
  private readonly timers = new Set<NodeJS.Timeout>();
  private isClosed = false;

  /** @param onCall is told of each interrupt, after it */
  constructor(file: VduseFile, queueCount: number, onCall: (index: number) => void) {
    this.file = file;
    const make = () => ({ kick: createEventFd(), call: createEventFd() });
    this.events = Array.from({ length: queueCount }, make);
    this.watches = this.events.map(({ call }, index) => {
      return new Watch(call.number, () => {
        if (consumeEvent(call.number) <= 0) return;
        this.interrupt(index);
        onCall(index);
      });
    });
  }

  /** Interrupts the driver of a queue. */
  interrupt(index: number, retries = 0): void {
    if (this.isClosed || this.file.interrupt(index)) return;
    // DRIVER_OK was answered and the kernel has not noted it yet; or the driver is gone.
    if (retries === RETRIES_MAX) return;
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.interrupt(index, retries + 1);
    }, RETRY_MS);
    timer.unref();
    this.timers.add(timer);
  }

  close(): void {
    this.isClosed = true;
    for (const timer of this.timers) clearTimeout(timer);
    for (const watch of this.watches) watch.close();
    for (const { kick, call } of this.events) {
      kick.close();
      call.close();
    }
  }
}
