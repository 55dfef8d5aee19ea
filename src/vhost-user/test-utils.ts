/** For tests of the back end: guest memory, a scripted front end, and a device that does little. */
import { assert, type VloError } from '../errors.js';
import {
  acceptUnix,
  consumeEvent,
  createEventFd,
  createMemfd,
  type Fd,
  listenUnix,
  Mapping,
  socketPair,
  Watch,
} from '../native/index.js';
import {
  type Chain,
  type DeviceQueue,
  type DriverQueue,
  F,
  layoutAreas,
  layoutQueue,
  PackedDriverQueue,
  type QueueLayout,
  type RingFeatures,
  ringFeatures,
  SplitDriverQueue,
} from '../virtio/index.js';
import { BackEndSession } from './back-end.js';
import type { BackEndDevice } from './back-end-device.js';
import { decodeReply, encodeRequest } from './codec.js';
import { Connection, type IncomingMessage } from './connection.js';
import type { FrontEndMessage, Payload, ReplyPayload } from './messages.js';
import { HEADER_FLAGS, PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';

/** What the fake device writes into each byte of a writable part. */
export const FILL = 0xab;

/** A device that fills writable parts; it can hold requests back until {@link release}. */
export class FakeDevice implements BackEndDevice {
  readonly name = 'fake';
  features = F.VERSION_1 | F.EVENT_IDX | F.INDIRECT_DESC | F.RING_PACKED | F.IN_ORDER | 1n;
  queueCount = 2;
  configSize = 300;
  readonly config = Uint8Array.from({ length: 300 }, (_, i) => i & 0xff);
  /** Requests are taken and kept. */
  holds = false;
  readonly held: { queue: DeviceQueue; chain: Chain }[] = [];
  /** Requests served, by id, in order. */
  readonly served: number[] = [];
  readonly events: string[] = [];
  readonly running = new Map<DeviceQueue, Watch | null>();
  private readonly idle = new Map<DeviceQueue, () => void>();

  readConfig(offset: number, size: number): Uint8Array {
    return this.config.slice(offset, offset + size);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    this.config.set(bytes, offset);
    this.events.push(`writeConfig ${offset} ${bytes.length}`);
  }

  setFeatures(features: bigint): void {
    this.events.push(`setFeatures ${features.toString(16)}`);
  }

  startQueue(queue: DeviceQueue, kickFd: number): void {
    assert(!this.running.has(queue), 'a queue was started twice');
    this.events.push(`start ${queue.index} ${kickFd >= 0 ? 'fd' : kickFd}`);
    const watch =
      kickFd < 0
        ? null
        : new Watch(kickFd, () => {
            if (consumeEvent(kickFd) > 0) this.serve(queue);
          });
    this.running.set(queue, watch);
    this.serve(queue);
  }

  async stopQueue(queue: DeviceQueue): Promise<void> {
    this.events.push(`stop ${queue.index}`);
    this.running.get(queue)?.close();
    this.running.delete(queue);
    if (queue.inflightCount === 0) return;
    await new Promise<void>((resolve) => this.idle.set(queue, resolve));
    this.idle.delete(queue);
  }

  kickQueue(queue: DeviceQueue): void {
    this.serve(queue);
  }

  reset(): void {
    this.events.push('reset');
  }

  /** Takes what there is. */
  serve(queue: DeviceQueue): void {
    do {
      for (let chain = queue.pop(); chain !== null; chain = queue.pop()) {
        if (this.holds) this.held.push({ queue, chain });
        else this.finish(queue, chain);
      }
      queue.publish();
    } while (queue.armKicks());
  }

  private finish(queue: DeviceQueue, chain: Chain): void {
    this.served.push(chain.id);
    const bytes = new Uint8Array(chain.writer.remaining).fill(FILL);
    chain.writer.write(bytes);
    queue.complete(chain);
  }

  /** Completes held requests; all of them, or those at the given places. */
  release(places = [...this.held.keys()]): void {
    const chosen = places.map((place) => this.held[place]!);
    for (const entry of chosen) {
      this.held.splice(this.held.indexOf(entry), 1);
      this.finish(entry.queue, entry.chain);
    }
    for (const queue of new Set(chosen.map((entry) => entry.queue))) {
      queue.publish();
      if (queue.inflightCount === 0) this.idle.get(queue)?.();
    }
  }
}

/** Guest memory in a memfd, with the addresses that a front end would tell. */
export class GuestRam {
  readonly fd: Fd;
  readonly mapping: Mapping;
  readonly size: number;
  readonly guestAddress: number;
  readonly userAddress: number;

  constructor(size = 2 ** 20, guestAddress = 0x40000000, userAddress = 0x7f0000000000) {
    this.fd = createMemfd('guest', size);
    this.mapping = Mapping.shared(this.fd.number, size);
    this.size = size;
    this.guestAddress = guestAddress;
    this.userAddress = userAddress;
  }

  get region(): { guestAddress: number; size: number; userAddress: number; mmapOffset: number } {
    const { guestAddress, size, userAddress } = this;
    return { guestAddress, size, userAddress, mmapOffset: 0 };
  }

  free(): void {
    this.mapping.retire();
    this.fd.close();
  }
}

/** Bytes of guest memory that each ring takes. */
const RING_ROOM = 0x10000;
/** Where the data of requests lies. */
export const DATA = 0x80000;

/** A ring in guest memory, with the driver's side of it. */
export class TestRing {
  readonly index: number;
  readonly ram: GuestRam;
  readonly layout: QueueLayout;
  readonly kick = createEventFd();
  readonly call = createEventFd();
  readonly err = createEventFd();
  readonly driver: DriverQueue;

  constructor(ram: GuestRam, index: number, size: number, features: RingFeatures) {
    this.index = index;
    this.ram = ram;
    this.layout = layoutQueue(size, features.packed);
    const areas = layoutAreas(this.layout, ram.mapping.bytes(index * RING_ROOM, RING_ROOM));
    const options = { index, size, features, areas, kickFd: this.kick.number };
    this.driver = features.packed ? new PackedDriverQueue(options) : new SplitDriverQueue(options);
  }

  /** Payload of SET_VRING_ADDR. */
  address(flags = 0, log = 0n): Payload<'SET_VRING_ADDR'> {
    const { layout, index } = this;
    const start = this.ram.userAddress + index * RING_ROOM;
    return {
      index,
      flags,
      descriptor: start + layout.descriptor,
      available: start + layout.driver,
      used: start + layout.device,
      log,
    };
  }

  /** Guest address of the device area. */
  get usedGuestAddress(): number {
    return this.ram.guestAddress + this.index * RING_ROOM + this.layout.device;
  }

  /** Places a request with one readable and one writable segment; visible at `publish`. */
  add(token: number, size = 16, kick = true): void {
    const { driver, ram } = this;
    const at = ram.guestAddress + DATA + (token % 256) * 1024;
    driver.begin();
    driver.addReadable(at, 8);
    driver.addWritable(at + 512, size);
    assert(driver.commit(token), 'the ring is full');
    if (kick) driver.publish();
  }

  /** Tokens that came back. */
  take(): number[] {
    const tokens: number[] = [];
    while (this.driver.next()) tokens.push(this.driver.usedToken);
    return tokens;
  }

  free(): void {
    this.kick.close();
    this.call.close();
    this.err.close();
  }
}

/** A front end that sends what it is told to. */
export class RawFrontEnd {
  readonly connection: Connection;
  /** Settled when the back end has closed the connection. */
  readonly closed: Promise<VloError | null>;
  private readonly waiting: ((message: IncomingMessage) => void)[] = [];
  private readonly replies: IncomingMessage[] = [];

  constructor(socket: Fd) {
    let resolveClosed!: (error: VloError | null) => void;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    const role = { requester: 'frontEnd', receives: 'reply' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => {
        const kept = { ...message, fds: message.fds.splice(0) };
        const waiter = this.waiting.shift();
        if (waiter === undefined) this.replies.push(kept);
        else waiter(kept);
      },
      onClose: resolveClosed,
    });
  }

  send<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[] = [],
    needReply = false,
  ): void {
    const flags = needReply ? HEADER_FLAGS.NEED_REPLY : 0;
    this.connection.send(encodeRequest(name, payload, flags), fds);
  }

  /** The next reply, whatever it answers. Descriptors in it are the caller's. */
  reply(): Promise<IncomingMessage> {
    const reply = this.replies.shift();
    if (reply !== undefined) return Promise.resolve(reply);
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Sends a message that is replied to. */
  async get<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[] = [],
  ): Promise<ReplyPayload<N> & { fds: Fd[] }> {
    this.send(name, payload, fds);
    const reply = await this.reply();
    return { ...decodeReply(name, reply.payload, reply.fds.length), fds: reply.fds };
  }

  /** Sends a message with NEED_REPLY; true when it went well. */
  async ack<N extends FrontEndMessage>(
    name: N,
    payload: Payload<N>,
    fds: readonly Fd[] = [],
  ): Promise<boolean> {
    this.send(name, payload, fds, true);
    const { payload: bytes } = await this.reply();
    return bytes.every((byte) => byte === 0);
  }

  /** Waits until the back end has handled all that was sent. */
  async sync(): Promise<void> {
    await this.get('GET_FEATURES', {});
  }

  close(): void {
    this.connection.close();
  }
}

