/** A device of the kernel module as a port: its state by ioctls, its events by poll and read. */
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, VloError } from '../../errors.js';
import { createEventFd, Watch } from '../../native/index.js';
import type { RelayPast, RelayRegion } from '../../vhost-user/index.js';
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
  queueSizeBytes,
  queueSizes,
} from './control.js';
import { findNode } from './node.js';
import { VLO } from './uapi.js';

/** How long, and how often, a device that is just going away is waited for, in ms. */
const BUSY_MS_MAX = 3000;
const BUSY_PAUSE_MS = 50;

/** Bits that are between driver and module. */
const OWN_FEATURES = F.RING_RESET | F.ACCESS_PLATFORM;

export const LOOPBACK: KernelTransport = { name: 'loopback', open: openLoopback };

/** See {@link KernelTransport.open}. */
async function openLoopback(spec: PortSpec): Promise<KernelPort> {
  checkSpec(spec);
  const end = Date.now() + BUSY_MS_MAX;
  for (;;) {
    const control = LoopbackControl.open();
    try {
      if (create(control, spec)) return new LoopbackPort(control, spec, false);
      const obstacle = attach(control, spec);
      if (obstacle === null) return new LoopbackPort(control, spec, true);
      if (Date.now() > end) throw inUse(spec.name, obstacle);
    } catch (error) {
      control.close();
      throw error;
    }
    // Its adapter is still dying, or the kernel has not finished to remove it.
    control.close();
    await sleep(BUSY_PAUSE_MS);
  }
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
      features: featureBytes(spec.features | F.RING_RESET),
      poolSize: spec.poolSize,
      takeoverMs: spec.takeoverMs,
      queueCount: spec.queueSizes.length,
      configSize: spec.config.length,
      name: new TextEncoder().encode(spec.name),
      queueSizes: queueSizeBytes(spec.queueSizes),
      config: spec.config,
    });
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') return false;
    throw createProblem(errno, spec) ?? error;
  }
}

function createProblem(errno: string, { memory, type }: PortSpec): VloError | null {
  const problem =
    errno === 'EPROTO'
      ? 'the kernel module is of another version than this program: build and load the one in kernel/'
      : errno === 'EPERM' && memory === 'direct'
        ? "memory 'direct' gives the back end all of this machine's memory: CAP_SYS_RAWIO is needed"
        : errno === 'EOPNOTSUPP' && memory === 'bounce'
          ? "this kernel has no bounce buffers for virtio devices: use the memory 'direct'"
          : errno === 'EINVAL'
            ? `the kernel module refuses a device of type '${type}' with these features and queues`
            : null;
  return problem === null ? null : new VloError('VLO_TRANSPORT_UNAVAILABLE', problem);
}

/** Takes the device over; null, or the number of the error when it is not to be had now. */
function attach(control: LoopbackControl, { name }: PortSpec): string | null {
  try {
    control.attach(name);
    return null;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EBUSY' || errno === 'ENODEV' || errno === 'ENOENT') return errno;
    throw error;
  }
}

function inUse(name: string, errno: string): VloError {
  const message =
    errno === 'EBUSY'
      ? `a living adapter has the device '${name}': end it, or choose another name`
      : `the kernel still removes a device '${name}': try again, or choose another name`;
  return new VloError('VLO_DEVICE_IN_USE', message);
}

// Notes in the kernel beside no descriptor: no ring is served; some are, and nobody keeps track.
const NOTHING = new Uint8Array(0);
const UNTRACKED = new Uint8Array(1);

class LoopbackPort implements KernelPort {
  readonly isTakenOver: boolean;
  readonly identity: PortIdentity;
  private readonly control: LoopbackControl;
  private readonly id: number;
  private readonly type: string;
  private readonly log: (line: string) => void;
  private readonly regions: RelayRegion[] = [];
  private readonly events: QueueEvents[] = [];
  private status = 0;
  private handler: PortHandler | null = null;
  private watch: Watch | null = null;
  private isClosed = false;
  private isHandling = false;
  private isFirst = true;

