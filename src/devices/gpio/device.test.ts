/** The GPIO device over a simulated chip: requests, interrupts of all triggers, and bad drivers. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { defineDevice, type OpenDevice } from '../../kit/index.js';
import { cutAt, MockDriver, type MockDriverOptions, type MockResult } from '../../testing/index.js';
import { F } from '../../virtio/index.js';
import { SimulatedChip } from './backend-sim.js';
import { GpioDevice } from './device.js';
import { gpio } from './index.js';
import { LineStore } from './line-store.js';
import { DIRECTION, GPIO_MSG, GpioConfig, GpioIrqRequest, GpioRequest, TRIGGER } from './wire.js';

const [REQUESTQ, EVENTQ] = [0, 1];
const OK = 0;
const ERR = 1;
const [INVALID, VALID] = [0, 1];
const { IN, OUT, NONE } = DIRECTION;
const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

async function open(
  mock: MockDriverOptions = {},
  names: readonly string[] = [],
): Promise<{ chip: SimulatedChip; driver: MockDriver }> {
  const chip = new SimulatedChip(4, names);
  const options = v.object({});
  const device = { ...gpio, options, arguments: {}, open: () => new GpioDevice(chip).open() };
  const driver = await MockDriver.open(defineDevice(device), {}, mock);
  drivers.push(driver);
  return { chip, driver };
}

async function ask(driver: MockDriver, type: number, line: number, value = 0): Promise<number[]> {
  const readable = [GpioRequest.encode({ type, gpio: line, value })];
  const { bytes } = await driver.request(REQUESTQ, { readable, writable: [2] });
  return [...bytes];
}

const setDirection = (driver: MockDriver, line: number, direction: number) =>
  ask(driver, GPIO_MSG.SET_DIRECTION, line, direction);
const setValue = (driver: MockDriver, line: number, value: number) =>
  ask(driver, GPIO_MSG.SET_VALUE, line, value);
const setTrigger = (driver: MockDriver, line: number, trigger: number) =>
  ask(driver, GPIO_MSG.SET_IRQ_TYPE, line, trigger);

/** Unmasks an interrupt; the status that came back, or null for none within a moment. */
class Interrupt {
  status: number | null = null;
  readonly done: Promise<number>;

  constructor(driver: MockDriver, line: number) {
    const readable = [GpioIrqRequest.encode({ gpio: line })];
    const request = driver.request(EVENTQ, { readable, writable: [1] });
    this.done = request.then(({ length, bytes }: MockResult) => {
      this.status = length === 1 ? bytes[0]! : -1;
      return this.status;
    });
    this.done.catch(() => {}); // The queue was reset: the buffer is the driver's again.
  }
}

