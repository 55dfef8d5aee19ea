/** A real event device, in place of which a file is that can fail in every way. */
import { afterEach, expect, test } from 'vitest';
import { SystemError } from '../../errors.js';
import { ERRNO, type EvdevFile } from '../../native/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import type { InputSink, InputState } from './backend.js';
import { EvdevSource } from './backend-evdev.js';
import type { Triple } from './backend-null.js';
import { bitmapOf } from './config-codec.js';
import { EV, SYN } from './wire.js';

const KEY_A = 30;
const KEY_B = 48;
const REPORT: Triple = [EV.SYN, SYN.REPORT, 0];
const CODES: Readonly<Record<number, readonly number[]>> = {
  [EV.SYN]: [EV.KEY, EV.REL, EV.LED],
  [EV.KEY]: [KEY_A, KEY_B],
  [EV.REL]: [0],
  [EV.LED]: [1],
};

/** An event device that is told what to say. */
class FakeFile {
  count = 0;
  isWatched = false;
  isClosed = false;
  /** Keys that are down. */
  keys: readonly number[] = [];
  readonly written: Triple[] = [];
  /** Answers to questions until the device is gone. */
  answersLeft = Number.POSITIVE_INFINITY;
  private events: Triple[] = [];
  private readonly put0: number[] = [0, 0, 0];
  private readonly onReadable: () => void;

  constructor(onReadable: () => void) {
    this.onReadable = onReadable;
  }

  /** The next read finds these events. */
  say(...events: Triple[]): void {
    this.events = events;
    this.onReadable();
  }

  private answer(): void {
    this.answersLeft -= 1;
    if (this.answersLeft < 0) throw new SystemError('EVIOCGBIT', 'ENODEV');
  }

  read(): number {
    if (this.answersLeft <= 0) return -ERRNO.ENODEV!;
    this.count = this.events.length;
    return this.count;
  }

  type = (index: number): number => this.events[index]?.[0] ?? 0;
  code = (index: number): number => this.events[index]?.[1] ?? 0;
  value = (index: number): number => this.events[index]?.[2] ?? 0;

  put(_index: number, ...event: number[]): void {
    this.put0.splice(0, 3, ...event);
  }

  write(): number {
    this.written.push([this.put0[0]!, this.put0[1]!, this.put0[2]!]);
    return 24;
  }

  codes(type: number, size: number): Uint8Array {
    this.answer();
    const bytes = new Uint8Array(size);
    bytes.set(bitmapOf(CODES[type] ?? []).subarray(0, size));
    return bytes;
  }

  keysDown = (size: number): Uint8Array => {
    const bytes = new Uint8Array(size);
    bytes.set(bitmapOf(this.keys));
    return bytes;
  };

  setWatched(isWatched: boolean): void {
    this.isWatched = isWatched;
  }

  ids = () => ({ bustype: 3, vendor: 1, product: 2, version: 3 });
  name = (): string => 'Fake';
  serial = (): string => '';
  properties = (): Uint8Array => new Uint8Array(4);
  grab(): void {}
  close(): void {
    this.isClosed = true;
  }
}

/** Hears what the source says. */
class Sink implements InputSink {
  readonly reports: Triple[][] = [];
  /** Keys that the last {@link resync} has down, and how many there were. */
  keys: number[] = [];
  resyncCount = 0;
  isFull = false;

  report(events: Parameters<InputSink['report']>[0]): boolean {
    const { types, codes, values, count } = events;
    const report = Array.from(
      { length: count },
      (_, i): Triple => [types[i]!, codes[i]!, values[i]!],
    );
    this.reports.push(report);
    return !this.isFull;
  }

  resync(fill: (state: InputState) => void): void {
    this.resyncCount += 1;
    const down = new Set<number>();
    fill({
      release: () => down.clear(),
      apply: (type, code, value) => {
        if (type === EV.KEY && value !== 0) down.add(code);
      },
    });
    this.keys = [...down];
  }
}

const files: FakeFile[] = [];
const log: string[] = [];
let source: EvdevSource | null = null;
afterEach(() => {
  source?.close();
  source = null;
  files.length = 0;
  log.length = 0;
});

/** `prepare` is called with each file that is opened, and how many were before it. */
function start(prepare: (file: FakeFile, index: number) => void = () => {}): Sink {
  const open = (_path: string, onReadable: () => void): EvdevFile => {
    const file = new FakeFile(onReadable);
    prepare(file, files.push(file) - 1);
    return file as unknown as EvdevFile;
  };
  source = new EvdevSource({
    path: '/dev/input/event0',
    isGrabbed: true,
    log: (line) => log.push(line),
    open,
  });
  const sink = new Sink();
  source.start(sink);
  return sink;
}

