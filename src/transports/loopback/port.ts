/** A device of the kernel module as a port: its state by ioctls, its events by poll and read. */
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, VloError } from '../../errors.js';
import { createEventFd, Watch } from '../../native/index.js';
import type { RelayRegion } from '../../vhost-user/index.js';
import { F, STATUS } from '../../virtio/index.js';
import type {
  KernelPort,
  KernelTransport,
  PortHandler,
  PortIdentity,
  PortQueue,
  PortSpec,
  PortState,
  QueueEvents,
} from '../kernel-port.js';
import {
  errnoOf,
  featureBytes,
  featureWord,
  LoopbackControl,
  type LoopbackEvent,
  type LoopbackSession,
  queueSizeBytes,
  queueSizes,
} from './control.js';
import { findNode } from './node.js';
import { VLO } from './uapi.js';

/** How long, and how often, a device that is just going away is waited for, in ms. */
const BUSY_MS_MAX = 3000;
const BUSY_PAUSE_MS = 50;

/** Bits that are between driver and module. */
const OWN_FEATURES = F.RING_RESET;
/** Bits that are between module and back end: each session may have others. */
const SESSION_FEATURES = F.EVENT_IDX | F.RING_PACKED;

export const LOOPBACK: KernelTransport = { name: 'loopback', open: openLoopback };

/** See {@link KernelTransport.open}. */
async function openLoopback(spec: PortSpec): Promise<KernelPort> {
  checkSpec(spec);
  const end = Date.now() + BUSY_MS_MAX;
  for (;;) {
    const control = LoopbackControl.open();
    try {
      const isTakenOver = obtain(control, spec);
      if (typeof isTakenOver === 'boolean') return new LoopbackPort(control, spec, isTakenOver);
      if (Date.now() > end) throw inUse(spec.name, isTakenOver);
    } catch (error) {
      control.close();
      throw error;
    }
    // Its adapter is still dying, or the kernel has not finished to remove it.
    control.close();
    await sleep(BUSY_PAUSE_MS);
  }
}

/** Makes the device (false), takes it over (true), or says what is in the way (an errno). */
function obtain(control: LoopbackControl, spec: PortSpec): boolean | string {
  return create(control, spec) ? false : (attach(control, spec) ?? true);
}

/** What the module would refuse without a word. @throws VloError VLO_OPTION_INVALID */
function checkSpec({ name, queueSizes: sizes, poolSize, takeoverMs }: PortSpec): void {
  const refuse = (problem: string): VloError => new VloError('VLO_OPTION_INVALID', problem);
  if (Buffer.byteLength(name) >= VLO.NAME_SIZE) {
    throw refuse(
      `the name '${name}' is too long for the kernel: ${VLO.NAME_SIZE - 1} bytes at most`,
    );
  }
  if (sizes.some((size) => size < 2 || size > VLO.QUEUE_SIZE_MAX || (size & (size - 1)) !== 0)) {
    throw refuse(`a queue has 2 to ${VLO.QUEUE_SIZE_MAX} entries, a power of two; not ${sizes[0]}`);
  }
  if (poolSize < VLO.POOL_SIZE_MIN || poolSize > VLO.POOL_SIZE_MAX || poolSize % 65536 !== 0) {
    throw refuse(`a pool has 1 MiB to 1 GiB, in steps of 64 KiB; not ${poolSize} bytes`);
  }
  if (takeoverMs < 0 || takeoverMs > VLO.TAKEOVER_MS_MAX) {
    throw refuse(`the time for a takeover is 0 to ${VLO.TAKEOVER_MS_MAX / 1000} seconds`);
  }
}

/** Makes the device; false when there is one of that name. */
function create(control: LoopbackControl, spec: PortSpec): boolean {
  try {
    control.create({
      flags:
        (spec.memory === 'direct' ? VLO.F_DIRECT : 0) |
        (spec.isConfigWindow ? VLO.F_CONFIG_WAIT : 0),
      deviceId: spec.deviceId,
      features: featureBytes((spec.features & ~SESSION_FEATURES) | F.RING_RESET),
      poolSize: spec.poolSize,
      takeoverMs: spec.takeoverMs,
      stopMs: spec.stopMs,
      callUs: spec.callUs,
      queueCount: spec.queueSizes.length,
      configSize: spec.config.length,
      name: new TextEncoder().encode(spec.name),
      queueSizes: queueSizeBytes(spec.queueSizes),
      queueFlags: queueFlags(spec),
      config: spec.config,
    });
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') return false;
    throw createProblem(errno, spec) ?? error;
  }
}

