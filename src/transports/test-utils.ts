/** For tests of the kernel transports: a kernel without a kernel. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert, VloError } from '../errors.js';
import { signalEvent } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import type { RelayPast, RelayRegion } from '../vhost-user/index.js';
import {
  GuestRam,
  type ServerOptions,
  TestRing,
  TestServer,
  until,
} from '../vhost-user/test-utils.js';
import { F, ringFeatures } from '../virtio/index.js';
import type { Attachment, AttachmentState, AttachOptions } from './attachment.js';
import { attachKernel } from './kernel-attachment.js';
import type {
  KernelPort,
  KernelTransport,
  PortHandler,
  PortIdentity,
  PortQueue,
  PortSpec,
  PortState,
} from './kernel-port.js';

const RING_SIZE = 16;

/**
 * A device in a kernel of its own: it outlives adapters, its driver is the test, its rings lie in
 * a memory file.
 */
export class FakeKernel implements KernelTransport {
  readonly name = 'loopback';
  readonly ram = new GuestRam();
  readonly rings: TestRing[] = [];
  readonly events: string[] = [];
  spec: PortSpec | null = null;
  config = new Uint8Array(0);
  features = 0n;
  isRunning = false;
  port: FakePort | null = null;
  past: RelayPast | null = null;
  /** Failing requests is not possible. */
  cannotFail = false;
  /** What `open` reports of itself, where it differs from the spec. */
  identity: Partial<PortIdentity> = {};
  node: string | null = '/dev/fake';
  /** Memory beside that of the rings. */
  extra: RelayRegion[] = [];
  private ringCount = 0;

  open(spec: PortSpec): Promise<KernelPort> {
    const isTakenOver = this.spec !== null;
    if (this.port !== null) {
      return Promise.reject(new VloError('VLO_DEVICE_IN_USE', 'somebody has it'));
    }
    this.spec ??= spec;
    if (!isTakenOver) this.config = spec.config.slice();
    this.port = this.makePort(isTakenOver);
    return Promise.resolve(this.port);
  }

  protected makePort(isTakenOver: boolean): FakePort {
    return new FakePort(this, isTakenOver);
  }

  /** The driver sets its queues up and is ready. */
  async start(features: bigint, queueCount = this.spec!.queueSizes.length): Promise<void> {
    this.features = features & this.spec!.features;
    for (let index = 0; index < queueCount; index += 1) this.addRing(index);
    this.isRunning = true;
    await this.port?.tell();
  }

  addRing(index: number): TestRing {
    const ring = new TestRing(this.ram, index, RING_SIZE, ringFeatures(this.features));
    this.ram.mapping.bytes(index * 0x10000, 0x10000).fill(0);
    this.rings[index] = ring;
    this.ringCount += 1;
    return ring;
  }

  /** The driver resets one queue; resolves when the adapter has acknowledged it. */
  async removeRing(index: number): Promise<void> {
    const ring = this.rings[index]!;
    delete this.rings[index];
    await this.port?.tell();
    ring.free();
  }

  /** The driver resets the device; resolves when the adapter has acknowledged it. */
  async reset(): Promise<void> {
    this.isRunning = false;
    await this.port?.tell(true);
    for (const ring of this.rings) ring?.free();
    this.rings.length = 0;
  }

  /** The adapter dies as by SIGKILL: its sockets close, and nothing is said. */
  killAdapter(attachment: Attachment): void {
    const { relay } = attachment as unknown as { relay: { destroy(): void } };
    relay.destroy();
    this.port!.isClosed = true;
    this.port = null;
  }

  get state(): PortState {
    const { isRunning, features, ram } = this;
    const { fd, guestAddress, size } = ram;
    this.region ??= { fd, guestAddress, size, mmapOffset: 0 };
    const queues = isRunning ? this.rings.filter((ring) => ring !== undefined).map(asQueue) : [];
    return { isRunning, features, regions: [this.region, ...this.extra], queues };
  }
  protected region: PortState['regions'][number] | null = null;

  /** Completes what is outstanding in split rings that have not wrapped yet. */
  failRequests(): number | null {
    this.events.push('failRequests');
    if (this.cannotFail) return null;
    let count = 0;
    for (const ring of this.rings) count += failSplit(ring);
    return count;
  }

