/**
 * A front end whose rings are driven by somebody else: by a driver in the kernel. It knows memory
 * files, ring addresses and eventfds, tells a back end of them, and is in no request's way.
 *
 *   connect ─► read features and config ─► promise ─► serve(target) ─► … ─► withdraw ─► close
 *                                                      ▲       │ the back end dies
 *                                                      └───────┘ the same target, from its bases
 *
 * A driver may come and go and accept other features each time, so what is to be served is a value,
 * {@link RelayTarget}, and the back end is made to be as it says: {@link Relay.withdraw} takes away
 * what it has no more, {@link Relay.serve} adds what is new.
 *
 * A ring starts at base 0 when its driver has just made it. After the death of a back end, or of
 * the relay before this one, requests are in it that nobody finished: with in-flight memory the
 * next back end finds them and the relay says how far the ring was used; without, whoever drives
 * the rings has them fail first, and the ring goes on behind them.
 */
import { VloError } from '../errors.js';
import { consumeEvent, createEventFd, type Fd, signalEvent, Watch } from '../native/index.js';
import { F } from '../virtio/index.js';
import { FrontEndInflight } from './front-end-inflight.js';
import { SessionKeeper } from './front-end-keeper.js';
import type { FrontEndEvents, ReconnectOptions } from './front-end-options.js';
import { addRegion, removeRegion, shareAll, startRing, stopRing } from './front-end-ring.js';
import type { FrontEndSession } from './front-end-session.js';
import type { Payload } from './messages.js';
import { VIRTIO_FEATURE } from './messages-constants.js';
import { PACKED_BASE_FIRST, packedBase, usedIndexOf } from './relay-base.js';
import type { RelayPast, RelayQueue, RelayRegion, RelayTarget } from './relay-types.js';

export interface RelayEvents extends FrontEndEvents {
  /** Rings will be served from now on, which a successor of this process has to know; or none. */
  onPast?(past: RelayPast | null): void;
}

export interface RelayOptions {
  /** Socket of the back end. */
  readonly path: string;
  readonly timeoutMs?: number;
  /** How a back end that died is sought; default: 30 s long. */
  readonly reconnect?: ReconnectOptions;
  readonly events?: RelayEvents;
  /**
   * Makes rings and memory anew for another back end, with all outstanding requests in them, where
   * the driver's side can do that; null: the rings go on as the last back end left them.
   */
  readonly renew?: () => RelayTarget | null;
  /**
   * Has all outstanding requests of the rings fail, which nobody serves meanwhile; returns how many
   * did, or null where that cannot be done.
   */
  readonly failRequests: () => number | null;
  /** Puts in-flight memory into another file; null: it stays where it is. */
  readonly keepInflight?: (memory: Fd, size: number) => Fd | null;
  readonly log?: (line: string) => void;
}

/** A ring that the back end serves, or served when it died. */
interface Ring {
  readonly queue: RelayQueue;
  readonly err: Fd;
  readonly watch: Watch;
}

/** Whether two descriptions are of one ring without a reset in between. */
function isSameRing(a: RelayQueue, b: RelayQueue): boolean {
  return (
    a.size === b.size &&
    a.descriptor === b.descriptor &&
    a.driver === b.driver &&
    a.device === b.device &&
    a.kick === b.kick &&
    a.call === b.call
  );
}

/** Guest addresses stand for user addresses: the front end of these rings has no mapping. */
function describe({ fd, guestAddress, size, mmapOffset }: RelayRegion) {
  return { fd, description: { guestAddress, size, userAddress: guestAddress, mmapOffset } };
}

export class Relay {
  private readonly options: RelayOptions;
  private readonly keeper: SessionKeeper;
  /** Features that were promised to drivers: every back end has to offer them. */
  private promised: bigint | null = null;
  private queueCount = 1;
  private queueSize = 256;
  private target: RelayTarget | null = null;
  private readonly rings = new Map<number, Ring>();
  /** Regions that the present back end has. */
  private shared: RelayRegion[] = [];
  private readonly inflight: FrontEndInflight;
  /** A relay before this one served the rings of the first target. */
  private hasPast = false;
  /** Whoever comes after us knows that rings are served. */
  private isTold = false;