export interface HarnessOptions {
  readonly features?: bigint;
  readonly protocol?: bigint;
  readonly inBand?: boolean;
  readonly log?: (line: string) => void;
}

/** Protocol features that the harness negotiates unless told otherwise. */
export const PROTOCOL_DEFAULT =
  PROTOCOL_FEATURE.MQ |
  PROTOCOL_FEATURE.REPLY_ACK |
  PROTOCOL_FEATURE.BACKEND_REQ |
  PROTOCOL_FEATURE.CONFIG |
  PROTOCOL_FEATURE.INFLIGHT_SHMFD |
  PROTOCOL_FEATURE.LOG_SHMFD |
  PROTOCOL_FEATURE.RESET_DEVICE |
  PROTOCOL_FEATURE.STATUS |
  PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS;

/** A device, a session, and a front end over a socket pair. */
export class Harness {
  readonly device: FakeDevice;
  readonly session: BackEndSession;
  readonly frontEnd: RawFrontEnd;
  readonly logged: string[] = [];
  /** Settled when the session has ended, with its error. */
  readonly ended: Promise<VloError | null>;
  readonly features: bigint;
  private readonly options: HarnessOptions;
  private readonly rings: TestRing[] = [];

  constructor(device = new FakeDevice(), options: HarnessOptions = {}) {
    this.device = device;
    this.options = options;
    this.features = options.features ?? F.VERSION_1 | VIRTIO_FEATURE.PROTOCOL_FEATURES;
    const [ours, theirs] = socketPair();
    let resolveEnded!: (error: VloError | null) => void;
    this.ended = new Promise((resolve) => {
      resolveEnded = resolve;
    });
    this.session = new BackEndSession(
      theirs,
      device,
      { onClose: resolveEnded },
      { log: (line) => this.logged.push(line), inBandNotifications: options.inBand === true },
    );
    this.frontEnd = new RawFrontEnd(ours);
  }