/** Long enough for whatever the device would do. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 50));

describe.each(LAYOUTS)('requests, $name ring', ({ packed }) => {
  test('a line is an output, an input, and nobody’s', async () => {
    const { chip, driver } = await open({ packed });
    expect(await ask(driver, GPIO_MSG.GET_DIRECTION, 2)).toEqual([OK, NONE]);
    expect(await setValue(driver, 2, 1)).toEqual([OK, 0]);
    expect(chip.state(2).value).toBe(0);
    expect(await setDirection(driver, 2, OUT)).toEqual([OK, 0]);
    expect(chip.state(2)).toMatchObject({ direction: OUT, value: 1 });
    expect(await ask(driver, GPIO_MSG.GET_DIRECTION, 2)).toEqual([OK, OUT]);
    expect(await setValue(driver, 2, 0)).toEqual([OK, 0]);
    expect(await ask(driver, GPIO_MSG.GET_VALUE, 2)).toEqual([OK, 0]);
    expect(await setDirection(driver, 2, IN)).toEqual([OK, 0]);
    chip.drive(2, 1);
    expect(await ask(driver, GPIO_MSG.GET_VALUE, 2)).toEqual([OK, 1]);
    await setValue(driver, 2, 1);
    expect(await setDirection(driver, 2, NONE)).toEqual([OK, 0]);
    expect(await ask(driver, GPIO_MSG.GET_DIRECTION, 2)).toEqual([OK, NONE]);
    // What was set before is forgotten.
    await setDirection(driver, 2, OUT);
    expect(chip.state(2).value).toBe(0);
  });

  test('however a request is cut and wherever it lies', async () => {
    const { driver } = await open({ packed });
    const bytes = GpioRequest.encode({ type: GPIO_MSG.SET_DIRECTION, gpio: 1, value: IN });
    for (let at = 1; at < bytes.length; at += 1) {
      const request = { readable: cutAt(bytes, at), writable: [1, 1], misalignment: at % 4 };
      expect([...(await driver.request(REQUESTQ, request)).bytes]).toEqual([OK, 0]);
    }
  });

  test('what makes no sense is answered with an error', async () => {
    const { driver } = await open({ packed });
    const bad: readonly (readonly [number, number, number])[] = [
      [0, 0, 0],
      [7, 0, 0],
      [0xffff, 0, 0],
      [GPIO_MSG.GET_LINE_NAMES, 0, 0],
      [GPIO_MSG.GET_DIRECTION, 4, 0],
      [GPIO_MSG.GET_VALUE, 0xffff, 0],
      [GPIO_MSG.SET_DIRECTION, 0, 3],
      [GPIO_MSG.SET_DIRECTION, 0, 0xffffffff],
      [GPIO_MSG.SET_VALUE, 0, 2],
      [GPIO_MSG.SET_IRQ_TYPE, 0, 5],
      [GPIO_MSG.SET_IRQ_TYPE, 0, 32],
      [GPIO_MSG.SET_IRQ_TYPE, 0, 0x80000001],
    ];
    for (const [type, line, value] of bad) {
      expect(await ask(driver, type, line, value), `${type} ${line} ${value}`).toEqual([ERR, 0]);
    }
  });

  test.each([
    ['request', [new Uint8Array(7)], [2]],
    ['response', [new Uint8Array(8)], [1]],
    ['response of nothing', [new Uint8Array(8)], []],
  ])('a %s that is too short stops the queue', async (_what, readable, writable) => {
    const { driver } = await open({ packed });
    await driver.request(REQUESTQ, { readable, writable });
    expect((await driver.nextFault()).fault?.reason).toBe('short');
    await driver.restartQueue(REQUESTQ);
    expect(await setDirection(driver, 0, IN)).toEqual([OK, 0]);
  });

  test('names of lines, and their size in config space', async () => {
    const { driver } = await open({ packed }, ['led', '', 'a button']);
    const { ngpio, gpioNamesSize } = driver.config(GpioConfig);
    expect([ngpio, gpioNamesSize]).toEqual([4, 4 + 1 + 9 + 1]);
    const readable = [GpioRequest.encode({ type: GPIO_MSG.GET_LINE_NAMES })];
    const request = { readable, writable: [1 + gpioNamesSize] };
    const { bytes } = await driver.request(REQUESTQ, request);
    expect(Buffer.from(bytes).toString('latin1')).toBe('\0led\0\0a button\0\0');
    const short = await driver.request(REQUESTQ, { readable, writable: [gpioNamesSize] });
    expect([...short.bytes]).toEqual([ERR, 0]);
  });
});

describe.each(LAYOUTS)('interrupts, $name ring', ({ packed }) => {
  test.each([
    { name: 'rising', trigger: TRIGGER.RISING, counts: [1, 1, 2] },
    { name: 'falling', trigger: TRIGGER.FALLING, counts: [0, 1, 1] },
    { name: 'both', trigger: TRIGGER.BOTH, counts: [1, 2, 3] },
  ])('$name edges', async ({ trigger, counts }) => {
    const { chip, driver } = await open({ packed });
    await setDirection(driver, 1, IN);
    expect(await setTrigger(driver, 1, trigger)).toEqual([OK, 0]);
    let count = 0;
    let interrupt = new Interrupt(driver, 1);
    for (const [at, value] of [1, 0, 1].entries()) {
      await settle();
      chip.drive(1, value);
      chip.drive(1, value); // No change, no edge.
      if (counts[at]! > count) await interrupt.done;
      await settle();
      if (interrupt.status === VALID) {
        count += 1;
        interrupt = new Interrupt(driver, 1);
      }
      expect(count).toBe(counts[at]);
    }
  });

  test('an edge that comes while it is masked is latched, once', async () => {
    const { chip, driver } = await open({ packed });
    await setTrigger(driver, 0, TRIGGER.RISING);
    for (const value of [1, 0, 1, 0]) chip.drive(0, value);
    expect(await new Interrupt(driver, 0).done).toBe(VALID);
    const second = new Interrupt(driver, 0);
    await settle();
    expect(second.status).toBe(null);
    chip.drive(0, 1);
    expect(await second.done).toBe(VALID);
  });

  test.each([
    { name: 'high', trigger: TRIGGER.HIGH, active: 1 },
    { name: 'low', trigger: TRIGGER.LOW, active: 0 },
  ])('level $name: as long as it is active, and not latched', async ({ trigger, active }) => {
    const { chip, driver } = await open({ packed });
    chip.drive(3, 1 - active);
    await setTrigger(driver, 3, trigger);
    chip.drive(3, active);
    chip.drive(3, 1 - active);
    const first = new Interrupt(driver, 3);
    await settle();
    expect(first.status).toBe(null);
    chip.drive(3, active);
    expect(await first.done).toBe(VALID);
    expect(await new Interrupt(driver, 3).done).toBe(VALID);
    chip.drive(3, 1 - active);
    const last = new Interrupt(driver, 3);
    await settle();
    expect(last.status).toBe(null);
    await setTrigger(driver, 3, TRIGGER.NONE);
    expect(await last.done).toBe(INVALID);
  });

  test('disabling returns the buffer and forgets what was latched', async () => {
    const { chip, driver } = await open({ packed });
    await setTrigger(driver, 0, TRIGGER.BOTH);
    const interrupt = new Interrupt(driver, 0);
    await settle();
    expect(await setTrigger(driver, 0, TRIGGER.NONE)).toEqual([OK, 0]);
    expect(await interrupt.done).toBe(INVALID);
    await setTrigger(driver, 0, TRIGGER.BOTH);
    chip.drive(0, 1);
    await settle();
    await setTrigger(driver, 0, TRIGGER.NONE);
    await setTrigger(driver, 0, TRIGGER.BOTH);
    const second = new Interrupt(driver, 0);
    await settle();
    expect(second.status).toBe(null);
    // Direction NONE forgets everything of the line.
    await setDirection(driver, 0, NONE);
    expect(await second.done).toBe(INVALID);
    expect(chip.state(0)).toMatchObject({ direction: NONE, edges: TRIGGER.NONE });
  });

  test('a buffer before its interrupt is enabled goes back once, and then waits', async () => {
    const { chip, driver } = await open({ packed });
    expect(await new Interrupt(driver, 2).done).toBe(INVALID);
    const early = new Interrupt(driver, 2);
    await settle();
    expect(early.status).toBe(null);
    await setTrigger(driver, 2, TRIGGER.RISING);
    chip.drive(2, 1);
    expect(await early.done).toBe(VALID);
  });

  test('a second buffer for a line, and one for no line, go back', async () => {
    const { driver } = await open({ packed });
    await setTrigger(driver, 0, TRIGGER.BOTH);
    const first = new Interrupt(driver, 0);
    expect(await new Interrupt(driver, 0).done).toBe(INVALID);
    expect(await new Interrupt(driver, 4).done).toBe(INVALID);
    expect(first.status).toBe(null);
  });

  test.each([
    ['request', 1, 1],
    ['response', 2, 0],
  ])('a %s that is too short stops the queue of events only', async (_what, read, write) => {
    const { chip, driver } = await open({ packed });
    await setTrigger(driver, 1, TRIGGER.RISING);
    const held = new Interrupt(driver, 1);
    await settle();
    const writable = write === 0 ? [] : [write];
    const bad = driver.request(EVENTQ, { readable: [new Uint8Array(read)], writable });
    await Promise.allSettled([bad]);
    const { queueIndex, fault } = await driver.nextFault();
    expect([queueIndex, fault?.reason]).toEqual([EVENTQ, 'short']);
    expect(await setDirection(driver, 0, IN)).toEqual([OK, 0]);
    expect(held.status).toBe(null);
    await driver.restartQueue(EVENTQ);
    const next = new Interrupt(driver, 1);
    chip.drive(1, 1);
    expect(await next.done).toBe(VALID);
  });

  test('an output has no interrupt, and a line with one is made no output', async () => {
    const { driver } = await open({ packed });
    await setDirection(driver, 0, OUT);
    expect(await setTrigger(driver, 0, TRIGGER.RISING)).toEqual([ERR, 0]);
    expect(await setTrigger(driver, 0, TRIGGER.NONE)).toEqual([OK, 0]);
    await setTrigger(driver, 1, TRIGGER.RISING);
    expect(await setDirection(driver, 1, OUT)).toEqual([ERR, 0]);
  });

  test('a stopped queue gives all buffers back; a reset forgets the lines', async () => {
    const { chip, driver } = await open({ packed });
    await setDirection(driver, 0, OUT);
    await setTrigger(driver, 1, TRIGGER.BOTH);
    const interrupt = new Interrupt(driver, 1);
    await settle();
    await driver.stopQueue(EVENTQ);
    expect(await interrupt.done).toBe(INVALID);
    chip.drive(1, 1);
    driver.startQueue(EVENTQ);
    expect(await new Interrupt(driver, 1).done).toBe(VALID);
    await driver.negotiate();
    expect(chip.state(0).direction).toBe(NONE);
    expect(chip.state(1).edges).toBe(TRIGGER.NONE);
  });

  test('without the feature there are no interrupts', async () => {
    const { driver } = await open({ packed, features: 0n });
    expect(await setTrigger(driver, 0, TRIGGER.RISING)).toEqual([ERR, 0]);
  });

  test('a chip that goes away and comes back has what the driver set', async () => {
    const { chip, driver } = await open({ packed });
    await setDirection(driver, 0, OUT);
    await setValue(driver, 0, 1);
    await setDirection(driver, 1, IN);
    await setTrigger(driver, 1, TRIGGER.HIGH);
    await setDirection(driver, 3, OUT);
    const interrupt = new Interrupt(driver, 1);
    await settle();
    chip.setGone(true);
    expect(await setValue(driver, 0, 0)).toEqual([ERR, 0]);
    expect(await ask(driver, GPIO_MSG.GET_VALUE, 1)).toEqual([ERR, 0]);
    expect(await setDirection(driver, 2, IN)).toEqual([ERR, 0]);
    expect(await setTrigger(driver, 2, TRIGGER.BOTH)).toEqual([ERR, 0]);
    // What is given up is given up, chip or not.
    expect(await setDirection(driver, 3, NONE)).toEqual([OK, 0]);
    chip.drive(1, 1);
    expect(interrupt.status).toBe(null);
    chip.setGone(false);
    expect(await interrupt.done).toBe(VALID);
    expect(chip.state(0)).toMatchObject({ direction: OUT, value: 1 });
    expect(chip.state(1).direction).toBe(IN);
    expect(chip.state(3).direction).toBe(NONE);
  });
});

test('IN_ORDER is not offered: a buffer may wait for its edge while later ones come back', async () => {
  const { driver } = await open();
  expect(driver.device.features & F.IN_ORDER).toBe(0n);
});

describe('state that is kept', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'vlo-gpio-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  async function openKept(chip: SimulatedChip): Promise<MockDriver> {
    const options = v.object({});
    const store = () => new LineStore(join(folder, 'state'));
    const device = { ...gpio, options, arguments: {} };
    const opened = () => new GpioDevice(chip, store()).open();
    return MockDriver.open(defineDevice({ ...device, open: opened }));
  }

  /** A front end that goes on where another one was, without a reset. */
  async function goOn(chip: SimulatedChip): Promise<OpenDevice> {
    const store = new LineStore(join(folder, 'state'));
    return new GpioDevice(chip, store).open();
  }

  test('another process goes on with lines and triggers', async () => {
    const driver = await openKept(new SimulatedChip(4));
    await setValue(driver, 0, 1);
    await setDirection(driver, 0, OUT);
    await setDirection(driver, 1, IN);
    await setTrigger(driver, 1, TRIGGER.RISING);
    await setTrigger(driver, 2, TRIGGER.LOW);
    await setDirection(driver, 3, OUT);
    await setDirection(driver, 3, NONE);
    await driver.close();
    const chip = new SimulatedChip(4);
    const device = await goOn(chip);
    const states = [0, 1, 2, 3].map((line) => chip.state(line));
    expect(states.map(({ direction }) => direction)).toEqual([OUT, IN, NONE, NONE]);
    expect(states.map(({ edges }) => edges)).toEqual([0, TRIGGER.RISING, TRIGGER.BOTH, 0]);
    expect(chip.state(0).value).toBe(1);
    device.reset!('disconnect');
    expect(chip.state(0).value).toBe(1);
    device.reset!('driver');
    expect(chip.state(0)).toMatchObject({ direction: NONE, value: 0 });
    await device.close();
    const last = new SimulatedChip(4);
    await (await goOn(last)).close();
    expect([0, 1].map((line) => last.state(line).direction)).toEqual([NONE, NONE]);
  });

  test('the value of a line that is no output yet is kept: the driver says it first', async () => {
    const driver = await openKept(new SimulatedChip(2));
    await setValue(driver, 0, 1);
    await driver.close();
    const store = new LineStore(join(folder, 'state'));
    expect(store.load(0)).toEqual({ isActive: false, direction: NONE, output: 1, trigger: 0 });
    expect(store.load(1)).toBeNull();
    store.close();
  });

  test('a full disk is told of, once, and the lines go on', () => {
    const lines: string[] = [];
    const store = new LineStore('/dev/full', (line) => lines.push(line));
    const kept = { isActive: true, direction: OUT, output: 1, trigger: 0 };
    for (let i = 0; i < 3; i += 1) store.save(i, kept);
    expect(lines).toEqual(["--state: '/dev/full' cannot be written (ENOSPC)"]);
    store.close();
  });

  test('a file with anything in it is no harm', async () => {
    for (const text of [
      '',
      'x',
      '\x01\x07\x00\x00'.repeat(4),
      '\x01\x01\x01\x05',
      'a'.repeat(99),
    ]) {
      writeFileSync(join(folder, 'state'), text);
      const chip = new SimulatedChip(4);
      await (await goOn(chip)).close();
      expect(chip.state(0)).toMatchObject({ direction: NONE, edges: 0 });
    }
    expect(() => new LineStore(folder)).toThrow(/--state: cannot open .* \(EISDIR\)/);
  });
});
