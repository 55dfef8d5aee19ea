/** A VDUSE device as a port: requests of the kernel become states, and answers wait for them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, VloError } from '../../errors.js';
import { type Fd, Watch } from '../../native/index.js';
import type { RelayPast, StashedInflight } from '../../vhost-user/index.js';
import { F, STATUS } from '../../virtio/index.js';
import type {
  KernelPort,
  PortHandler,
  PortIdentity,
  PortQueue,
  PortState,
} from '../kernel-port.js';
import { Burial, failRequests, type Patient } from './burial.js';
import { VduseControl } from './control.js';
import type { VduseFile, VduseMemory, VduseMessage } from './device.js';
import { Following, followingSize } from './following.js';
import { Interrupts } from './interrupts.js';
import { MemoryTable } from './memory.js';
import { findNode, isOnBus, readPoolSize, virtioStatus } from './node.js';
import type { DeviceRecord } from './record.js';
import { startVdpa } from './vdpa.js';

/** How long, and how often, a device is tried to be destroyed that something still has, in ms. */
const DESTROY_MS_MAX = 5000;
const DESTROY_PAUSE_MS = 20;

/** The bit that is between driver and VDUSE. */
const OWN_FEATURES = F.ACCESS_PLATFORM;

/** What a port is made of. */
export interface PortParts {
  readonly name: string;
  readonly type: string;
  readonly file: VduseFile;
  readonly record: DeviceRecord;
  /** The device's way onto the bus, which may not be at its end; null for one that was there. */
  readonly adding: Promise<unknown> | null;
  readonly log: (line: string) => void;
}

/**
 * Takes a device off the bus and destroys it. What the kernel asks meanwhile has to be answered.
 * @param closeFile closes the device's file, after which the kernel asks nothing
 */
export async function removeDevice(
  name: string,
  closeFile: () => void,
  log: (line: string) => void,
): Promise<void> {
  if (isOnBus(name)) {
    const errno = await startVdpa('del', name);
    if (errno !== null && errno !== 'ENODEV') log(`'vdpa dev del ${name}' failed: ${errno}`);
  }
  closeFile();
  const control = VduseControl.open();
  try {
    const end = Date.now() + DESTROY_MS_MAX;
    while (!control.destroy(name)) {
      if (Date.now() > end) {
        log(`the kernel keeps the device '${name}': something has it open`);
        return;
      }
      await sleep(DESTROY_PAUSE_MS);
    }
  } finally {
    control.close();
  }
}

export class VdusePort implements KernelPort {
  readonly isTakenOver: boolean;
  readonly identity: PortIdentity;
  private readonly parts: PortParts;
  private readonly table: MemoryTable;
  private readonly interrupts: Interrupts;
  private readonly following: Following;
  private config: Uint8Array;
  private current: PortState;
  private inflight: StashedInflight | null = null;
  /** The in-flight memory is no longer kept up. */
  private isUntracked = false;
  /** Nobody has served the rings yet since they were set up. */
  private isNew = false;
  private handler: PortHandler | null = null;
  private watch: Watch | null = null;
  private burial: Burial | null = null;
  private isHandling = false;
  private isRemoving = false;
  private isClosed = false;
  private isReleased = false;

  constructor(parts: PortParts) {
    const { name, file, record, adding } = parts;
    this.parts = parts;
    this.isTakenOver = adding === null;
    const { deviceId, features, queueSizes, config } = record.facts;
    const poolSize = readPoolSize(name);
    this.identity = { deviceId, features, queueSizes, configSize: config.length, poolSize };
    this.config = config;
    this.table = new MemoryTable(poolSize);
    const mapping = record.mapRequests(followingSize(queueSizes));
    this.following = new Following(mapping, queueSizes);
    const follow = (index: number): void => this.following.follow(index);
    this.interrupts = new Interrupts(file, queueSizes.length, follow);
    this.current = this.stopped();
  }

  listen(handler: PortHandler): void {
    this.handler = handler;
    this.watch = new Watch(this.parts.file.fd.number, () => void this.readable());
    void this.inTurn(async () => {
      const status = this.isTakenOver ? (virtioStatus(this.parts.name) ?? 0) : 0;
      await this.attempt(() => this.tell(isRunning(status) ? this.start() : [], false));
    }).then(() => this.readable());
  }

  state(): PortState {
    return this.current;
  }

  private stopped(): PortState {
    return { isRunning: false, features: 0n, regions: this.table.regions, queues: [] };
  }

  /** Takes requests one after the other; what comes meanwhile is still there afterwards. */
  private readable(): Promise<void> {
    return this.inTurn(async () => {
      const { file } = this.parts;
      let message = file.next();
      if (message === null && file.isBroken()) {
        this.broke();
        return;
      }
      for (; message !== null; message = this.isReleased ? null : file.next()) {
        const isOk = await this.handle(message);
        if (!this.isReleased) file.answer(message, isOk);
      }
    });
  }

  private async inTurn(work: () => Promise<void>): Promise<void> {
    if (this.isHandling || this.isReleased) return;
    this.isHandling = true;
    this.watch?.pause();
    try {
      await work();
    } finally {
      this.isHandling = false;
      if (!this.isReleased) this.watch?.resume();
    }
  }

  /** False when it could not be done: the driver is told so. */
  private async handle(message: VduseMessage): Promise<boolean> {
    if (message.kind === 'other') return false;
    return this.attempt(() =>
      message.kind === 'status' ? this.setStatus(message.status) : this.remapped(),
    );
  }

