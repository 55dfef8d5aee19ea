/**
 * The lines of a GPIO device as a socket that takes commands: `vlo gpio` asks there, and so can any
 * program. What is set stays set as long as the device is attached.
 */
import { join } from 'node:path';
import {
  DIRECTION,
  type EndWatch,
  type GpioDriver,
  type LineHost,
  LineSocket,
  type LineState,
  TRIGGER,
} from '../devices/index.js';
import { VloError } from '../errors.js';
import { newCounters, type Presentation } from './presentation.js';

/** Somebody who wants to hear of edges. */
interface Observer {
  readonly edges: number;
  readonly report: (value: number) => void;
}

/** A driver's lines for commands. */
export class DriverLines implements LineHost {
  readonly lineCount: number;
  readonly names: readonly string[];
  readonly counters = newCounters();
  private readonly driver: GpioDriver;
  private readonly observers = new Map<number, Set<Observer>>();

  constructor(driver: GpioDriver) {
    this.driver = driver;
    this.lineCount = driver.lineCount;
    this.names = driver.names;
  }

  async state(line: number): Promise<LineState> {
    const direction = await this.counted(this.driver.direction(line));
    // A line that somebody else has can not be read, and the others can.
    const value = await this.counted(this.driver.value(line)).catch(nullOf);
    return { name: this.names[line]!, direction, value, edges: this.driver.trigger(line) };
  }

  async drive(line: number, value: number): Promise<void> {
    await this.counted(this.driver.setValue(line, value));
    await this.counted(this.driver.setDirection(line, DIRECTION.OUT));
  }

  async observe(line: number, edges: number, report: (value: number) => void): Promise<EndWatch> {
    const observers = this.observers.get(line) ?? new Set<Observer>();
    this.observers.set(line, observers);
    const observer = { edges, report };
    observers.add(observer);
    try {
      await this.counted(this.driver.setDirection(line, DIRECTION.IN));
      await this.rewatch(line, observers);
    } catch (error) {
      observers.delete(observer);
      throw error;
    }
    return async () => {
      observers.delete(observer);
      // Where the back end is gone, nothing is watched any more.
      await this.rewatch(line, observers).catch(nullOf);
    };
  }

  private async rewatch(line: number, observers: ReadonlySet<Observer>): Promise<void> {
    let edges: number = TRIGGER.NONE;
    for (const observer of observers) edges |= observer.edges;
    if (edges === this.driver.trigger(line)) return;
    await this.driver.watch(line, edges, () => void this.interrupted(line, edges, observers));
  }

  private async interrupted(
    line: number,
    edges: number,
    observers: ReadonlySet<Observer>,
  ): Promise<void> {
    this.counters.requests += 1;
    let value: number | null = edges === TRIGGER.RISING ? 1 : 0;
    if (edges === TRIGGER.BOTH) value = await this.driver.value(line).catch(nullOf);
    if (value === null) return;
    const edge = value === 1 ? TRIGGER.RISING : TRIGGER.FALLING;
    for (const observer of observers) if ((observer.edges & edge) !== 0) observer.report(value);
  }

  private async counted<T>(answer: Promise<T>): Promise<T> {
    this.counters.requests += 1;
    try {
      return await answer;
    } catch (error) {
      this.counters.errors += 1;
      throw error;
    }
  }
}

function nullOf(error: unknown): null {
  if (error instanceof VloError) return null;
  throw error;
}

/** Name of the socket in the folder of the presentation. */
const SOCKET = 'lines';

/** {@link DriverLines} on a socket. */
export class GpioLines implements Presentation {
  readonly path: string;
  readonly counters;
  private readonly socket: LineSocket;

  /** @throws VloError VLO_SOCKET_PATH */
  constructor(driver: GpioDriver, folder: string) {
    this.path = join(folder, SOCKET);
    const lines = new DriverLines(driver);
    this.counters = lines.counters;
    this.socket = new LineSocket(lines, this.path);
  }

  connectionChanged(): void {}

  driverFailed(): void {}

  async close(): Promise<void> {
    this.socket.close();
  }
}
