/**
 * The ports and control messages of the console device (virtio 1.x, section 5.3.6).
 *
 *   driver                     device
 *     DEVICE_READY ──────────►
 *                  ◄────────── DEVICE_ADD, for each port whose queues run
 *     PORT_READY   ──────────►
 *                  ◄────────── CONSOLE_PORT, RESIZE (consoles) · PORT_NAME · PORT_OPEN
 *     PORT_OPEN    ──────────►                                        (both, at any time)
 */
import type {
  DeviceHost,
  HandlerResult,
  OpenDevice,
  Request,
  ResetCause,
  ServedQueue,
} from '../../kit/index.js';
import type { TerminalSize } from '../../native/index.js';
import type { PortEnd, PortEvents, PortSpec } from './backend.js';
import { Port } from './port.js';
import {
  CONSOLE_F,
  CONTROL_RECEIVE,
  ConsoleConfig,
  ControlMessage,
  EVENT,
  portOf,
  ResizeMessage,
  receiveIndex,
} from './wire.js';

/** How long a successor waits for clients to come back before its driver hears of none, in ms. */
const RETURN_MS = 1000;

export interface ConsoleDeviceOptions {
  readonly ports: readonly PortSpec[];
  /** False: one port without control queues, which drivers take for a console. */
  readonly isMultiport: boolean;
  /** Size of consoles whose end has none. */
  readonly size: TerminalSize;
  readonly openEnd: (spec: PortSpec, events: PortEvents) => PortEnd;
}

type QueueName = 'receiveq' | 'transmitq' | 'controlReceiveq' | 'controlTransmitq';

/** Serves the ports of one console. */
export class ConsoleDevice {
  private readonly options: ConsoleDeviceOptions;
  private readonly host: DeviceHost;
  private readonly ports: Port[] = [];
  private isDriverReady = false;
  private flushTimer: NodeJS.Immediate | null = null;
  private returnTimer: NodeJS.Timeout | undefined;
  private features = 0n;
  private config: Uint8Array;

  /** @throws VloError VLO_PORT_ACCESS, VLO_SOCKET_IN_USE */
  constructor(options: ConsoleDeviceOptions, host: DeviceHost) {
    this.options = options;
    this.host = host;
    try {
      for (const [id, spec] of options.ports.entries()) this.addPort(id, spec);
    } catch (error) {
      this.close();
      throw error;
    }
    this.config = this.encodeConfig();
  }

  private addPort(id: number, spec: PortSpec): void {
    const log = (line: string): void =>
      this.host.log(`port ${id}${spec.name === '' ? '' : ` (${spec.name})`}: ${line}`);
    const end = this.options.openEnd(spec, {
      ready: () => this.ports[id]?.pump(),
      changed: () => this.endChanged(id),
      log,
    });
    this.ports.push(new Port(id, spec, end));
    log(`on ${end.place}`);
  }

  /** What the kit needs to serve this device. */
  open(): OpenDevice<QueueName> {
    const { isMultiport } = this.options;
    return {
      features: CONSOLE_F.SIZE | CONSOLE_F.EMERG_WRITE | (isMultiport ? CONSOLE_F.MULTIPORT : 0n),
      config: this.config,
      queueOrder: queueOrder(isMultiport ? this.ports.length : 0),
      handlers: {
        transmitq: (request, queue) => this.send(request, queue),
        controlTransmitq: (request) => this.driverSaid(request),
      },
      setFeatures: (features) => this.setFeatures(features),
      writeConfig: (offset, bytes) => this.writeConfig(offset, bytes),
      queueStarted: (queue) => this.queueStarted(queue),
      queueStopping: (queue) => {
        for (const port of this.ports) port.stopping(queue);
      },
      supplied: (queue) => {
        if (queue.name === 'controlReceiveq') this.flushSoon();
        else this.ports[portOf(queue.index)]?.pump();
      },
      reset: (cause) => this.reset(cause),
      close: () => this.close(),
    };
  }

  /** A driver whose front end is gone may go on; one that resets its device knows nothing more. */
  private reset(cause: ResetCause): void {
    for (const port of this.ports) {
      port.reset();
      if (cause === 'driver') port.forget();
    }
    if (cause === 'driver') this.isDriverReady = false;
  }

  private get isMultiport(): boolean {
    return (this.features & CONSOLE_F.MULTIPORT) !== 0n;
  }

  private sizeOf({ end }: Port): TerminalSize {
    return end.size ?? this.options.size;
  }

  private encodeConfig(): Uint8Array {
    const [first] = this.ports;
    return ConsoleConfig.encode({ ...this.sizeOf(first!), maxNrPorts: this.ports.length });
  }

  private setFeatures(features: bigint): void {
    this.features = features;
    if (this.isMultiport) return;
    // There is nobody to tell: the one port is a console, and open.
    this.isDriverReady = false;
    for (const port of this.ports) port.forget();
    this.ports[0]!.isConsole = true;
    this.ports[0]!.isReceiving = true;
  }

  /** A console that is called before anything is set up: one character (section 5.3.4). */
  private writeConfig(offset: number, bytes: Uint8Array): void {
    const at = ConsoleConfig.offsets.emergWr - offset;
    if (at >= 0 && at < bytes.length) this.ports[0]!.sendByte(bytes[at]!);
  }

  private queueStarted(queue: ServedQueue): void {
    const { index, isFresh } = queue;
    if (index === CONTROL_RECEIVE && this.isMultiport) this.controlStarted(isFresh);
    const port = this.ports[portOf(index)];
    if (port === undefined || queue.name.startsWith('control')) return;
    port.started(queue);
    this.announce(port);
  }