  private async attempt(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      this.parts.log(`${error.code}: ${error.message}`);
      return false;
    }
  }

  private async setStatus(status: number): Promise<void> {
    const wasRunning = this.current.isRunning;
    if (isRunning(status) === wasRunning) return;
    this.isNew = !wasRunning;
    await this.tell(wasRunning ? this.stop() : this.start(), status === 0);
  }

  /** The driver's memory lies elsewhere. */
  private async remapped(): Promise<void> {
    if (this.current.isRunning) await this.tell(this.start(), false);
  }

  /** Tells the state; then no back end has memory any more that is not in use. */
  private async tell(unused: readonly Fd[], wasReset: boolean): Promise<void> {
    try {
      await this.handler?.changed(this.current, wasReset);
    } finally {
      for (const fd of unused) fd.close();
    }
  }

  private stop(): Fd[] {
    this.current = this.stopped();
    this.following.stop();
    this.burial?.close();
    this.burial = null;
    return [];
  }

  /** Finds memory and rings. Returns descriptors of memory that is no more. */
  private start(): Fd[] {
    const { file } = this.parts;
    const unused = this.table.follow(this.memory());
    const queues = this.readyQueues();
    for (const { index, kick } of queues) file.setKick(index, kick);
    const features = file.features() & ~OWN_FEATURES;
    this.current = { isRunning: true, features, regions: this.table.regions, queues };
    return unused;
  }

  private memory(): VduseMemory[] {
    const found: VduseMemory[] = [];
    for (let from = 0; ; ) {
      const memory = this.parts.file.memory(from);
      if (memory === null) return found;
      found.push(memory);
      from = memory.end;
    }
  }

  private readyQueues(): PortQueue[] {
    return this.interrupts.events.flatMap((events, index) => {
      const { ready, num, descAddr, driverAddr, deviceAddr } = this.parts.file.queue(index);
      if (ready === 0) return [];
      const areas = { descriptor: descAddr, driver: driverAddr, device: deviceAddr };
      return [{ index, size: num, ...areas, ...events, isBroken: false }];
    });
  }

  /** The kernel waited too long for an answer, and will hear none any more. */
  private broke(): void {
    const { name, log } = this.parts;
    log(`the kernel gave the device '${name}' up: its requests were not answered in time`);
    this.watch?.close();
    this.watch = null;
    this.handler?.gone();
  }

  readConfig(): Uint8Array {
    return this.config.slice();
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    if (this.isReleased) return;
    this.config.set(bytes, offset);
    this.parts.record.setConfig(this.config);
    this.parts.file.writeConfig(offset, bytes);
  }

  /** See {@link KernelPort.keepInflight}. */
  keepInflight(memory: Fd, size: number): Fd | null {
    try {
      return this.parts.record.keep(memory, size);
    } catch (error) {
      // The device works without; an adapter after this one will not know of requests in flight.
      this.parts.log(`in-flight memory cannot be kept: ${(error as Error).message}`);
      return null;
    }
  }

  stash(past: RelayPast | null): void {
    if (this.isReleased) return;
    this.parts.record.setPast(past);
    if (past === null || past.memory !== null) {
      this.remember(past);
      this.following.forget();
    } else {
      // What the last back end left still tells of now.
      this.isUntracked = true;
      this.following.start(this.current);
      if (this.isNew) this.following.beginAnew();
    }
    this.isNew = false;
  }

  takeStash(): RelayPast | null {
    const past = this.parts.record.openPast();
    this.remember(past);
    return past;
  }

  /** Keeps in-flight memory by a descriptor of its own: the engine's ends before this port does. */
  private remember(past: RelayPast | null): void {
    this.forgetInflight();
    const memory = past?.memory ?? null;
    this.inflight = memory === null ? null : { ...memory, fd: memory.fd.duplicate() };
    this.isUntracked = false;
  }

  private forgetInflight(): void {
    this.inflight?.fd.close();
    this.inflight = null;
  }

  private get patient(): Patient {
    return {
      deviceId: this.identity.deviceId,
      state: this.current,
      inflight: this.inflight,
      trackers: this.following.trackers,
      interrupt: (index) => this.interrupts.interrupt(index),
    };
  }

  failRequests(): number | null {
    const count = failRequests(this.patient);
    if (count === null || !this.isUntracked) return count;
    this.forgetInflight();
    this.following.beginHere();
    return count;
  }

  findNode(signal: AbortSignal): Promise<string | null> {
    return findNode(this.parts.type, this.parts.name, signal);
  }

  remove(): void {
    if (this.isRemoving || this.isClosed) return;
    this.isRemoving = true;
    this.takeAway().catch((error: Error) => this.parts.log(error.message));
  }

  private async takeAway(): Promise<void> {
    const { name, record, adding, log } = this.parts;
    await adding;
    try {
      await removeDevice(name, () => this.release(), log);
      record.remove();
    } finally {
      this.release();
      this.handler?.gone();
    }
  }

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.handler = null;
    // Without a removal, the device is left to another adapter.
    if (!this.isRemoving) this.release();
    else if (!this.isReleased && this.current.isRunning) this.bury();
  }

  /** The driver still waits for requests, and lets the device go only when they are answered. */
  private bury(): void {
    const { log } = this.parts;
    try {
      this.burial = new Burial(this.patient, log);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      log(`requests that are out wait for ever: ${error.message}`);
    }
  }

  private release(): void {
    if (this.isReleased) return;
    this.isReleased = true;
    this.watch?.close();
    this.watch = null;
    this.burial?.close();
    this.interrupts.close();
    this.parts.file.close();
    this.table.close();
    this.following.close();
    this.forgetInflight();
  }
}

const isRunning = (status: number): boolean =>
  (status & STATUS.DRIVER_OK) !== 0 && (status & STATUS.FAILED) === 0;