  get ringFeatures(): RingFeatures {
    return ringFeatures(this.features);
  }

  /** Negotiates features; with `ram` shares it too. */
  async negotiate(ram?: GuestRam): Promise<void> {
    const { frontEnd } = this;
    frontEnd.send('SET_OWNER', {});
    const { value } = await frontEnd.get('GET_PROTOCOL_FEATURES', {});
    const protocol = this.options.protocol ?? PROTOCOL_DEFAULT;
    assert((protocol & ~value) === 0n, 'protocol features are missing');
    frontEnd.send('SET_PROTOCOL_FEATURES', { value: protocol });
    frontEnd.send('SET_FEATURES', { value: this.features });
    if (ram !== undefined) frontEnd.send('SET_MEM_TABLE', { regions: [ram.region] }, [ram.fd]);
    await frontEnd.sync();
  }

  /** Makes a ring and tells the back end all of it, as QEMU does. */
  async startRing(ram: GuestRam, index = 0, size = 8): Promise<TestRing> {
    const ring = new TestRing(ram, index, size, this.ringFeatures);
    this.rings.push(ring);
    await this.describeRing(ring, ring.driver.features.packed ? 0x80008000 : 0);
    return ring;
  }

  /** Sends the messages that start a ring. */
  async describeRing(ring: TestRing, base: number): Promise<void> {
    const { frontEnd } = this;
    const { index } = ring;
    frontEnd.send('SET_VRING_NUM', { index, num: ring.layout.size });
    frontEnd.send('SET_VRING_BASE', { index, num: base });
    frontEnd.send('SET_VRING_ADDR', ring.address());
    frontEnd.send('SET_VRING_KICK', { value: BigInt(index) }, [ring.kick]);
    frontEnd.send('SET_VRING_CALL', { value: BigInt(index) }, [ring.call]);
    frontEnd.send('SET_VRING_ERR', { value: BigInt(index) }, [ring.err]);
    if ((this.features & VIRTIO_FEATURE.PROTOCOL_FEATURES) !== 0n) {
      frontEnd.send('SET_VRING_ENABLE', { index, num: 1 });
    }
    await frontEnd.sync();
  }