function queueFlags({ queueSizes: sizes, inbound, early, fillsSectors }: PortSpec): Uint8Array {
  const flags = new Uint8Array(VLO.QUEUES_MAX);
  if (fillsSectors) flags.fill(VLO.Q_SECTORS, 0, sizes.length);
  for (const index of inbound) flags[index] = VLO.Q_INBOUND;
  for (const index of early) flags[index] = VLO.Q_EARLY;
  return flags;
}

function createProblem(errno: string, { memory, type }: PortSpec): VloError | null {
  const capability = type === 'net' || type === 'can' ? 'CAP_NET_ADMIN' : 'CAP_SYS_ADMIN';
  const isDirect = memory === 'direct';
  const problems: Readonly<Record<string, string>> = {
    EPROTO:
      'the kernel module is of another version than this program: build and load the one in kernel/',
    EPERM: isDirect
      ? `a device with memory 'direct' requires CAP_SYS_RAWIO and ${capability}: it gives the back ` +
        "end all of this machine's memory"
      : `a device of type '${type}' requires ${capability}`,
    EACCES:
      "this kernel does not allow memory 'direct': it is locked down, or cannot be; then the " +
      "module's parameter direct=1 allows it",
    EAFNOSUPPORT: `the kernel module does not take devices of type '${type}', or not on this machine`,
    EDQUOT: "this user has as many devices as the module's parameter devices_per_user allows",
    EINVAL: `the kernel module refuses a device of type '${type}' with these features and queues`,
  };
  const problem = problems[errno];
  return problem === undefined ? null : new VloError('VLO_TRANSPORT_UNAVAILABLE', problem);
}

/** Takes the device over; null, or the number of the error when it is not to be had now. */
function attach(control: LoopbackControl, { name }: PortSpec): string | null {
  try {
    control.attach(name);
    return null;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EBUSY' || errno === 'ENODEV' || errno === 'ENOENT') return errno;
    if (errno !== 'EPERM' && errno !== 'EACCES') throw error;
    throw new VloError(
      'VLO_TRANSPORT_UNAVAILABLE',
      `the device '${name}' belongs to another user: only that user, or root, takes it over`,
    );
  }
}

function inUse(name: string, errno: string): VloError {
  const message =
    errno === 'EBUSY'
      ? `a living adapter has the device '${name}': end it, or choose another name`
      : `the kernel still removes a device '${name}': try again, or choose another name`;
  return new VloError('VLO_DEVICE_IN_USE', message);
}

const isNoDevice = (error: unknown): boolean =>
  error instanceof SystemError && error.errno === 'ENODEV';

/** Why a session cannot begin. */
const SESSION_PROBLEMS: Readonly<Record<string, string>> = {
  ENOMEM:
    'the kernel has no memory for the pool: the limit of locked memory (ulimit -l) or of the ' +
    'memory cgroup is reached; --pool-size makes the pool smaller',
  ENOSPC:
    'the pool is too small for the rings: use a larger --pool-size, or a smaller --queue-size',
  EPROTONOSUPPORT:
    'the back end does not offer INDIRECT_DESC, which the driver of this device uses',
  EPERM: "memory 'direct' requires CAP_SYS_RAWIO, which this process no longer has",
  EACCES: "this kernel no longer allows memory 'direct': it is locked down, or direct=0",
};