  private constructor(options: RelayOptions) {
    this.options = options;
    this.inflight = new FrontEndInflight(options.keepInflight);
    const { reconnect = {}, events = {}, log = () => {} } = options;
    this.keeper = new SessionKeeper(
      { ...options, reconnect, events, log },
      {
        negotiate: (session, channelEvents) => {
          const wishes = { wanted: 0n, required: F.VERSION_1, fixed: this.promised, inBand: false };
          return session.explore(wishes, channelEvents);
        },
        resume: (session) => this.resume(session),
        // In-band notifications are never negotiated.
        vringCalled: () => {},
      },
    );
  }

  /** Connects. @throws VloError as `FrontEnd.connect` */
  static async connect(options: RelayOptions): Promise<Relay> {
    const relay = new Relay(options);
    await relay.keeper.connect();
    return relay;
  }

  /** Virtio features that the back end offers. */
  get offered(): bigint {
    return this.keeper.session.offered;
  }

  /** Queues that the back end has; 256 where it cannot say. */
  get queueCountMax(): number {
    return this.keeper.session.queueCount;
  }

  /** The back end has a config space. */
  get hasConfig(): boolean {
    return this.keeper.session.has('CONFIG');
  }

  get isConnected(): boolean {
    return this.keeper.isConnected;
  }

  /** @throws VloError VLO_BACKEND_FEATURES without config space; VLO_BACKEND_REFUSED */
  readConfig(offset: number, size: number): Promise<Uint8Array> {
    return this.keeper.readConfig(offset, size);
  }

