/**
 * The console driver: the ports of any vhost-user back end, as a TypeScript API.
 *
 * ```ts
 * const driver = await ConsoleDriver.connect({ path: '/tmp/ports.sock' });
 * const port = await driver.port('agent');
 * port.listen({ data: (bytes) => process.stdout.write(bytes) });
 * await port.write(Buffer.from('hello\n'));
 * await driver.close();
 * ```
 */
import type { VloError } from '../../errors.js';
import { type DriverClient, DriverHost, type DriverOptions } from '../../kit/driver-host.js';
import type { TerminalSize } from '../../native/index.js';
import type { SharedBlock } from '../../vhost-user/index.js';
import type { DriverQueue } from '../../virtio/index.js';
import { ConsolePort, type PortHost } from './driver-port.js';
import {
  CONSOLE_F,
  CONTROL_RECEIVE,
  CONTROL_TRANSMIT,
  ConsoleConfig,
  ControlMessage,
  EVENT,
  PORT_COUNT_MAX,
  portOf,
  ResizeMessage,
  receiveIndex,
} from './wire.js';

export { ConsolePort, type ConsolePortEvents } from './driver-port.js';

/** Requests in each queue, and bytes of each. */
const SLOT_COUNT = 16;
const SLOT_SIZE = 4096;
const QUEUE_SIZE = SLOT_COUNT * SLOT_SIZE;
/** Control messages that wait for a slot: what a hostile device can make us hold. */
const MESSAGES_MAX = 256;

const ANY_PORT = -1;

/** Somebody who waits for a port. */
interface Waiter {
  readonly name: string | number;
  readonly resolve: (port: ConsolePort) => void;
  readonly reject: (error: VloError) => void;
}

export class ConsoleDriver implements DriverClient, PortHost {
  private readonly host: DriverHost;
  /** There is another port. Those that are there already are {@link ports}. */
  onPort: ((port: ConsolePort) => void) | null = null;
  private memory!: SharedBlock;
  private readonly known: ConsolePort[] = [];
  private readonly lengths: Uint32Array;
  private readonly freeMessages: number[] = [];
  private messages: Uint8Array[] = [];
  private waiters: Waiter[] = [];
  /** False: one port, without control messages. */
  readonly isMultiport: boolean;
  /** Most ports that the device may have. */
  readonly portCountMax: number;

  private constructor(host: DriverHost, portCount: number) {
    this.host = host;
    this.isMultiport = (host.features & CONSOLE_F.MULTIPORT) !== 0n;
    this.portCountMax = portCount;
    this.lengths = new Uint32Array(this.queueCount * SLOT_COUNT);
  }

  /** Number of queues in use. */
  get queueCount(): number {
    return this.isMultiport ? receiveIndex(this.portCountMax) : 2;
  }

