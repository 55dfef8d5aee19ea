/** Descriptors in Node's event loop; the one file that uses `koffi.node.poll`. */
import koffi from 'koffi';

const drainMicrotasks = (): void => {};

/** Open watches: koffi's handle goes silent when it is collected, so somebody has to hold it. */
const open = new Set<Watch>();

/** Tells when a descriptor is readable or writable, on Node's event loop. */
export class Watch {
  private handle: ReturnType<typeof koffi.node.poll> | null;
  private readonly callback: () => void;

  /**
   * Calls `callback` as long as `fd` is readable, or has an error or a hang-up. The descriptor must
   * stay open until {@link close}, and has at most one watch.
   */
  constructor(fd: number, callback: () => void) {
    // The foreign callback enters JavaScript without Node's own wrapper, so promises settled in it
    // would wait for the next unrelated event: an empty immediate runs them in this loop turn.
    this.callback = () => {
      setImmediate(drainMicrotasks);
      callback();
    };
    this.handle = koffi.node.poll(fd, { readable: true }, this.callback);
    open.add(this);
  }

  /** Watches for readability, or also for writability, from now on. */
  setWritable(writable: boolean): void {
    this.handle?.start({ readable: true, writable }, this.callback);
  }

  /** Watches for just this from now on; for neither, as {@link pause}. */
  want(readable: boolean, writable: boolean): void {
    if (readable || writable) this.handle?.start({ readable, writable }, this.callback);
    else this.handle?.stop();
  }

  /** Stops the callbacks until {@link resume}. */
  pause(): void {
    this.handle?.stop();
  }

  resume(): void {
    this.handle?.start({ readable: true }, this.callback);
  }

  /** Lets the process end although this watch exists. */
  unref(): void {
    this.handle?.unref();
  }

  /** Ends the watch; call it before the descriptor is closed. Idempotent. */
  close(): void {
    this.handle?.stop();
    this.handle?.close();
    this.handle = null;
    open.delete(this);
  }
}