  free(): void {
    for (const ring of this.rings) ring?.free();
    this.past?.memory?.fd.close();
    this.ram.free();
  }
}

function asQueue({ index, ram, layout, kick, call }: TestRing): PortQueue {
  const start = ram.guestAddress + index * 0x10000;
  return {
    ...{ index, size: layout.size, kick, call, isBroken: false },
    descriptor: start + layout.descriptor,
    driver: start + layout.driver,
    device: start + layout.device,
  };
}

function failSplit({ ram, index, layout, call }: TestRing): number {
  const bytes = ram.mapping.bytes(index * 0x10000, 0x10000);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [placed, used] = [layout.driver, layout.device].map((at) => view.getUint16(at + 2, true));
  assert(placed! <= layout.size, 'the ring has wrapped');
  const outstanding = new Set<number>();
  for (let i = 0; i < placed!; i += 1) {
    outstanding.add(view.getUint16(layout.driver + 4 + i * 2, true));
  }
  for (let i = 0; i < used!; i += 1) {
    outstanding.delete(view.getUint32(layout.device + 4 + i * 8, true));
  }
  for (const [i, head] of [...outstanding].entries()) {
    view.setUint32(layout.device + 4 + (used! + i) * 8, head, true);
    view.setUint32(layout.device + 8 + (used! + i) * 8, 0, true);
  }
  view.setUint16(layout.device + 2, used! + outstanding.size, true);
  signalEvent(call.number);
  return outstanding.size;
}

export class FakePort implements KernelPort {
  readonly isTakenOver: boolean;
  readonly identity: PortIdentity;
  isClosed = false;
  private readonly kernel: FakeKernel;
  private handler: PortHandler | null = null;

  constructor(kernel: FakeKernel, isTakenOver: boolean) {
    this.kernel = kernel;
    this.isTakenOver = isTakenOver;
    const { deviceId, features, queueSizes, config } = kernel.spec!;
    const { identity } = kernel;
    this.identity = { deviceId, features, queueSizes, configSize: config.length, ...identity };
  }

  listen(handler: PortHandler): void {
    this.handler = handler;
    void this.tell();
  }

  async tell(wasReset = false): Promise<void> {
    await this.handler!.changed(this.state(), wasReset);
    if (wasReset) this.kernel.events.push('acknowledged');
  }

  configWritten(): Promise<void> {
    return this.handler!.configWritten();
  }

  broken(): void {
    this.handler!.broken();
  }

  gone(): void {
    this.handler!.gone();
  }

  state(): PortState {
    return this.kernel.state;
  }

  readConfig(): Uint8Array {
    return this.kernel.config.slice();
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.kernel.config.set(bytes, offset);
    this.kernel.events.push(`config ${offset} ${bytes.length}`);
  }

  stash(past: RelayPast | null): void {
    const { kernel } = this;
    kernel.past?.memory?.fd.close();
    const memory = past?.memory ?? null;
    kernel.past = past === null ? null : { memory };
    if (memory !== null) kernel.past = { memory: { ...memory, fd: memory.fd.duplicate() } };
    kernel.events.push(past === null ? 'no past' : memory === null ? 'untracked' : 'tracked');
  }

  takeStash(): RelayPast | null {
    const memory = this.kernel.past?.memory ?? null;
    if (memory === null) return this.kernel.past;
    return { memory: { ...memory, fd: memory.fd.duplicate() } };
  }

  failRequests(): number | null {
    return this.kernel.failRequests();
  }

  async findNode(): Promise<string | null> {
    const { kernel } = this;
    for (let i = 0; i < 100 && !kernel.isRunning; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return kernel.isRunning ? kernel.node : null;
  }

  /** The driver stops as Linux's do: it waits for its requests, resets the device, and is gone. */
  remove(): void {
    this.kernel.events.push('remove');
    if (this.handler === null) return;
    void (async () => {
      if (this.kernel.isRunning) await this.kernel.reset();
      this.kernel.spec = null;
      this.handler?.gone();
    })();
  }

  close(): void {
    this.kernel.events.push('close');
    this.isClosed = true;
    if (this.kernel.port === this) this.kernel.port = null;
  }
}

/**
 * A kernel that makes rings anew for each back end, with the requests in them that the last one did
 * not complete: as the loopback module does.
 */
export class RenewingKernel extends FakeKernel {
  /** Tokens of each ring that the driver waits for, and those that came back. */
  readonly outstanding: Set<number>[] = [];
  readonly back: number[] = [];

