/**
 * A real chip without one: the character device is replaced, the rest is ours. With the kernel's
 * own gpio-sim the same is done by the lab's job `gpio`.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type * as Native from '../../native/index.js';
import { ERRNO, GPIO_LINE } from '../../native/index.js';
import { RealChip } from './backend-chip.js';
import { GpioDevice } from './device.js';
import { DIRECTION, TRIGGER } from './wire.js';

/** What the kernel would know. */
const kernel = vi.hoisted(() => ({
  isThere: true,
  lineCount: 3,
  failure: 0,
  flags: new Map<number, number>(),
  values: new Map<number, number>(),
  edges: [] as boolean[],
  watches: new Map<number, () => void>(),
  closed: 0,
}));

vi.mock('../../native/index.js', async (original) => {
  const native = await original<typeof Native>();
  const result = (): number => (kernel.isThere ? kernel.failure : -native.ERRNO.ENODEV!);
  const makeLine = (line: number) => ({
    fd: 1000 + line,
    configure(flags: number, value: number): number {
      if (result() === 0) kernel.flags.set(line, flags);
      if ((flags & native.GPIO_LINE.OUTPUT) !== 0) kernel.values.set(line, value);
      return result();
    },
    get: () => result() || (kernel.values.get(line) ?? 0),
    set(value: number): number {
      kernel.values.set(line, value);
      return result();
    },
    takeEdges(onEdge: (isRising: boolean) => void): number {
      for (const isRising of kernel.edges.splice(0)) onEdge(isRising);
      return result();
    },
    close: () => void kernel.flags.delete(line),
  });
  class GpioChipFile {
    readonly lineCount = kernel.lineCount;
    readonly label = 'board';
    readonly name = 'gpiochip0';
    constructor() {
      if (!kernel.isThere) throw Object.assign(new Error('no chip'), { code: 'ENOENT' });
    }
    info(line: number) {
      const names = ['led', 'led', 'über'];
      return { name: names[line]!, flags: line === 0 ? native.GPIO_LINE.OUTPUT : 0 };
    }
    request(line: number, flags: number, value: number) {
      const made = makeLine(line);
      const failure = made.configure(flags, value);
      return failure === 0 ? made : failure;
    }
    close(): void {
      kernel.closed += 1;
    }
  }
  class Watch {
    private readonly fd: number;
    constructor(fd: number, callback: () => void) {
      this.fd = fd;
      kernel.watches.set(fd, callback);
    }
    close(): void {
      kernel.watches.delete(this.fd);
    }
  }
  return { ...native, GpioChipFile, Watch };
});

const log: string[] = [];
let chip: RealChip;
beforeEach(() => {
  vi.useFakeTimers();
  Object.assign(kernel, { isThere: true, lineCount: 3, failure: 0 });
  log.length = 0;
  chip = new RealChip('/dev/gpiochip0', (line) => void log.push(line));
});
afterEach(() => {
  chip.close();
  vi.useRealTimers();
  expect([...kernel.flags.keys(), ...kernel.watches.keys()]).toEqual([]);
});

const { INPUT, OUTPUT, EDGE_FALLING, EDGE_RISING } = GPIO_LINE;

test('names are ASCII and each there once; directions are those of the chip', () => {
  expect(chip.names).toEqual(['led', '', '?ber']);
  const directions = [0, 1, 2].map((line) => chip.initialDirection(line));
  expect(directions).toEqual([DIRECTION.OUT, DIRECTION.IN, DIRECTION.IN]);
});

test('a line is requested once, changed, and given back', () => {
  expect(chip.setDirection(0, DIRECTION.OUT, 1)).toBe(0);
  expect([kernel.flags.get(0), kernel.values.get(0)]).toEqual([OUTPUT, 1]);
  expect(chip.setValue(0, 0)).toBe(0);
  expect(chip.value(0)).toBe(0);
  expect(chip.watch(0, TRIGGER.FALLING)).toBe(0);
  expect(kernel.flags.get(0)).toBe(INPUT | EDGE_FALLING);
  expect(chip.setDirection(0, DIRECTION.IN, 0)).toBe(0);
  expect(kernel.flags.get(0)).toBe(INPUT | EDGE_FALLING);
  expect(chip.setDirection(0, DIRECTION.NONE, 0)).toBe(0);
  expect(kernel.flags.has(0)).toBe(false);
  // One that nobody has is looked at, and left.
  kernel.values.set(2, 1);
  expect(chip.value(2)).toBe(1);
  expect(kernel.flags.has(2)).toBe(false);
  expect(chip.watch(2, TRIGGER.NONE)).toBe(0);
});

test('edges come to the device; a descriptor that is broken is watched no more', () => {
  const seen: [number, boolean][] = [];
  chip.onEdge = (line, isRising) => void seen.push([line, isRising]);
  chip.watch(1, TRIGGER.BOTH);
  expect(kernel.flags.get(1)).toBe(INPUT | EDGE_RISING | EDGE_FALLING);
  kernel.edges.push(true, false);
  kernel.watches.get(1001)!();
  expect(seen).toEqual([
    [1, true],
    [1, false],
  ]);
  kernel.failure = -ERRNO.EIO!;
  kernel.watches.get(1001)!();
  expect(kernel.watches.size).toBe(0);
});

test('a line that somebody else has is told of once', () => {
  kernel.failure = -ERRNO.EBUSY!;
  for (let i = 0; i < 3; i += 1) {
    expect(chip.setDirection(1, DIRECTION.IN, 0)).toBe(-ERRNO.EBUSY!);
  }
  expect(log).toEqual(['line 1 cannot be used (EBUSY): another program or driver has it']);
});

test('a chip that is away is looked for, and one with other lines is another one', () => {
  const device = new GpioDevice(chip).open();
  const returned = vi.spyOn(chip, 'onReturn');
  chip.setDirection(0, DIRECTION.OUT, 1);
  chip.watch(1, TRIGGER.RISING);
  kernel.isThere = false;
  kernel.watches.get(1001)!();
  expect(kernel.watches.size).toBe(0);
  expect(chip.value(0)).toBe(-ERRNO.ENODEV!);
  expect(chip.setDirection(0, DIRECTION.OUT, 1)).toBe(-ERRNO.ENODEV!);
  expect(chip.setDirection(0, DIRECTION.NONE, 1)).toBe(0);
  vi.advanceTimersByTime(2000);
  Object.assign(kernel, { isThere: true, lineCount: 4 });
  vi.advanceTimersByTime(2000);
  expect(returned).not.toHaveBeenCalled();
  kernel.lineCount = 3;
  vi.advanceTimersByTime(2000);
  expect(returned).toHaveBeenCalledTimes(1);
  expect(chip.setDirection(0, DIRECTION.OUT, 1)).toBe(0);
  expect(log.map((line) => line.replace(/^.*' /, ''))).toEqual([
    'is gone; it is waited for',
    'is there again',
  ]);
  expect(device.features).toBe(1n);
});
