/** An input device as an event device of the kernel's, made by uinput. */
import {
  bitsOfInput,
  type EventList,
  type InputDescription,
  type InputDriver,
} from '../devices/index.js';
import { EVENT_WRITE_MAX, UinputFile } from '../native/index.js';
import { newCounters, type Presentation } from './presentation.js';

/** Where uinput is. */
export const UINPUT_PATH = '/dev/uinput';

export class InputNode implements Presentation {
  readonly path: string;
  readonly counters = newCounters();
  private readonly driver: InputDriver;
  private readonly file: UinputFile;
  private isClosed = false;

  /** @throws SystemError, or an error of Node's, where there is no uinput */
  constructor(driver: InputDriver, uinputPath = UINPUT_PATH) {
    this.driver = driver;
    this.file = new UinputFile(uinputPath, () => this.statusWritten());
    try {
      this.path = make(this.file, driver.description);
    } catch (error) {
      this.file.close();
      throw error;
    }
    this.file.setWatched(true);
    driver.listen((events) => this.report(events));
  }

  /** A long report goes in parts: the kernel takes them up to its end. */
  private report({ types, codes, values, count }: EventList): void {
    if (this.isClosed) return;
    this.counters.requests += 1;
    for (let at = 0; at < count; at += EVENT_WRITE_MAX) {
      const part = Math.min(count - at, EVENT_WRITE_MAX);
      for (let i = 0; i < part; i += 1) {
        this.file.put(i, types[at + i]!, codes[at + i]!, values[at + i]!);
      }
      if (this.file.write(part) < 0) this.counters.errors += 1;
    }
  }

  /** A program has set a LED. */
  private statusWritten(): void {
    const { file, driver } = this;
    for (let count = file.read(); count > 0; count = file.read()) {
      for (let i = 0; i < count; i += 1) {
        // Effects and the end of reports stay here; the device has no use for them.
        if (file.type(i) === 0 || file.type(i) > 0xff) continue;
        if (!driver.setStatus(file.type(i), file.code(i), file.value(i))) this.counters.errors += 1;
      }
    }
  }

  connectionChanged(): void {}

  driverFailed(): void {
    this.end();
  }

  private end(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.file.close();
  }

  async close(): Promise<void> {
    this.end();
  }
}

function make(file: UinputFile, { name, ids, properties, codes, axes }: InputDescription): string {
  for (const [type, bitmap] of codes) file.addCodes(type, bitsOfInput(bitmap));
  file.addProperties(bitsOfInput(properties));
  for (const [code, range] of axes) file.addAxis(code, { value: 0, ...range });
  return file.create(name, ids);
}