  protected override makePort(isTakenOver: boolean): FakePort {
    return new RenewingPort(this, isTakenOver);
  }

  override addRing(index: number): TestRing {
    this.outstanding[index] ??= new Set();
    return super.addRing(index);
  }

  place(index: number, token: number): void {
    this.outstanding[index]!.add(token);
    this.rings[index]!.add(token);
  }

  harvest(): void {
    for (const [index, ring] of this.rings.entries()) {
      for (const token of ring.take()) {
        if (!this.outstanding[index]!.delete(token)) throw new Error(`${token} came back twice`);
        this.back.push(token);
      }
    }
  }

  renew(): PortState {
    this.events.push('renew');
    this.harvest();
    this.region = null;
    for (const [index, old] of [...this.rings.entries()]) {
      const ring = this.addRing(index);
      old.free();
      for (const token of this.outstanding[index]!) ring.add(token);
    }
    return this.state;
  }

  override get state(): PortState {
    const state = super.state;
    return { ...state, queues: state.queues.map((queue) => ({ ...queue, base: 0 })) };
  }
}

class RenewingPort extends FakePort {
  private readonly renewing: RenewingKernel;

  constructor(kernel: RenewingKernel, isTakenOver: boolean) {
    super(kernel, isTakenOver);
    this.renewing = kernel;
  }

  renew(): PortState {
    return this.renewing.renew();
  }
}

/** Features that a driver accepts in the tests. */
export const DRIVER_FEATURES = F.VERSION_1 | F.EVENT_IDX | F.INDIRECT_DESC;

/** What a test has at hand. */
export interface Stand<K extends FakeKernel = FakeKernel> {
  readonly server: TestServer;
  readonly kernel: K;
  readonly states: (AttachmentState | VloError)[];
  readonly lines: string[];
  attach(options?: Partial<AttachOptions>): Promise<Attachment>;
}

/** Runs a test with a back end and a kernel, and checks that nothing is left. */
export function withStand(options: ServerOptions, work: (stand: Stand) => Promise<void>) {
  return withKernel(() => new FakeKernel(), options, work);
}

/** The same with a kernel of another kind. */
export async function withKernel<K extends FakeKernel>(
  makeKernel: () => K,
  options: ServerOptions,
  work: (stand: Stand<K>) => Promise<void>,
) {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  const path = join(folder, 's');
  await expectNoLeaks(async () => {
    const server = new TestServer(path, options);
    const kernel = makeKernel();
    const attachments: Attachment[] = [];
    const states: Stand<K>['states'] = [];
    const lines: string[] = [];
    const attach = async (more: Partial<AttachOptions> = {}) => {
      const attachment = await attachKernel(kernel, {
        // Two queues and 8 bytes of config space: the fake device has that and more.
        ...{ name: 'gpio0', type: 'gpio', socket: path, folder: '' },
        log: (line) => lines.push(line),
        onState: (state, error) => states.push(error ?? state),
        ...more,
      });
      attachments.push(attachment);
      return attachment;
    };
    try {
      await work({ server, kernel, states, lines, attach });
    } finally {
      for (const attachment of attachments) await attachment.close();
      kernel.free();
      await server.close();
      rmSync(folder, { recursive: true });
    }
  });
}

/** Waits until that many requests came back on a ring, over all calls with the same list. */
export async function comeBack(
  kernel: FakeKernel,
  index: number,
  count: number,
  back: number[] = [],
) {
  await until(() => {
    back.push(...kernel.rings[index]!.take());
    return back.length >= count;
  }, `${count} requests come back`);
  return back.toSorted((a, b) => a - b);
}

/** The driver of the fake kernel starts as soon as the device is there. */
export async function started(
  stand: Stand,
  features = DRIVER_FEATURES,
  options?: Partial<AttachOptions>,
) {
  const { kernel } = stand;
  const pending = stand.attach(options);
  await until(() => kernel.spec !== null || kernel.port !== null, 'created');
  await until(() => kernel.port !== null, 'there');
  // Everything that was to listen listens.
  await new Promise((resolve) => setTimeout(resolve, 5));
  if (!kernel.isRunning) await kernel.start(features);
  return pending;
}