  /** The front end leaves; resolves when the session has ended. */
  async leave(): Promise<VloError | null> {
    this.frontEnd.close();
    const error = await this.ended;
    for (const ring of this.rings) ring.free();
    return error;
  }
}

/** A device that can be lost as by SIGKILL: what it holds is never completed. */
export class MortalDevice extends FakeDevice {
  isDead = false;

  override async stopQueue(queue: DeviceQueue): Promise<void> {
    if (!this.isDead) return super.stopQueue(queue);
    this.running.get(queue)?.close();
    this.running.delete(queue);
  }
}

export interface ServerOptions {
  /** Protocol features that are not offered. */
  readonly without?: bigint;
  readonly inBand?: boolean;
}

/** Serves devices on a path, one session at a time, until {@link close}. */
export class TestServer {
  device = new MortalDevice();
  session: BackEndSession | null = null;
  readonly messages: number[] = [];
  options: ServerOptions;
  private readonly listener: Fd;
  private readonly watch: Watch;
  private readonly endings: Promise<unknown>[] = [];

  constructor(path: string, options: ServerOptions = {}) {
    this.options = options;
    this.listener = listenUnix(path);
    this.watch = new Watch(this.listener.number, () => {
      const socket = acceptUnix(this.listener.number);
      if (socket !== null) this.serve(socket);
    });
  }

  private serve(socket: Fd): void {
    const { without = 0n, inBand = false } = this.options;
    let ended = (): void => {};
    this.endings.push(
      new Promise<void>((resolve) => {
        ended = resolve;
      }),
    );
    const events = {
      onClose: () => ended(),
      onMessage: (from: string, bytes: Uint8Array) => {
        if (from === 'frontEnd') this.messages.push(bytes[0]!);
      },
    };
    this.session = new BackEndSession(socket, this.device, events, { inBandNotifications: inBand });
    const { state } = this.session as unknown as { state: { offeredProtocol: bigint } };
    state.offeredProtocol &= ~without;
  }

  /** The present device dies; the next session meets a new one. */
  async die(successor = new MortalDevice()): Promise<void> {
    this.device.isDead = true;
    const dying = this.session!.close();
    this.device = successor;
    await dying;
  }

  async close(): Promise<void> {
    this.watch.close();
    this.listener.close();
    this.device.isDead = true;
    await this.session?.close();
    await Promise.all(this.endings);
  }
}

/** Waits until `condition` holds, or fails after two seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = Date.now() + 2000;
  while (!condition()) {
    assert(Date.now() < end, `timeout: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
