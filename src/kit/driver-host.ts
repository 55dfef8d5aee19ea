/**
 * What all drivers over vhost-user share: the front end, its queues, the loop, and what happens
 * when the back end dies, returns, or breaks a ring.
 */
import { VloError } from '../errors.js';
import {
  FrontEnd,
  FrontEndQueue,
  type QueueOwner,
  type ReconnectOptions,
  type SharedBlock,
} from '../vhost-user/index.js';
import { DeviceFault, type DriverQueue, F } from '../virtio/index.js';
import { DriverLoop, type LoopQueue } from './driver-loop.js';

/** Options that every driver has. */
export interface DriverOptions {
  /** Socket of the back end. Give this or {@link fd}. */
  readonly path?: string;
  /** A connected socket, taken over; a back end that dies is then lost for good. */
  readonly fd?: number;
  /** Use the packed ring layout where it is offered; default false. */
  readonly packed?: boolean;
  /** Use IN_ORDER where it is offered; default false. */
  readonly inOrder?: boolean;
  /** Longest time in microseconds to look at the rings before sleeping; 0 sleeps at once. */
  readonly pollUs?: number;
  /** Time limit in milliseconds for an answer of the back end to a message. */
  readonly timeoutMs?: number;
  /** How a back end that died is sought; false: not at all, and requests fail at once. */
  readonly reconnect?: ReconnectOptions | false;
  /** The back end was lost (false), or is there again (true). */
  readonly onConnection?: (isConnected: boolean) => void;
  /** The driver can do nothing more: no back end was found in time, or the device is broken. */
  readonly onFail?: (error: VloError) => void;
  /** Takes one line of the log. */
  readonly log?: (line: string) => void;
}

/** A driver as its host sees it. */
export interface DriverClient {
  /** A request came back. Called from the loop: what is placed here is published with the batch. */
  used(token: number, length: number): void;
  /** Puts a request together again and commits it: the ring was reset. */
  place(ring: DriverQueue, token: number): void;
  /** Nothing that is outstanding will come back, and nothing more can be placed. Called once. */
  failed(error: VloError): void;
  /** The config space has changed. */
  configChanged(): void;
}

/** Size and number of the queues of a driver. */
export interface QueuePlan {
  readonly count: number;
  /** Entries of each; a power of two. */
  readonly size: number;
  /** Descriptors in each indirect table; 0 for none. */
  readonly tableLength: number;
  /** Bytes of shared memory that the driver wants besides. */
  readonly extraBytes: number;
}

/** Completions in a row after which promises that were settled get their continuations. */
const PROMISES_MAX = 8;

const RING_WISHES = F.VERSION_1 | F.INDIRECT_DESC | F.EVENT_IDX;

export class DriverHost {
  readonly loop: DriverLoop;
  /** The rings of the queues, by index. */
  readonly rings: DriverQueue[] = [];
  private frontEnd!: FrontEnd;
  private client: DriverClient | null = null;
  private failure: VloError | null = null;

  private readonly onFail: (error: VloError) => void;

  private constructor({ pollUs, onFail = () => {} }: DriverOptions) {
    this.loop = new DriverLoop(pollUs);
    this.onFail = onFail;
  }