  /** Writes config space, as a driver. @throws VloError as {@link readConfig} */
  writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.keeper.writeConfig(offset, bytes);
  }

  /**
   * Fixes what drivers see: features that every back end from now on has to offer, number and
   * largest size of the queues. Before the first target.
   */
  promise(features: bigint, queueCount: number, queueSize: number): void {
    this.promised = features | (this.offered & VIRTIO_FEATURE.PROTOCOL_FEATURES);
    this.queueCount = queueCount;
    this.queueSize = queueSize;
  }

  /**
   * The rings of the first target were served before, by a relay that died. Its in-flight memory is
   * taken over.
   * @throws VloError VLO_PROTOCOL when that makes no sense
   */
  adopt({ memory }: RelayPast): void {
    this.hasPast = true;
    this.isTold = true;
    if (memory !== null) this.inflight.adopt(memory);
  }

  /**
   * Has the back end let go of all that the target has not, or not in the same way. It does not
   * wait for a back end to come: one that is not there touches nothing.
   * @param wasReset all that was served is void, though it look like the target
   * @throws VloError VLO_TIMEOUT when the back end did not answer: it may still use the memory
   */
  async withdraw(target: RelayTarget | null, wasReset: boolean): Promise<void> {
    try {
      await this.keeper.immediate((session) => this.withdrawNow(session, target, wasReset));
    } catch (error) {
      if (!(error instanceof VloError) || error.code === 'VLO_TIMEOUT') throw error;
      // It is gone, or going.
      this.options.log?.(`while stopping rings: ${error.message}`);
    }
  }

  private async withdrawNow(
    session: FrontEndSession | null,
    target: RelayTarget | null,
    wasReset: boolean,
  ): Promise<void> {
    const old = this.target;
    const isNew = wasReset || target === null || (old !== null && old.features !== target.features);
    // First of all, so that no back end that comes meanwhile is told of what is gone.
    if (isNew) this.target = null;
    else if (old !== null) this.target = this.common(old, target);
    const gone = [...this.rings.values()].filter(({ queue }) => {
      return !this.target?.queues.some(({ index }) => index === queue.index);
    });
    try {
      if (session !== null) await this.stopRings(session, gone, isNew && old !== null);
    } finally {
      for (const ring of gone) this.forgetRing(ring);
      if (isNew) this.forgetPast();
    }
    if (session === null) return;
    for (const region of [...this.shared]) {
      if (target?.regions.includes(region)) continue;
      this.shared = this.shared.filter((other) => other !== region);
      // A table without regions is not legal: the last one goes when others come.
      if (this.shared.length === 0 && !session.has('CONFIGURE_MEM_SLOTS')) continue;
      await removeRegion(session, describe(region), this.shared.map(describe));
    }
  }

  /** What of the old target is in the new one too. */
  private common(old: RelayTarget, target: RelayTarget): RelayTarget {
    const isKept = (queue: RelayQueue) => {
      return target.queues.some((q) => q.index === queue.index && isSameRing(q, queue));
    };
    return {
      features: old.features,
      regions: old.regions.filter((region) => target.regions.includes(region)),
      queues: old.queues.filter(isKept),
    };
  }

  private async stopRings(session: FrontEndSession, rings: readonly Ring[], isReset: boolean) {
    for (const { queue } of rings) {
      await stopRing(session, queue.index);
    }
    if (isReset) await session.resetDevice();
  }

  private forgetRing({ queue, err, watch }: Ring): void {
    this.rings.delete(queue.index);
    watch.close();
    err.close();
  }

  /** No request is anywhere any more. */
  private forgetPast(): void {
    this.hasPast = false;
    this.inflight.forget();
    if (this.isTold) this.options.events?.onPast?.(null);
    this.isTold = false;
  }

  /**
   * Has the back end serve the target; where none is there, the next one will. What the target has
   * no more was withdrawn before.
   * @throws VloError as the back end answers; one that is lost on the way is no error
   */
  async serve(target: RelayTarget): Promise<void> {
    await this.keeper.immediate(async (session) => {
      const isFirst = this.target === null;
      this.target = target;
      if (session === null) return;
      try {
        if (isFirst) await session.useFeatures(target.features);
        await this.shareRegions(session, target.regions);
        if (this.hasPast) await this.handOver(session);
        const isNew = (queue: RelayQueue) => !this.rings.has(queue.index);
        await this.startRings(session, target.queues.filter(isNew));
      } catch (error) {
        // Its successor is told of this target by `resume`.
        if (!(error instanceof VloError) || !session.link.isClosed) throw error;
      }
    });
  }

  private async shareRegions(
    session: FrontEndSession,
    regions: readonly RelayRegion[],
  ): Promise<void> {
    for (const region of regions) {
      if (this.shared.includes(region)) continue;
      if (this.shared.length === session.memorySlots) {
        const limit = `no more than ${session.memorySlots} memory regions`;
        throw new VloError('VLO_BACKEND_FEATURES', `the back end takes ${limit}`);
      }
      this.shared = [...this.shared, region];
      await addRegion(session, describe(region), this.shared.map(describe));
    }
  }

  /** A session after the first: all that the target has. */
  private async resume(session: FrontEndSession): Promise<void> {
    this.shared = [];
    if (session.queueCount < this.queueCount) {
      const counts = `${session.queueCount} queues; ${this.queueCount} are in use`;
      throw new VloError('VLO_BACKEND_FEATURES', `the back end has ${counts}`);
    }
    if (this.target === null) return;
    this.target = this.options.renew?.() ?? this.target;
    const { features, regions, queues } = this.target;
    await session.useFeatures(features);
    this.shared = [...regions];
    await shareAll(session, this.shared.map(describe));
    if (this.hasPast || this.rings.size > 0) await this.handOver(session);
    await this.startRings(session, queues);
  }

  /** The driver's side makes rings anew, and knows all requests in them. */
  private get isRenewed(): boolean {
    return this.target!.queues.every(({ base }) => base !== undefined);
  }

  /** Has a back end know of the requests in flight, or makes that there are none. */
  private async handOver(session: FrontEndSession): Promise<void> {
    if (this.isRenewed) return;
    if (await this.inflight.handOver(session)) return;
    this.options.events?.onPast?.({ memory: null });
    const isPacked = (this.target!.features & F.RING_PACKED) !== 0n;
    const count = isPacked ? null : this.options.failRequests();
    if (count === null) {
      const reason = isPacked ? 'its rings are packed' : 'its transport cannot fail them';
      throw new VloError(
        'VLO_DEVICE_FAILED',
        `without in-flight memory nobody knows the outstanding requests, and ${reason}`,
      );
    }
    if (count > 0) this.options.log?.(`${count} requests failed: no back end knows of them`);
  }

  /** Starts rings that the session does not serve yet. */
  private async startRings(session: FrontEndSession, queues: readonly RelayQueue[]): Promise<void> {
    if (queues.length === 0) return;
    await this.prepareInflight(session);
    // Those that a back end served before, and that were not reset since.
    const old = queues.filter(({ index }) => this.hasPast || this.rings.has(index));
    for (const queue of queues) {
      const { index, size, kick, call } = queue;
      const base = this.base(queue, old.includes(queue));
      const { err } = this.ringOf(queue);
      await startRing(session, { index, size, base, address: addressOf(queue), kick, call, err });
    }
    await session.sendDriverOk();
    this.hasPast = false;
    // A kick from before the start died with its reader; a call may not have been sent any more.
    for (const { kick } of queues) signalEvent(kick.number);
    for (const { call } of old) signalEvent(call.number);
  }

  private async prepareInflight(session: FrontEndSession): Promise<void> {
    if (this.isRenewed) return;
    if (this.inflight.stash === null) {
      await this.inflight.prepare(session, this.queueCount, this.queueSize);
    } else if (this.isTold) {
      return;
    }
    this.options.events?.onPast?.({ memory: this.inflight.stash });
    this.isTold = true;
  }

  /** The ring that the queue had with the last back end, or a new one. */
  private ringOf(queue: RelayQueue): Ring {
    const old = this.rings.get(queue.index);
    if (old === undefined) return this.makeRing(queue);
    const ring = { ...old, queue };
    this.rings.set(queue.index, ring);
    return ring;
  }

  private makeRing(queue: RelayQueue): Ring {
    const err = createEventFd();
    const watch = new Watch(err.number, () => {
      if (consumeEvent(err.number) > 0) this.keeper.ringBroken(queue.index);
    });
    const ring = { queue, err, watch };
    this.rings.set(queue.index, ring);
    return ring;
  }

  private base(queue: RelayQueue, hasPast: boolean): number {
    if (queue.base !== undefined) return queue.base;
    const { features, regions } = this.target!;
    const isPacked = (features & F.RING_PACKED) !== 0n;
    if (!hasPast) return isPacked ? PACKED_BASE_FIRST : 0;
    if (!isPacked) return usedIndexOf(queue, regions);
    const { stash } = this.inflight;
    return stash === null ? PACKED_BASE_FIRST : packedBase(queue.index, stash);
  }

  /** Parts with the back end, which did what it must not, and looks for another. */
  replace(error: VloError): void {
    this.keeper.part(error);
  }

  /** Stops what is served, where a back end is there, and lets everything go. Idempotent. */
  async close(): Promise<void> {
    if (this.keeper.isClosed) return;
    if (this.isConnected) await this.withdraw(null, true).catch(() => {});
    this.destroy();
    await this.keeper.settled();
  }

  /** Lets everything go at once, without a word to the back end. Idempotent. */
  destroy(): void {
    if (this.keeper.isClosed) return;
    this.keeper.destroy();
    this.target = null;
    for (const ring of [...this.rings.values()]) this.forgetRing(ring);
    this.inflight.forget();
  }
}

function addressOf({ index, descriptor, driver, device }: RelayQueue): Payload<'SET_VRING_ADDR'> {
  return { index, flags: 0, descriptor, available: driver, used: device, log: 0n };
}