/** An open device of the module. Exported for its test. */
export class LoopbackPort implements KernelPort {
  readonly isTakenOver: boolean;
  readonly identity: PortIdentity;
  private readonly control: LoopbackControl;
  private readonly id: number;
  private readonly type: string;
  private readonly log: (line: string) => void;
  private readonly isDirect: boolean;
  private readonly events: QueueEvents[] = [];
  /** Memory and rings of the present session. */
  private regions: RelayRegion[] = [];
  private queues: PortQueue[] = [];
  /** Features of its rings. */
  private ringFeatures = 0n;
  /** The present session is not ours, or has ended, or lacks a queue. */
  private isStale = true;
  private status = 0;
  private handler: PortHandler | null = null;
  private watch: Watch | null = null;
  private isClosed = false;
  /** The kernel has removed the device: no call works any more. */
  private isGone = false;
  private isHandling = false;
  private isFirst = true;

  constructor(control: LoopbackControl, { type, log }: PortSpec, isTakenOver: boolean) {
    this.control = control;
    this.isTakenOver = isTakenOver;
    this.type = type;
    this.log = log;
    const info = control.info();
    this.id = info.id;
    this.isDirect = (info.flags & VLO.F_DIRECT) !== 0;
    this.identity = {
      deviceId: info.deviceId,
      features: featureWord(info.features) & ~OWN_FEATURES,
      queueSizes: queueSizes(info.queueSizes, info.queueCount),
      configSize: info.configSize,
      poolSize: this.isDirect ? null : info.poolSize,
    };
    try {
      for (let index = 0; index < info.queueCount; index += 1) this.openQueue(index);
    } catch (error) {
      if (!isTakenOver) this.remove();
      this.release();
      throw error;
    }
  }

  private openQueue(index: number): void {
    const events = { kick: createEventFd(), call: createEventFd() };
    this.events.push(events);
    this.control.setKick(index, events.kick);
    this.control.setCall(index, events.call);
  }

  listen(handler: PortHandler): void {
    this.handler = handler;
    this.watch = new Watch(this.control.fd.number, () => void this.readable());
    void this.readable();
  }

  /** Takes events one after the other; what comes meanwhile is still there afterwards. */
  private async readable(): Promise<void> {
    if (this.isHandling || this.isClosed) return;
    this.isHandling = true;
    this.watch?.pause();
    try {
      for (let event = this.next(); event !== null; event = this.next()) await this.handle(event);
    } catch (error) {
      // The driver waits for its acknowledgement, and goes on without it after a time.
      if (!(error instanceof VloError)) throw error;
      this.report(error);
    } finally {
      this.isHandling = false;
      if (!this.isClosed) this.watch?.resume();
    }
  }

  private report(error: VloError): void {
    if (isNoDevice(error)) this.vanish();
    if (this.isGone) return;
    // Without a session requests would wait for ever.
    if (error.code === 'VLO_TRANSPORT_UNAVAILABLE') this.handler!.failed(error);
    else this.log(`${error.code}: ${error.message}`);
  }

  private next(): LoopbackEvent | null {
    return this.isClosed || this.isGone ? null : this.control.readEvent();
  }

  private async handle({ events, status, sequence, unacked }: LoopbackEvent): Promise<void> {
    const handler = this.handler!;
    this.status = status;
    // An adapter that was stopped for a while may read this together with all that came before.
    if ((events & VLO.EVENT_GONE) !== 0) return this.vanish();
    if ((events & VLO.EVENT_CONFIG) !== 0) await handler.configWritten();
    const { EVENT_STATUS, EVENT_QUEUES, EVENT_RESET } = VLO;
    if ((events & (EVENT_STATUS | EVENT_QUEUES | EVENT_RESET)) !== 0 && !this.isClosed) {
      await this.changed((events & EVENT_RESET) !== 0);
    }
    if (unacked !== 0 && !this.isClosed) this.control.acknowledge(sequence);
    if ((events & VLO.EVENT_BROKEN) !== 0) handler.broken();
  }

  /** Reports, once, that the device is gone. Nothing else will come. */
  private vanish(): void {
    if (this.isGone) return;
    this.isGone = true;
    this.watch?.close();
    this.watch = null;
    this.handler?.gone();
  }