  constructor(control: LoopbackControl, { type, log }: PortSpec, isTakenOver: boolean) {
    this.control = control;
    this.isTakenOver = isTakenOver;
    this.type = type;
    this.log = log;
    const info = control.info();
    this.id = info.id;
    this.identity = {
      deviceId: info.deviceId,
      features: featureWord(info.features) & ~OWN_FEATURES,
      queueSizes: queueSizes(info.queueSizes, info.queueCount),
      configSize: info.configSize,
    };
    try {
      this.openMemory((info.flags & VLO.F_DIRECT) !== 0 ? 2 : 1);
      for (let index = 0; index < info.queueCount; index += 1) this.openQueue(index);
    } catch (error) {
      if (!isTakenOver) this.remove();
      this.release();
      throw error;
    }
  }

  private openMemory(count: number): void {
    for (let index = 0; index < count; index += 1) {
      const { fd, address, size } = this.control.memory(index);
      this.regions.push({ fd, guestAddress: address, size, mmapOffset: 0 });
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
      // Not acknowledged: after a time the kernel takes the memory away from the back end.
      if (!(error instanceof VloError)) throw error;
      this.log(`${error.code}: ${error.message}`);
    } finally {
      this.isHandling = false;
      if (!this.isClosed) this.watch?.resume();
    }
  }

  private next(): LoopbackEvent | null {
    return this.isClosed ? null : this.control.readEvent();
  }

  private async handle({ events, status, sequence, unacked }: LoopbackEvent): Promise<void> {
    const handler = this.handler!;
    this.status = status;
    if ((events & VLO.EVENT_CONFIG) !== 0) await handler.configWritten();
    const { EVENT_STATUS, EVENT_QUEUES, EVENT_RESET } = VLO;
    if ((events & (EVENT_STATUS | EVENT_QUEUES | EVENT_RESET)) !== 0 && !this.isClosed) {
      const state = this.state();
      // At a takeover the kernel reports a reset in any case. It would not have let a device live
      // that was reset and had nobody to stop its rings, so those that run are the ones of before.
      const isInherited = this.isTakenOver && this.isFirst && state.isRunning;
      this.isFirst = false;
      await handler.changed(state, (events & EVENT_RESET) !== 0 && !isInherited);
    }
    if (unacked !== 0 && !this.isClosed) this.control.acknowledge(sequence);
    if ((events & VLO.EVENT_BROKEN) !== 0) handler.broken();
    if ((events & VLO.EVENT_GONE) === 0) return;
    // Nothing else will come.
    this.watch?.close();
    this.watch = null;
    handler.gone();
  }

  state(): PortState {
    const { status, regions } = this;
    const isRunning = (status & STATUS.DRIVER_OK) !== 0 && (status & STATUS.FAILED) === 0;
    if (!isRunning) return { isRunning, features: 0n, regions, queues: [] };
    const features = featureWord(this.control.info().driverFeatures) & ~OWN_FEATURES;
    return { isRunning, features, regions, queues: this.readyQueues() };
  }

  private readyQueues(): PortQueue[] {
    return this.events.flatMap((events, index) => {
      const { ready, broken, size, descriptor, driver, device } = this.control.queue(index);
      if (ready === 0) return [];
      return [{ index, size, descriptor, driver, device, ...events, isBroken: broken !== 0 }];
    });
  }

  readConfig(): Uint8Array {
    return this.control.readConfig(0, this.identity.configSize);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.control.writeConfig(offset, bytes);
  }

  stash(past: RelayPast | null): void {
    if (this.isClosed) return;
    const note = past === null ? NOTHING : (past.memory?.note ?? UNTRACKED);
    this.control.setStash(past?.memory?.fd ?? null, note);
  }

  takeStash(): RelayPast | null {
    const { fd, note } = this.control.getStash();
    if (fd !== null) return { memory: { fd, note } };
    return note.length === 0 ? null : { memory: null };
  }

  failRequests(): number | null {
    return this.control.failRequests();
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