  /**
   * Connects to a back end and brings the device into service.
   * @throws VloError VLO_DISCONNECTED, VLO_BACKEND_FEATURES, VLO_TIMEOUT or VLO_PROTOCOL
   */
  static async connect(options: DriverOptions): Promise<ConsoleDriver> {
    let driver: ConsoleDriver | null = null;
    const host = await DriverHost.connect(
      {
        ...options,
        onConnection: (isConnected) => {
          if (isConnected) driver?.introduce();
          options.onConnection?.(isConnected);
        },
      },
      CONSOLE_F.SIZE | CONSOLE_F.MULTIPORT,
    );
    try {
      let portCount = 1;
      let size: TerminalSize | null = null;
      if ((host.features & (CONSOLE_F.MULTIPORT | CONSOLE_F.SIZE)) !== 0n) {
        const config = ConsoleConfig.decode(await host.readConfig(0, ConsoleConfig.size));
        const served = (host.queueCountMax >> 1) - 1;
        portCount = Math.max(1, Math.min(config.maxNrPorts, PORT_COUNT_MAX, served));
        if ((host.features & CONSOLE_F.SIZE) !== 0n) size = config;
      }
      driver = new ConsoleDriver(host, portCount);
      await driver.start(size);
      return driver;
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  private async start(size: TerminalSize | null): Promise<void> {
    const { host, queueCount: count } = this;
    const extraBytes = count * QUEUE_SIZE + 4096;
    await host.open({ count, size: SLOT_COUNT, tableLength: 0, extraBytes }, this);
    this.memory = host.allocate(count * QUEUE_SIZE);
    for (let index = 0; index < count; index += 1) {
      for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
        const token = index * SLOT_COUNT + slot;
        if (index % 2 === 0) this.place(host.rings[index]!, token);
        else if (index === CONTROL_TRANSMIT && this.isMultiport) this.freeMessages.push(token);
      }
    }
    if (!this.isMultiport) {
      const port = this.addPort(0);
      port.become({ isConsole: true, isHostOpen: true, size });
      this.announce(port);
    }
    this.introduce();
    host.loop.wake();
  }

  /** A device, or its successor, learns that there is a driver, and what it has open. */
  private introduce(): void {
    if (!this.isMultiport || this.memory === undefined) return;
    this.tell(0, EVENT.DEVICE_READY, 1);
    for (const port of this.known) if (port?.isOpen) this.tell(port.id, EVENT.PORT_OPEN, 1);
  }

  /** The ports that there are. */
  get ports(): readonly ConsolePort[] {
    return this.known.filter((port) => port?.isReady === true);
  }

  /** Why the driver can do nothing more; null while all is well. */
  get error(): VloError | null {
    return this.host.error;
  }

  /** The port of a name or number, as soon as there is one. @throws VloError of the driver */
  port(name: string | number): Promise<ConsolePort> {
    const isMeant = (port: ConsolePort): boolean => port.id === name || port.name === name;
    const found = this.ports.find(isMeant);
    if (found !== undefined) return Promise.resolve(found);
    if (this.error !== null) return Promise.reject(this.error);
    return new Promise((resolve, reject) => this.waiters.push({ name, resolve, reject }));
  }

  /** The first port that there is. @throws VloError of the driver */
  firstPort(): Promise<ConsolePort> {
    const [first] = this.ports;
    return first === undefined ? this.port(ANY_PORT) : Promise.resolve(first);
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

  private addPort(id: number): ConsolePort {
    const first = receiveIndex(id) * SLOT_COUNT;
    this.known[id] ??= new ConsolePort(this, id, first, SLOT_COUNT);
    return this.known[id]!;
  }

  /** @internal The bytes of a request. */
  slot(token: number): Uint8Array {
    return this.memory.bytes.subarray(token * SLOT_SIZE, (token + 1) * SLOT_SIZE);
  }

  /** @internal Hands a request over: an empty buffer, or `length` bytes to send. */
  submit(token: number, length: number): void {
    this.lengths[token] = length;
    this.place(this.host.rings[Math.floor(token / SLOT_COUNT)]!, token);
    this.host.loop.wake();
  }

  /** @internal */
  place(ring: DriverQueue, token: number): void {
    ring.begin();
    const address = this.memory.address + token * SLOT_SIZE;
    if (ring.index % 2 === 0) ring.addWritable(address, SLOT_SIZE);
    else ring.addReadable(address, this.lengths[token]!);
    ring.commit(token);
  }

  /** @internal */
  used(token: number, length: number): void {
    const index = Math.floor(token / SLOT_COUNT);
    if (this.isMultiport && index === CONTROL_RECEIVE) {
      this.deviceSaid(this.slot(token).slice(0, length));
      this.submit(token, 0);
    } else if (this.isMultiport && index === CONTROL_TRANSMIT) {
      this.freeMessages.push(token);
      this.sendMessages();
    } else {
      const port = this.known[portOf(index)];
      if (index % 2 === 1) port?.sent(token);
      else if (port === undefined) this.submit(token, 0);
      else port.received(token, length);
    }
  }

  /** @internal */
  tell(id: number, event: number, value: number): void {
    if (!this.isMultiport || this.messages.length >= MESSAGES_MAX) return;
    this.messages.push(ControlMessage.encode({ id, event, value }));
    this.sendMessages();
  }

  private sendMessages(): void {
    while (this.messages.length > 0 && this.error === null) {
      const token = this.freeMessages.pop();
      if (token === undefined) return;
      const message = this.messages.shift()!;
      this.slot(token).set(message);
      this.submit(token, message.length);
    }
  }

  /** A control message of the device; what makes no sense is left alone. */
  private deviceSaid(bytes: Uint8Array): void {
    if (bytes.length < ControlMessage.size) return;
    const { id, event, value } = ControlMessage.decode(bytes);
    const rest = bytes.subarray(ControlMessage.size);
    if (id >= this.portCountMax) return;
    if (event === EVENT.DEVICE_ADD) {
      const port = this.addPort(id);
      port.become({ isGone: false });
      this.tell(id, EVENT.PORT_READY, 1);
      if (port.isOpen) this.tell(id, EVENT.PORT_OPEN, 1);
      return;
    }
    const port = this.known[id];
    if (port === undefined) return;
    if (event === EVENT.DEVICE_REMOVE) {
      port.become({ isHostOpen: false, isGone: true });
    } else if (event === EVENT.CONSOLE_PORT) {
      port.become({ isConsole: true });
      port.open();
    } else if (event === EVENT.PORT_NAME) {
      port.become({ name: Buffer.from(rest).toString('utf8').replaceAll('\0', '') });
      this.announce(port);
    } else if (event === EVENT.RESIZE && rest.length >= ResizeMessage.size) {
      port.become({ size: ResizeMessage.decode(rest) });
    } else if (event === EVENT.PORT_OPEN) {
      port.become({ isHostOpen: value !== 0 });
      this.announce(port);
    }
  }

  /** A port is there for others when its name is known, or when it can be used without one. */
  private announce(port: ConsolePort): void {
    if (port.isReady) return;
    port.isReady = true;
    this.onPort?.(port);
    const isMeant = ({ name }: { name: string | number }): boolean =>
      name === ANY_PORT || name === port.id || name === port.name;
    for (const { resolve } of this.waiters.filter(isMeant)) resolve(port);
    this.waiters = this.waiters.filter((waiter) => !isMeant(waiter));
  }

  /** @internal */
  failed(error: VloError): void {
    for (const port of this.known) port?.failed(error);
    for (const { reject } of this.waiters.splice(0)) reject(error);
  }

  /** @internal */
  configChanged(): void {
    // Several ports are told of their sizes one by one.
    if (!this.isMultiport) void this.readSize();
  }

  private async readSize(): Promise<void> {
    const bytes = await this.host.readConfig(0, ConsoleConfig.size).catch(() => null);
    if (bytes !== null) this.known[0]?.become({ size: ConsoleConfig.decode(bytes) });
  }
}
