/** The ports of a console as pseudo-terminals: a link for each, by its name, in the folder. */
import { join } from 'node:path';
import type { ConsoleDriver, ConsolePort } from '../devices/index.js';
import { PtyEnd } from '../devices/index.js';
import { IovecList, NativeBuffer } from '../native/index.js';
import { newCounters, type Presentation, type PresentationCounters } from './presentation.js';

/** How long, in milliseconds, to wait for the first port. */
const FIRST_PORT_MS = 2000;
const COPY_SIZE = 65536;
/** Names that are shown as they are; others might lead out of the folder. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}$/;

export class ConsoleTerminals implements Presentation {
  readonly counters = newCounters();
  private readonly driver: ConsoleDriver;
  private readonly folder: string;
  private readonly log: (line: string) => void;
  private readonly terminals = new Map<number, PortTerminal>();

  private constructor(driver: ConsoleDriver, folder: string, log: (line: string) => void) {
    this.driver = driver;
    this.folder = folder;
    this.log = log;
  }

  /**
   * Shows the ports that there are, and waits a while for the first.
   * @throws VloError VLO_PORT_ACCESS
   */
  static async open(
    driver: ConsoleDriver,
    folder: string,
    log: (line: string) => void,
  ): Promise<ConsoleTerminals> {
    const shown = new ConsoleTerminals(driver, folder, log);
    await Promise.race([
      driver.firstPort(),
      new Promise((resolve) => setTimeout(resolve, FIRST_PORT_MS).unref()),
    ]);
    for (const port of driver.ports) shown.show(port);
    driver.onPort = (port) => shown.show(port);
    return shown;
  }

  /** The first port's terminal; the folder while there is none. */
  get path(): string {
    const [first] = [...this.terminals.keys()].sort((a, b) => a - b);
    return first === undefined ? this.folder : this.terminals.get(first)!.path;
  }

  private show(port: ConsolePort): void {
    if (this.terminals.has(port.id)) return;
    const isPlain = this.driver.isMultiport && NAME.test(port.name);
    const name = isPlain ? port.name : this.driver.isMultiport ? `port${port.id}` : 'console';
    const path = join(this.folder, name);
    this.terminals.set(port.id, new PortTerminal(port, path, this.counters, this.log));
  }

  connectionChanged(): void {}

  driverFailed(): void {
    void this.close();
  }

  async close(): Promise<void> {
    this.driver.onPort = null;
    for (const terminal of this.terminals.values()) terminal.close();
    this.terminals.clear();
  }
}

/** One port, and the terminal that shows it. */
class PortTerminal {
  readonly path: string;
  private readonly port: ConsolePort;
  private readonly end: PtyEnd;
  private readonly counters: PresentationCounters;
  private readonly copy = new NativeBuffer(2 * COPY_SIZE);
  private readonly list = new IovecList(1);
  /** What the device sent and the terminal did not take yet. */
  private start = 0;
  private size = 0;
  private isWriting = false;
  private isClosed = false;

  constructor(
    port: ConsolePort,
    path: string,
    counters: PresentationCounters,
    log: (line: string) => void,
  ) {
    this.port = port;
    this.path = path;
    this.counters = counters;
    this.end = new PtyEnd(path, {
      ready: () => this.pump(),
      changed: () => this.changed(),
      log,
    });
    port.listen({
      data: (bytes) => this.show(bytes),
      changed: () => this.portChanged(),
    });
    this.portChanged();
    this.changed();
  }

  /** Somebody opened or left the terminal. */
  private changed(): void {
    if (this.isClosed) return;
    if (this.end.isOpen) {
      this.port.open();
    } else {
      this.port.close();
      this.size = 0;
    }
    this.pump();
  }

  /** Somebody is at the device's end, or is not; or the size is another. */
  private portChanged(): void {
    if (this.isClosed) return;
    const { size } = this.port;
    const known = this.end.size;
    if (size !== null && size.cols > 0 && size.rows > 0) {
      if (size.cols !== known?.cols || size.rows !== known?.rows) this.end.resize(size);
    }
    this.pump();
  }

  private show(bytes: Uint8Array): boolean {
    if (this.isClosed || this.size > 0 || !this.end.isOpen) return false;
    this.copy.bytes.set(bytes);
    this.start = 0;
    this.size = bytes.length;
    this.counters.bytesRead += bytes.length;
    this.flush();
    this.end.want(this.canRead, this.size > 0);
    return true;
  }

  private flush(): void {
    while (this.size > 0) {
      this.list.clear();
      this.list.push(this.copy.address + this.start, this.size);
      const count = this.end.write(this.list);
      if (count === 0) return;
      this.start += count;
      this.size = count < 0 ? 0 : this.size - count;
    }
  }

  private get canRead(): boolean {
    return this.end.isOpen && this.port.isHostOpen && !this.isWriting;
  }

  private pump(): void {
    if (this.isClosed) return;
    this.flush();
    if (this.size === 0) this.port.resume();
    if (this.canRead) this.read();
    this.end.want(this.canRead, this.size > 0);
  }

  private read(): void {
    const { list, copy, counters } = this;
    list.clear();
    list.push(copy.address + COPY_SIZE, COPY_SIZE);
    const count = this.end.read(list);
    if (count <= 0) return;
    this.isWriting = true;
    this.port.write(copy.bytes.slice(COPY_SIZE, COPY_SIZE + count)).then(
      () => {
        counters.requests += 1;
        counters.bytesWritten += count;
        this.isWriting = false;
        this.pump();
      },
      () => {}, // The driver has failed, and says so by itself.
    );
  }

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.port.close();
    this.end.close();
    this.list.free();
    this.copy.free();
  }
}