  /**
   * A driver that begins says so by itself. One that a predecessor of this process served will not
   * say it again: it has its ports, and which of them it has open nobody knows. The clients of the
   * predecessor need a moment to come back; without it, an application that reads would be told of
   * an end of file.
   */
  private controlStarted(isFresh: boolean): void {
    if (isFresh) {
      this.isDriverReady = false;
      for (const port of this.ports) port.forget();
    } else if (!this.isDriverReady) {
      this.isDriverReady = true;
      for (const port of this.ports) {
        port.isAdded = true;
        port.isReceiving = true;
        this.introduce(port, port.end.isOpen);
      }
      this.returnTimer = setTimeout(() => this.tellOfAbsent(), RETURN_MS);
    }
  }

  private tellOfAbsent(): void {
    const absent = this.ports.filter((port) => port.isReady && !port.end.isOpen);
    for (const port of absent) this.tell(port, EVENT.PORT_OPEN);
  }

  private send(request: Request, queue: ServedQueue): HandlerResult {
    return this.ports[portOf(queue.index)]!.send(request, queue);
  }

  /** A control message of the driver; what makes no sense is left alone. */
  private driverSaid({ reader }: Request): undefined {
    const { id, event, value } = reader.take(ControlMessage);
    if (!this.isMultiport) return;
    if (event === EVENT.DEVICE_READY) {
      this.isDriverReady = value === 1;
      if (value !== 1) this.host.log('the driver could not set the device up');
      for (const port of this.ports) port.forget();
      for (const port of this.ports) this.announce(port);
      return;
    }
    const port = this.ports[id];
    if (port === undefined || !port.isAdded) return;
    if (event === EVENT.PORT_READY && value === 1) this.introduce(port, true);
    else if (event === EVENT.PORT_READY) this.host.log(`the driver could not set up port ${id}`);
    else if (event === EVENT.PORT_OPEN) {
      port.isReceiving = value !== 0;
      port.pump();
    }
  }

  /** Tells the driver of a port, as soon as it is ready and serves the port's queues. */
  private announce(port: Port): void {
    const isServed = port.receive !== null && port.transmit !== null;
    if (!this.isDriverReady || port.isAdded || !isServed) return;
    port.isAdded = true;
    this.tell(port, EVENT.DEVICE_ADD);
  }

  private introduce(port: Port, isEndKnown: boolean): void {
    port.isReady = true;
    // A transport whose drivers would wait for ever does not offer SIZE; see the README.
    port.isConsole = port.spec.isConsole && (this.features & CONSOLE_F.SIZE) !== 0n;
    if (port.isConsole) {
      this.tell(port, EVENT.CONSOLE_PORT);
      this.tell(port, EVENT.RESIZE);
    } else if (port.spec.isConsole) {
      this.host.log(`port ${port.id} is no console here: the driver did not accept SIZE`);
    }
    if (port.spec.name !== '') this.tell(port, EVENT.PORT_NAME);
    if (isEndKnown) this.tell(port, EVENT.PORT_OPEN);
    port.pump();
  }

  /** Somebody came to or left the host's end of a port, or its size is another. */
  private endChanged(id: number): void {
    const port = this.ports[id];
    if (port === undefined) return; // It is being made.
    if (port.isReady) {
      this.tell(port, EVENT.PORT_OPEN);
      if (port.isConsole && port.end.isOpen) this.tell(port, EVENT.RESIZE);
    }
    if (id === 0) this.resized();
    port.pump();
  }

  private resized(): void {
    const config = this.encodeConfig();
    if (Buffer.compare(config, this.config) === 0) return;
    this.config = config;
    this.host.setConfig(config);
  }

  private tell(port: Port, event: number): void {
    if (!port.pending.includes(event)) port.pending.push(event);
    this.flushSoon();
  }

  /**
   * Not at once: Linux waits for its own message to come back with a lock held that its answer to
   * this one needs, and whoever waits for a lock takes a processor, too. Where there are two, none
   * would be left for this process to give that message back.
   */
  private flushSoon(): void {
    this.flushTimer ??= setImmediate(() => this.flush());
  }

  /** Sends what is to be told, as far as the driver has supplied buffers. */
  private flush(): void {
    this.flushTimer = null;
    const control = this.host.queue('controlReceiveq');
    for (const port of this.ports) {
      for (let event = port.pending[0]; event !== undefined; event = port.pending[0]) {
        if (control?.deliver([this.message(port, event)]) !== true) return;
        port.pending.shift();
      }
    }
  }

  private message(port: Port, event: number): Uint8Array {
    const value = event === EVENT.PORT_OPEN ? Number(port.end.isOpen) : 1;
    const head = ControlMessage.encode({ id: port.id, event, value });
    if (event === EVENT.RESIZE) {
      return Buffer.concat([head, ResizeMessage.encode(this.sizeOf(port))]);
    }
    return event === EVENT.PORT_NAME ? Buffer.concat([head, Buffer.from(port.spec.name)]) : head;
  }

  private close(): void {
    clearTimeout(this.returnTimer);
    if (this.flushTimer !== null) clearImmediate(this.flushTimer);
    for (const port of this.ports) port.close();
  }
}

/** Names of the queues by index; without control queues for a count of 0. */
function queueOrder(portCount: number): QueueName[] {
  const order: QueueName[] = ['receiveq', 'transmitq'];
  if (portCount === 0) return order;
  order.push('controlReceiveq', 'controlTransmitq');
  while (order.length < receiveIndex(portCount)) order.push('receiveq', 'transmitq');
  return order;
}
