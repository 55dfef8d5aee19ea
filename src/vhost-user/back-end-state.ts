/**
 * What a back end knows of its front end: features, memory, rings, log, in-flight memory, status.
 * The message handlers change it; {@link BackEndState.release} lets everything go.
 */
import { fstatSync } from 'node:fs';
import { VloError } from '../errors.js';
import { type Fd, unixSocketKind } from '../native/index.js';
import { QUEUE_SIZE_MAX, ringFeatures, STATUS } from '../virtio/index.js';
import { BackEndChannel } from './back-end-channel.js';
import type { BackEndDevice } from './back-end-device.js';
import { LogBitmap } from './dirty-log.js';
import { GuestMemory, type RegionDescription } from './guest-memory.js';
import { type InflightDescription, InflightRegion } from './inflight.js';
import { PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';
import { Vring, type VringHost } from './vring.js';

/** Virtio features that belong to the session, not to the device. */
const SESSION_FEATURES = VIRTIO_FEATURE.PROTOCOL_FEATURES | VIRTIO_FEATURE.LOG_ALL;

function refuse(message: string): VloError {
  return new VloError('VLO_PROTOCOL', message);
}

export class BackEndState implements VringHost {
  readonly device: BackEndDevice;
  readonly guestMemory = new GuestMemory();
  readonly rings: readonly Vring[];
  /** Protocol features that are offered, and negotiated. */
  readonly offeredProtocol: bigint;
  protocol = 0n;
  /** Device status (section 2.1 of virtio), where STATUS is negotiated. */
  status = 0;
  channel: BackEndChannel | null = null;
  readonly log: (line: string) => void;
  private negotiated = 0n;
  private inflightRegion: InflightRegion | null = null;
  private logBitmap: LogBitmap | null = null;
  private logFd: Fd | null = null;

  constructor(device: BackEndDevice, offeredProtocol: bigint, log: (line: string) => void) {
    this.device = device;
    this.offeredProtocol = offeredProtocol;
    this.log = log;
    this.rings = Array.from({ length: device.queueCount }, (_, index) => new Vring(index, this));
  }

  get offered(): bigint {
    return this.device.features | SESSION_FEATURES;
  }

  get features(): bigint {
    return this.negotiated;
  }

  get memory() {
    return this.guestMemory.map;
  }

  get inflight(): InflightRegion | null {
    return this.inflightRegion;
  }

  get activeLog(): LogBitmap | null {
    return (this.negotiated & VIRTIO_FEATURE.LOG_ALL) !== 0n ? this.logBitmap : null;
  }

  get notifyInBand(): ((index: number) => void) | null {
    if (!this.hasProtocol('INBAND_NOTIFICATIONS')) return null;
    return (index) => this.channel?.vringCall(index);
  }

  hasProtocol(name: keyof typeof PROTOCOL_FEATURE): boolean {
    return (this.protocol & PROTOCOL_FEATURE[name]) !== 0n;
  }

  /** The ring with an index from a message. @throws VloError VLO_PROTOCOL */
  ring(index: number): Vring {
    const ring = this.rings[index];
    if (ring === undefined) throw refuse(`queue ${index}; there are ${this.rings.length}`);
    return ring;
  }

  /**
   * SET_FEATURES. It takes effect at once, on running rings too; LOG_ALL alone does not even pause
   * them (a migration must not disturb the guest).
   */
  async setFeatures(features: bigint): Promise<void> {
    const unknown = features & ~this.offered;
    if (unknown !== 0n) throw refuse(`features 0x${unknown.toString(16)} were never offered`);
    const before = this.negotiated;
    const changed = before ^ features;
    const [old, now] = [ringFeatures(before), ringFeatures(features)];
    if (old.packed !== now.packed && this.rings.some((ring) => ring.running)) {
      throw refuse('the ring layout was changed while a queue runs');
    }
    const isRingChange =
      old.packed !== now.packed ||
      old.indirect !== now.indirect ||
      old.eventIndex !== now.eventIndex ||
      old.inOrder !== now.inOrder;
    // While the old features still say how a queue's base is to be read.
    if (isRingChange) await this.discardRings();
    this.negotiated = features;
    if ((changed & ~SESSION_FEATURES) !== 0n) this.device.setFeatures(features & ~SESSION_FEATURES);
    // Section Ring states: without PROTOCOL_FEATURES rings start enabled.
    if ((features & VIRTIO_FEATURE.PROTOCOL_FEATURES) === 0n) {
      for (const ring of this.rings) ring.enabled = true;
    }
    if ((changed & VIRTIO_FEATURE.LOG_ALL) !== 0n) this.applyLog();
    await this.settle();
  }

  /** SET_PROTOCOL_FEATURES. */
  setProtocolFeatures(features: bigint): void {
    const unknown = features & ~this.offeredProtocol;
    if (unknown !== 0n) {
      throw refuse(`protocol features 0x${unknown.toString(16)} were never offered`);
    }
    const needed = PROTOCOL_FEATURE.BACKEND_REQ | PROTOCOL_FEATURE.REPLY_ACK;
    const isInBand = (features & PROTOCOL_FEATURE.INBAND_NOTIFICATIONS) !== 0n;
    if (isInBand && (features & needed) !== needed) {
      throw refuse('in-band notifications need BACKEND_REQ and REPLY_ACK');
    }
    this.protocol = features;
  }

  /** SET_MEM_TABLE: running rings pause, and go on in the new memory. */
  async setMemoryTable(regions: readonly RegionDescription[], fds: readonly Fd[]): Promise<void> {
    const prepared = this.guestMemory.prepare(regions, fds);
    await this.discardRings();
    this.guestMemory.replace(prepared);
    await this.settle();
  }

  /** ADD_MEM_REG: nothing that runs is touched; a ring that waited for its memory starts. */
  async addMemoryRegion(region: RegionDescription, fd: Fd): Promise<void> {
    this.guestMemory.add(region, fd);
    await this.settle();
  }

  /** REM_MEM_REG: running rings pause; one that lay in the region waits for its memory. */
  async removeMemoryRegion(region: RegionDescription): Promise<void> {
    if (!this.guestMemory.has(region)) {
      throw refuse(`no memory region at guest address 0x${region.guestAddress.toString(16)}`);
    }
    await this.discardRings();
    this.guestMemory.remove(region);
    await this.settle();
  }

  /** SET_LOG_BASE. Takes effect at once if logging is on. */
  setLogBase(fd: Fd, offset: number, size: number): void {
    const bitmap = LogBitmap.map(fd, offset, size);
    const old = this.logBitmap;
    bitmap.signalFd = this.logFd?.number ?? -1;
    this.logBitmap = bitmap;
    this.applyLog();
    old?.retire();
  }

  /** SET_LOG_FD. Takes the descriptor over. */
  setLogFd(fd: Fd): void {
    fd.setNonBlocking();
    this.logFd?.close();
    this.logFd = fd;
    if (this.logBitmap !== null) this.logBitmap.signalFd = fd.number;
  }

  /** GET_INFLIGHT_FD; the descriptor is the caller's. */
  createInflight(
    queueCount: number,
    queueSize: number,
  ): { fd: Fd; description: InflightDescription } {
    const { device } = this;
    if (queueCount < 1 || queueCount > device.queueCount) {
      throw refuse(`in-flight memory for ${queueCount} queues; there are ${device.queueCount}`);
    }
    if (queueSize < 1 || queueSize > QUEUE_SIZE_MAX) {
      throw refuse(`in-flight memory for ${queueSize} entries; at most ${QUEUE_SIZE_MAX}`);
    }
    return InflightRegion.create(queueCount, queueSize, ringFeatures(this.negotiated).packed);
  }

  /** SET_INFLIGHT_FD. Rings that run go on with their requests in the new memory. */
  async setInflight(fd: Fd, description: InflightDescription): Promise<void> {
    const region = InflightRegion.map(fd, description);
    await this.discardRings();
    this.inflightRegion?.retire();
    this.inflightRegion = region;
    await this.settle();
  }

  /** SET_BACKEND_REQ_FD. Takes the socket over. */
  setChannel(socket: Fd): void {
    if (unixSocketKind(socket.number) !== 'connected') {
      socket.close();
      throw refuse('the descriptor of the back-end channel is no connected socket');
    }
    socket.setNonBlocking();
    this.channel?.close();
    this.channel = new BackEndChannel(socket, this.hasProtocol('REPLY_ACK'), this.log);
  }

  /**
   * Checks that a received descriptor can wake an event loop: eventfd, pipe or socket. A regular
   * file cannot, and the attempt would end the process.
   */
  checkPollable(fd: Fd): void {
    const stat = fstatSync(fd.number);
    const isFile = stat.isFile() || stat.isDirectory() || stat.isBlockDevice();
    if (isFile || stat.isCharacterDevice() || stat.isSymbolicLink()) {
      throw refuse('a kick descriptor that is no eventfd, pipe or socket');
    }
  }

  /** RESET_OWNER: disables all rings, and nothing else. */
  async disableRings(): Promise<void> {
    for (const ring of this.rings) ring.enabled = false;
    await this.settle();
  }

  /** RESET_DEVICE and status 0: rings and device as they were at first. */
  async reset(): Promise<void> {
    await Promise.all(this.rings.map((ring) => ring.reset()));
    this.inflightRegion?.clear();
    this.negotiated = 0n;
    this.status = 0;
    this.device.reset();
  }

  /** SET_STATUS. */
  async setStatus(status: number): Promise<void> {
    if (status === 0) return this.reset();
    // Only a reset takes this bit away.
    this.status = status | (this.status & STATUS.DEVICE_NEEDS_RESET);
  }

  /** Makes the device serve what is to be served. */
  async settle(): Promise<void> {
    for (const ring of this.rings) await ring.settle();
  }

  private async discardRings(): Promise<void> {
    await Promise.all(this.rings.map((ring) => ring.discard()));
  }

  private applyLog(): void {
    for (const ring of this.rings) ring.applyLog();
  }

  /** Stops all rings; resolves when none of their requests is in flight. */
  async stopRings(): Promise<void> {
    await Promise.all(this.rings.map((ring) => ring.stop()));
  }

  /** The front end is gone: stops the device, and releases memory and descriptors. */
  async release(): Promise<void> {
    await this.stopRings();
    this.device.reset('disconnect');
    for (const ring of this.rings) ring.release();
    this.channel?.close();
    this.guestMemory.clear();
    this.inflightRegion?.retire();
    this.logBitmap?.retire();
    this.logFd?.close();
  }
}
