/**
 * A CAN controller as an interface of the kernel: a `vcan` of its own, and a socket on it. What
 * programs send there goes to the device, and what the device receives goes there.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import {
  type CanDriver,
  type CanFrame,
  type CanListener,
  SEND_DONE,
  SocketCanBus,
} from '../devices/index.js';
import { SystemError, VloError } from '../errors.js';
import { createLink, removeLink } from '../native/index.js';
import { newCounters, type Presentation } from './presentation.js';

/** Packet sizes of interfaces with and without FD frames. */
const MTU_FD = 72;
const MTU_CLASSIC = 16;
const NAME_SIZE_MAX = 15;
/** Numbers that are tried for an interface that was given no name. */
const NUMBERS_MAX = 100;
/** Time in ms after which a controller that is off its bus is started again. */
const RESTART_MS = 100;

/** What is written beside an interface of ours, so that the next process knows whose it was. */
const aliasFile = (name: string): string => `/sys/class/net/${name}/ifalias`;
const ALIAS = /^virtio-loopback (\d+)\s*$/;

type Log = (line: string) => void;

export class CanInterface implements Presentation, CanListener {
  /** Name of the interface: it has no file. */
  readonly path: string;
  readonly counters = newCounters();
  private readonly driver: CanDriver;
  private readonly bus: SocketCanBus;
  private readonly log: Log;
  private timer: NodeJS.Timeout | null = null;
  private isClosed = false;

  private constructor(driver: CanDriver, bus: SocketCanBus, name: string, log: Log) {
    this.driver = driver;
    this.bus = bus;
    this.path = name;
    this.log = log;
  }

  /**
   * Makes an interface with the device's name, or for a device that was not named with the first
   * number that is free, and starts the controller.
   * @throws VloError VLO_CAN_INTERFACE when it cannot be made, VLO_DEVICE_FAILED
   */
  static async open(driver: CanDriver, device: string, log: Log): Promise<CanInterface> {
    const name = makeInterface(device, driver.hasFd ? MTU_FD : MTU_CLASSIC);
    let bus: SocketCanBus | null = null;
    try {
      // A vcan confirms everything at once: that tells nothing.
      bus = await SocketCanBus.open(name, { canConfirm: false, log });
      const shown = new CanInterface(driver, bus, name, log);
      driver.onFrame = (frame) => shown.fromDevice(frame);
      driver.onBusOff = () => shown.deviceBusOff();
      shown.bus.join(shown, false);
      await driver.start();
      return shown;
    } catch (error) {
      bus?.close();
      removeLink(name);
      throw error;
    }
  }

  hasRoomFor(count: number): boolean {
    return this.driver.hasRoomFor(count);
  }

  /** A program has sent a frame. */
  received(frame: CanFrame): void {
    this.counters.requests += 1;
    this.counters.bytesWritten += frame.length;
    if (!this.driver.send(frame, this.sent)) this.counters.errors += 1;
  }

  private readonly sent = (isSent: boolean): void => {
    if (!isSent) this.counters.errors += 1;
  };

  private fromDevice(frame: CanFrame): void {
    this.counters.requests += 1;
    this.counters.bytesRead += frame.length;
    if (this.bus.send(frame, 0) !== SEND_DONE) this.counters.errors += 1;
  }

  /** Programs that want to know hear of it, and the controller is started again by itself. */
  private deviceBusOff(): void {
    this.log('the controller is off the bus');
    this.bus.tellBusOff();
    this.restart();
  }

  private restart(): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.driver.start().catch(() => {
        if (!this.isClosed && this.driver.error === null) this.restart();
      });
    }, RESTART_MS);
  }

  ended(): void {}
  writable(): void {}
  busOff(): void {}
  connectionChanged(): void {}

  driverFailed(): void {
    void this.close();
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    this.bus.close();
    removeLink(this.path);
  }
}

/** Makes the interface; returns its name. */
function makeInterface(device: string, mtu: number): string {
  const isNamed = device !== 'can';
  const name = isNamed ? device.slice(0, NAME_SIZE_MAX) : 'vlocan0';
  for (let number = 0; ; number += 1) {
    const candidate = isNamed ? name : `vlocan${number}`;
    try {
      removeDead(candidate);
      createLink(candidate, 'vcan', mtu);
      mark(candidate);
      return candidate;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      if (error.errno === 'EEXIST' && !isNamed && number < NUMBERS_MAX) continue;
      throw interfaceError(candidate, error);
    }
  }
}

function mark(name: string): void {
  try {
    writeFileSync(aliasFile(name), `virtio-loopback ${process.pid}`);
  } catch {
    // It is only for the case that this process is killed.
  }
}

/** Takes the interface away of a process that was killed. */
function removeDead(name: string): void {
  try {
    const pid = ALIAS.exec(readFileSync(aliasFile(name), 'utf8'))?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) removeLink(name);
  } catch {
    // There is none.
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function interfaceError(name: string, error: SystemError): VloError {
  const reasons: Readonly<Record<string, string>> = {
    EPERM: 'that needs CAP_NET_ADMIN: run it as root',
    EOPNOTSUPP: "this kernel has no vcan: 'modprobe vcan'",
    EEXIST: 'there is an interface of that name: choose another name',
  };
  const reason = reasons[error.errno] ?? error.message;
  const message = `the interface '${name}' cannot be made: ${reason}`;
  return new VloError('VLO_CAN_INTERFACE', message, { cause: error });
}