  /**
   * Connects and negotiates; {@link open} is next.
   * @param wanted the device's own features that the driver uses where they are offered
   * @throws VloError as `FrontEnd.connect`
   */
  static async connect(options: DriverOptions, wanted: bigint): Promise<DriverHost> {
    const { path, fd, packed, inOrder, timeoutMs, reconnect = {}, log } = options;
    const host = new DriverHost(options);
    const ring = (packed === true ? F.RING_PACKED : 0n) | (inOrder === true ? F.IN_ORDER : 0n);
    host.frontEnd = await FrontEnd.connect({
      ...(path === undefined ? {} : { path }),
      ...(fd === undefined ? {} : { fd }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(log === undefined ? {} : { log }),
      features: wanted | RING_WISHES | ring,
      reconnect: reconnect === false ? null : reconnect,
      events: {
        onDisconnect: (error) => {
          if (reconnect === false) host.fail(error);
          options.onConnection?.(false);
        },
        onReconnect: () => {
          host.loop.wake();
          options.onConnection?.(true);
        },
        onFail: (error) => host.fail(error),
        onDeviceError: (error) => host.fail(error),
        onConfigChange: () => host.client?.configChanged(),
      },
    });
    return host;
  }

  get features(): bigint {
    return this.frontEnd.features;
  }

  /** Why nothing more can be placed; null while all is well. */
  get error(): VloError | null {
    return this.failure;
  }

  /** Queues that the back end has. */
  get queueCountMax(): number {
    return this.frontEnd.queueCount;
  }

  readConfig(offset: number, size: number): Promise<Uint8Array> {
    return this.frontEnd.readConfig(offset, size);
  }

  /** Writes config space: what the specification lets a driver write. */
  writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.frontEnd.writeConfig(offset, bytes);
  }

  /** Shares memory and has the queues served. @throws VloError as the back end answers */
  async open(plan: QueuePlan, client: DriverClient): Promise<void> {
    const { frontEnd } = this;
    this.client = client;
    const ringBytes = FrontEndQueue.bytesNeeded(plan.size, plan.tableLength);
    await frontEnd.addMemory(ringBytes * plan.count + plan.extraBytes);
    for (let i = 0; i < plan.count; i += 1) {
      const owner = new HostedQueue(this, client);
      const queue = frontEnd.createQueue({
        size: plan.size,
        tableLength: plan.tableLength,
        owner,
      });
      owner.ring = queue.ring;
      owner.callFd = queue.call.number;
      this.rings.push(queue.ring);
      this.loop.add(owner);
    }
    await frontEnd.start();
  }

  /** Takes shared memory; the plan's `extraBytes` have to include it. */
  allocate(size: number, alignment?: number): SharedBlock {
    const block = this.frontEnd.memory.allocate(size, alignment);
    if (block !== null) return block;
    throw new VloError('VLO_REQUEST_INVALID', `${size} bytes of shared memory were not planned`);
  }

  /** Ends all: the client hears of it, once. */
  fail(error: VloError): void {
    if (this.failure !== null) return;
    this.failure = error;
    this.loop.close();
    this.frontEnd.destroy();
    this.client?.failed(error);
    this.onFail(error);
  }

  /** Stops the queues and lets everything go. Idempotent. */
  async close(): Promise<void> {
    if (this.failure === null) {
      this.failure = new VloError('VLO_CLOSED', 'the driver was closed');
      this.client?.failed(this.failure);
    }
    this.loop.close();
    await this.frontEnd.close();
  }
}

/** A queue between front end, loop and client. */
class HostedQueue implements QueueOwner, LoopQueue {
  ring!: DriverQueue;
  callFd = -1;
  private readonly host: DriverHost;
  private readonly client: DriverClient;

  constructor(host: DriverHost, client: DriverClient) {
    this.host = host;
    this.client = client;
  }

  drain(): boolean {
    const { ring, client, host } = this;
    if (host.error !== null) return false;
    let count = 0;
    try {
      // Bounded: a completion may place the next request, and a fast device answer it at once.
      for (; count < ring.size && ring.next(); count += 1) {
        client.used(ring.usedToken, ring.usedLength);
        // Whoever awaits promises asks for more now: the device has something to do meanwhile.
        if (count % PROMISES_MAX === PROMISES_MAX - 1 && host.loop.isYielding) return true;
      }
    } catch (error) {
      if (!(error instanceof DeviceFault)) throw error;
      host.fail(new VloError('VLO_DEVICE_FAILED', `the device broke the ring: ${error.message}`));
      return false;
    }
    return count > 0;
  }

  resubmit(tokens: readonly number[]): void {
    if (this.host.error !== null) return;
    for (const token of tokens) this.client.place(this.ring, token);
    this.ring.publish();
  }

  called(): void {
    this.host.loop.wake();
  }
}