  /** Makes a call for the adapter, which hears of a device that is gone in any case. */
  private attempt<T>(call: () => T): T {
    try {
      return call();
    } catch (error) {
      if (!isNoDevice(error)) throw error;
      this.vanish();
      throw new VloError('VLO_DEVICE_FAILED', 'the kernel has removed the device');
    }
  }

  private async changed(wasReset: boolean): Promise<void> {
    const handler = this.handler!;
    // At a takeover the kernel reports a reset in any case, and the driver may run on.
    const isInherited = this.isTakenOver && this.isFirst && this.isRunning;
    this.isFirst = false;
    const isReset = wasReset && !isInherited;
    const old = this.regions;
    if (wasReset) this.isStale = true;
    if (this.isRunning && (this.isStale || this.hasNewQueue())) {
      // The rings of now go first, so that no back end serves a request that another one gets.
      if (this.queues.length > 0) await handler.changed({ ...this.state(), queues: [] }, isReset);
      if (this.isClosed) return;
      await handler.changed(this.begin(), isReset);
      // The back end had to be told which memory goes.
      for (const { fd } of old) fd.close();
    } else {
      this.dropGoneQueues();
      await handler.changed(this.state(), isReset);
    }
  }

  private get isRunning(): boolean {
    return (this.status & STATUS.DRIVER_OK) !== 0 && (this.status & STATUS.FAILED) === 0;
  }

  private hasNewQueue(): boolean {
    return this.events.some((_, index) => this.control.queue(index).state === VLO.QUEUE_MADE);
  }

  private dropGoneQueues(): void {
    this.queues = this.queues.filter(({ index }) => {
      return this.control.queue(index).state === VLO.QUEUE_STARTED;
    });
  }

  renew(): PortState {
    const old = this.regions;
    const state = this.attempt(() => this.begin());
    for (const { fd } of old) fd.close();
    return state;
  }

  /** Begins a session. */
  private begin(): PortState {
    this.ringFeatures = this.handler!.ringFeatures();
    const { replayed } = this.start();
    if (replayed > 0) this.log(`${replayed} outstanding requests are served again`);
    this.isStale = false;
    this.regions = this.isDirect ? [this.region(0), this.region(1)] : [this.region(0)];
    this.queues = this.events.flatMap((events, index) => this.queue(index, events));
    return this.state();
  }

  private start(): LoopbackSession {
    try {
      return this.control.start(this.ringFeatures);
    } catch (error) {
      const errno = errnoOf(error);
      const problem = SESSION_PROBLEMS[errno];
      if (problem === undefined) throw error;
      throw new VloError('VLO_TRANSPORT_UNAVAILABLE', problem);
    }
  }

  private region(index: number): RelayRegion {
    const { fd, address, size } = this.control.memory(index);
    return { fd, guestAddress: address, size, mmapOffset: 0 };
  }

  private queue(index: number, events: QueueEvents): PortQueue[] {
    const { state, size, base, descriptor, driver, device } = this.control.queue(index);
    if (state !== VLO.QUEUE_STARTED) return [];
    return [{ index, size, base, descriptor, driver, device, ...events, isBroken: false }];
  }

  state(): PortState {
    const { isRunning, regions, queues } = this;
    if (!isRunning) return { isRunning, features: 0n, regions, queues: [] };
    const driverFeatures = featureWord(this.control.info().driverFeatures) & ~OWN_FEATURES;
    return { isRunning, features: driverFeatures | this.ringFeatures, regions, queues };
  }

  readConfig(): Uint8Array {
    return this.attempt(() => this.control.readConfig(0, this.identity.configSize));
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.attempt(() => this.control.writeConfig(offset, bytes));
  }

  findNode(signal: AbortSignal): Promise<string | null> {
    return findNode(this.type, this.id, signal);
  }

  remove(): void {
    if (this.isClosed) return;
    try {
      this.control.remove();
    } catch (error) {
      // The kernel was faster.
      if (!(error instanceof SystemError)) throw error;
    }
  }

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.watch?.close();
    this.watch = null;
    this.release();
  }

  private release(): void {
    this.control.close();
    for (const { fd } of this.regions) fd.close();
    for (const { kick, call } of this.events) {
      kick.close();
      call.close();
    }
  }
}
