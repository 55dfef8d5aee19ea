/**
 * The entropy driver: random bytes from any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const rng = await RngDriver.connect({ path: '/tmp/rng.sock' });
 * const bytes = await rng.read(new Uint8Array(32));
 * await rng.close();
 * ```
 */
import { assert, VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { DriverLoop } from '../../kit/driver-loop.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';

/** Bytes that one request asks for at most. */
const SLOT_SIZE = 4096;
/** Requests in flight at a time. */
const SLOT_COUNT = 16;

/** One call of `read`, filled piece by piece. */
interface Call {
  readonly target: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Bytes of the target that requests have been placed for, and that are there. */
  asked: number;
  filled: number;
  isEnded: boolean;
}

/** A request in flight: which call it is for, and how many bytes it asked for. */
interface Slot {
  call: Call;
  size: number;
}

export class RngDriver implements DriverClient {
  private readonly host: DriverHost;
  private memory!: SharedBlock;
  private readonly slots: (Slot | null)[] = new Array<Slot | null>(SLOT_COUNT).fill(null);
  private waiting: Call[] = [];

  private constructor(host: DriverHost) {
    this.host = host;
  }

  /**
   * Connects to a back end and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: DriverOptions): Promise<RngDriver> {
    const host = await DriverHost.connect(options, 0n);
    try {
      const driver = new RngDriver(host);
      const extraBytes = SLOT_COUNT * SLOT_SIZE + 4096;
      await host.open({ count: 1, size: SLOT_COUNT, tableLength: 0, extraBytes }, driver);
      driver.memory = host.allocate(SLOT_COUNT * SLOT_SIZE);
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /** @internal The loop that publishes what is placed, for whoever brings requests. */
  get loop(): DriverLoop {
    return this.host.loop;
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /**
   * Fills `target` with random bytes and returns it. Calls are served one after the other. A device
   * with a rate limit answers when it has something: use the signal to wait no longer.
   * @throws VloError VLO_DEVICE_FAILED, VLO_DISCONNECTED or VLO_CLOSED
   */
  async read<T extends Uint8Array>(
    target: T,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<T> {
    if (this.error !== null) throw this.error;
    signal?.throwIfAborted();
    if (target.length === 0) return target;
    let onAbort: (() => void) | null = null;
    try {
      await new Promise<void>((resolve, reject) => {
        const call: Call = { target, resolve, reject, asked: 0, filled: 0, isEnded: false };
        onAbort = () => this.end(call, signal!.reason);
        signal?.addEventListener('abort', onAbort);
        this.waiting.push(call);
        this.pump();
      });
    } finally {
      if (onAbort !== null) signal?.removeEventListener('abort', onAbort);
    }
    return target;
  }

  /** Gives the back end up: what is under way fails with `error`, and so does all that follows. */
  abandon(error: VloError): void {
    this.host.fail(error);
  }

  /** Ends the driver: what is under way fails with VLO_CLOSED. Idempotent. */
  async close(): Promise<void> {
    await this.host.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private pump(): void {
    const [ring] = this.host.rings;
    for (const [token, slot] of this.slots.entries()) {
      const call = this.waiting.find((other) => other.asked < other.target.length);
      if (call === undefined) return;
      if (slot !== null) continue;
      const size = Math.min(SLOT_SIZE, call.target.length - call.asked);
      this.slots[token] = { call, size };
      call.asked += size;
      this.place(ring!, token);
      this.host.loop.wake();
    }
  }

  /** @internal */
  place(ring: DriverQueue, token: number): void {
    ring.begin();
    ring.addWritable(this.memory.address + token * SLOT_SIZE, this.slots[token]!.size);
    assert(ring.commit(token), 'the ring has no room for a slot');
  }

  /** @internal */
  used(token: number, length: number): void {
    const { call, size } = this.slots[token]!;
    this.slots[token] = null;
    if (length === 0) {
      // Asking again and again would keep both sides busy for nothing.
      const message = 'the device answered a request without any random byte';
      this.end(call, new VloError('VLO_DEVICE_FAILED', message));
    }
    if (!call.isEnded) {
      const at = token * SLOT_SIZE;
      call.target.set(this.memory.bytes.subarray(at, at + length), call.filled);
      call.filled += length;
      // Devices may give less than was asked for (section 5.4.6): the rest is asked for again.
      call.asked -= size - length;
      if (call.filled === call.target.length) this.end(call, null);
    }
    this.memory.bytes.fill(0, token * SLOT_SIZE, token * SLOT_SIZE + size);
    this.pump();
  }

  private end(call: Call, error: unknown): void {
    if (call.isEnded) return;
    call.isEnded = true;
    this.waiting = this.waiting.filter((other) => other !== call);
    if (error === null) call.resolve();
    else call.reject(error);
    this.host.loop.yieldSoon();
  }

  /** @internal */
  failed(error: VloError): void {
    this.slots.fill(null);
    for (const call of [...this.waiting]) this.end(call, error);
  }

  /** @internal */
  configChanged(): void {}
}