const until = async (condition: () => boolean): Promise<void> => {
  for (let i = 0; i < 1000 && !condition(); i += 1) await new Promise((r) => setTimeout(r, 5));
  expect(condition()).toBe(true);
};

test('reports over reads; what nobody can know of is left out', () => {
  const sink = start();
  const [file] = files;
  file!.say([EV.KEY, KEY_A, 1], [EV.KEY, 99, 1], [EV.LED, 1, 1]);
  expect(sink.reports).toEqual([]);
  file!.say([EV.REL, 0, -2], REPORT, REPORT);
  expect(sink.reports).toEqual([[[EV.KEY, KEY_A, 1], [EV.REL, 0, -2], REPORT]]);
});

test('a report that is held stops the reading, and what was read goes on after it', () => {
  const sink = start();
  const [file] = files;
  sink.isFull = true;
  file!.say([EV.KEY, KEY_A, 1], REPORT, [EV.KEY, KEY_B, 1], REPORT);
  expect([sink.reports.length, file!.isWatched]).toEqual([1, false]);
  source!.setStatus(EV.LED, 1, 1);
  expect(file!.written).toEqual([[EV.LED, 1, 1]]);
  sink.isFull = false;
  source!.resume();
  expect(sink.reports[1]).toEqual([[EV.KEY, KEY_B, 1], REPORT]);
  expect(file!.isWatched).toBe(true);
});

test('SYN_DROPPED: half a report is left out, and nothing older comes after the state', () => {
  const sink = start();
  const [file] = files;
  file!.keys = [KEY_B];
  // Key A went up again since: the kernel takes that event away when it is asked for the keys.
  file!.say(
    [EV.KEY, KEY_A, 1],
    [EV.SYN, SYN.DROPPED, 0],
    [EV.REL, 0, 1],
    REPORT,
    [EV.KEY, KEY_A, 1],
    REPORT,
  );
  expect(sink.reports).toEqual([]);
  expect([sink.resyncCount, sink.keys]).toEqual([2, [KEY_B]]);
  file!.say([EV.REL, 0, 7], REPORT);
  expect(sink.reports).toEqual([[[EV.REL, 0, 7], REPORT]]);
});

test('a report that is too long is lost as a whole, and the state is told', () => {
  const sink = start();
  const [file] = files;
  const many = (count: number): Triple[] => new Array<Triple>(count).fill([EV.REL, 0, 1]);
  file!.say(...many(1023), REPORT);
  expect(sink.reports[0]).toHaveLength(1024);
  expect(sink.reports[0]!.at(-1)).toEqual(REPORT);
  file!.say(...many(1024), REPORT);
  expect([sink.reports.length, sink.resyncCount]).toEqual([1, 2]);
});

test('unplugged, back for a moment, and back: keys are up, and LEDs as they were', async () => {
  const sink = start((file, index) => {
    // The first one that comes back is gone before it has said all that it is.
    if (index === 1) file.answersLeft = 3;
  });
  const [first] = files;
  source!.setStatus(EV.LED, 1, 1);
  first!.answersLeft = 0;
  first!.say();
  expect([first!.isClosed, sink.resyncCount, sink.keys]).toEqual([true, 2, []]);
  source!.setStatus(EV.LED, 1, 0);
  source!.setStatus(EV.LED, 1, 1);
  await until(() => log.length === 2);
  expect(log[0]).toMatch(/is lost \(unplugged\)/);
  expect(log[1]).toMatch(/is back$/);
  expect(files.map(({ isClosed }) => isClosed)).toEqual([true, true, false]);
  expect(files[2]!.written).toEqual([[EV.LED, 1, 1]]);
  files[2]!.say([EV.KEY, KEY_A, 1], REPORT);
  expect(sink.reports).toEqual([[[EV.KEY, KEY_A, 1], REPORT]]);
});

test('a device that goes while it is asked what it is', () => {
  expect(() =>
    start((file) => {
      file.answersLeft = 2;
    }),
  ).toThrowError(
    expect.objectContaining({
      code: 'VLO_SOURCE_ACCESS',
      message: expect.stringContaining('(ENODEV)'),
    }),
  );
  expect(files[0]!.isClosed).toBe(true);
});

test('a path that nothing is at leaves nothing behind, however often it is tried', () =>
  expectNoLeaks(() => {
    const options = { path: '/nowhere/event0', isGrabbed: false, log: () => {} };
    for (let i = 0; i < 3; i += 1) expect(() => new EvdevSource(options)).toThrow('ENOENT');
  }));
