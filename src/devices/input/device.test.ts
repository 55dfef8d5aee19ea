/** The input device: whole reports over any ring, the driver's questions, LEDs, and bad drivers. */
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import { DeviceProcess, defineDevice } from '../../kit/index.js';
import {
  cutAt,
  MockDriver,
  type MockDriverOptions,
  malformedKinds,
  resourceCounts,
} from '../../testing/index.js';
import type { InputDescription } from './backend.js';
import { NullInput, type Triple } from './backend-null.js';
import { codeOf, nameOf } from './codes.js';
import { bitsOf } from './config-codec.js';
import { describe as describeInput, PROFILES, rangeOf } from './description.js';
import { InputDevice } from './device.js';
import { input } from './index.js';
import { EV, InputAbs, InputConfig, InputEvent, InputIds, SELECT } from './wire.js';

const EVENTQ = 0;
const STATUSQ = 1;
const SYN: Triple = [EV.SYN, 0, 0];
const KEY_A = codeOf(EV.KEY, 'KEY_A')!;
const KEY_B = codeOf(EV.KEY, 'KEY_B')!;
const CAPS = codeOf(EV.LED, 'LED_CAPSL')!;

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

interface Stand {
  readonly source: NullInput;
  readonly driver: MockDriver;
}

async function open(
  mock: MockDriverOptions = {},
  description: InputDescription = PROFILES.keyboard,
  isLive = false,
): Promise<Stand> {
  const source = new NullInput(description, isLive);
  const definition = defineDevice({
    ...input,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new InputDevice(source, host).open(),
  });
  const driver = await MockDriver.open(definition, {}, mock);
  drivers.push(driver);
  return { source, driver };
}

const supply = (driver: MockDriver, count: number): void =>
  driver.supply(EVENTQ, new Array<number>(count).fill(8));

async function next(driver: MockDriver, count: number): Promise<Triple[]> {
  const events: Triple[] = [];
  for (let i = 0; i < count; i += 1) {
    const { bytes, length } = await driver.nextFilled(EVENTQ);
    expect(length).toBe(8);
    const { type, code, value } = InputEvent.decode(bytes);
    events.push([type, code, value | 0]);
  }
  return events;
}

const nothing = (driver: MockDriver, ms = 40): Promise<void> =>
  expect(driver.nextFilled(EVENTQ, ms)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });

const event = (type: number, code: number, value: number): Uint8Array =>
  InputEvent.encode({ type, code, value: value >>> 0 });

function ask(driver: MockDriver, select: number, subsel: number): Uint8Array {
  driver.writeConfig(0, Uint8Array.of(select));
  driver.writeConfig(1, Uint8Array.of(subsel));
  const { size, answer } = driver.config(InputConfig);
  expect(answer.subarray(size).every((byte) => byte === 0)).toBe(true);
  return answer.slice(0, size);
}

describe.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('$name ring', ({ packed }) => {
  test('a report comes whole, in order, or waits', async () => {
    const { source, driver } = await open({ packed }, PROFILES.mouse);
    supply(driver, 4);
    source.tell([EV.REL, 0, -5], [EV.REL, 1, 7]);
    source.tell([EV.REL, 0, 1], [EV.REL, 1, 2]);
    source.tell([EV.REL, 0, 3]);
    expect(await next(driver, 3)).toEqual([[EV.REL, 0, -5], [EV.REL, 1, 7], SYN]);
    await nothing(driver); // One buffer is there, three are needed.
    supply(driver, 1);
    await nothing(driver);
    supply(driver, 3);
    expect(await next(driver, 3)).toEqual([[EV.REL, 0, 1], [EV.REL, 1, 2], SYN]);
    expect(await next(driver, 2)).toEqual([[EV.REL, 0, 3], SYN]);
  });

  test('a report that is longer than the ring goes in parts, and nothing comes between', async () => {
    const { source, driver } = await open({ packed, queueSize: 4 });
    const keys = Array.from({ length: 11 }, (_, i): Triple => [EV.KEY, 2 + i, 1]);
    source.tell(...keys);
    source.tell([EV.KEY, KEY_A, 1]);
    const events: Triple[] = [];
    while (events.length < 14) {
      supply(driver, 2);
      events.push(...(await next(driver, 2)));
    }
    expect(events).toEqual([...keys, SYN, [EV.KEY, KEY_A, 1], SYN]);
  });

  test('a driver with fewer buffers than entries gets parts after a second', async () => {
    const { source, driver } = await open({ packed });
    supply(driver, 2);
    source.tell([EV.KEY, KEY_A, 1], [EV.KEY, KEY_B, 1]);
    await nothing(driver, 500);
    expect(await next(driver, 2)).toEqual([
      [EV.KEY, KEY_A, 1],
      [EV.KEY, KEY_B, 1],
    ]);
    supply(driver, 1);
    expect(await next(driver, 1)).toEqual([SYN]);
  });

  test('LEDs reach the source, however the request is cut; keys do not', async () => {
    const { source, driver } = await open({ packed });
    const on = event(EV.LED, CAPS, 1);
    for (let at = 1; at < on.length; at += 1) {
      await driver.request(STATUSQ, { readable: cutAt(on, at), misalignment: at % 4 });
    }
    expect(source.status).toEqual(new Array(7).fill([EV.LED, CAPS, 1]));
    source.status.length = 0;
    await driver.request(STATUSQ, { readable: [event(EV.KEY, KEY_A, 1)] });
    await driver.request(STATUSQ, { readable: [event(EV.LED, 0xffff, 1)] });
    await driver.request(STATUSQ, { readable: [event(EV.SYN, 0, 0)] });
    await driver.request(STATUSQ, { readable: [event(0xffff, 1, 1)] });
    const long = Uint8Array.of(...event(EV.LED, CAPS, 0), 1, 2, 3);
    const { length } = await driver.request(STATUSQ, { readable: [long], writable: [4] });
    expect(length).toBe(0);
    expect(source.status).toEqual([[EV.LED, CAPS, 0]]);
  });

  test('short buffers stop their queue only', async () => {
    const { source, driver } = await open({ packed });
    await driver.request(STATUSQ, { readable: [new Uint8Array(7)] });
    expect(await driver.nextFault()).toMatchObject({ queueIndex: 1, fault: { reason: 'short' } });
    driver.supply(EVENTQ, [8, 7]);
    source.tell([EV.KEY, KEY_A, 1]);
    expect(await driver.nextFault()).toMatchObject({ queueIndex: 0, fault: { reason: 'short' } });
    await driver.restartQueue(EVENTQ);
    await driver.restartQueue(STATUSQ);
    for (const size of [8, 7]) {
      expect(await driver.nextFilled(EVENTQ)).toMatchObject({
        length: 0,
        buffer: { length: size },
      });
    }
    supply(driver, 8);
    source.tell([EV.KEY, KEY_B, 1]);
    expect(await next(driver, 4)).toEqual([[EV.KEY, KEY_A, 1], SYN, [EV.KEY, KEY_B, 1], SYN]);
    await driver.request(STATUSQ, { readable: [event(EV.LED, CAPS, 1)] });
    expect(source.status).toHaveLength(1);
  });

  test('a driver that starts anew: no rest of an old report; a script goes on', async () => {
    const { source, driver } = await open({ packed, queueSize: 4 });
    const keys = Array.from({ length: 6 }, (_, i): Triple => [EV.KEY, 2 + i, 1]);
    source.tell(...keys);
    source.tell([EV.KEY, KEY_A, 0]);
    supply(driver, 3);
    await next(driver, 3);
    await driver.negotiate();
    const events: Triple[] = [];
    for (let i = 0; i < 3; i += 1) {
      supply(driver, 3);
      events.push(...(await next(driver, 3)));
    }
    expect(events).toEqual([...keys, SYN, [EV.KEY, KEY_A, 0], SYN]);
  });

  test.each(malformedKinds(packed))('a malformed chain: %s', async (kind) => {
    for (const index of [EVENTQ, STATUSQ]) {
      const { source, driver } = await open({ packed });
      driver.placeMalformed(index, kind);
      source.tell([EV.KEY, KEY_A, 1]);
      expect((await driver.nextFault()).queueIndex).toBe(index);
      await driver.restartQueue(index);
      supply(driver, 8);
      source.tell([EV.KEY, KEY_B, 1]);
      await next(driver, 2);
      await driver.request(STATUSQ, { readable: [event(EV.LED, CAPS, 1)] });
    }
  });
});

describe('sources that lose events', () => {
  test('without a driver they are lost; then the driver is told of switches and axes', async () => {
    const lid: Triple = [EV.SW, 0, 1];
    const description = describeInput({
      name: 'Laptop',
      codes: { [EV.KEY]: [KEY_A], [EV.SW]: [0] },
      axes: new Map([[0, rangeOf(0, 100)]]),
    });
    const { source, driver } = await open({}, description, true);
    await driver.stopQueue(EVENTQ);
    source.tell(lid, [EV.KEY, KEY_A, 1]);
    source.tell([EV.KEY, KEY_A, 0], [EV.ABS, 0, 42]);
    driver.startQueue(EVENTQ);
    supply(driver, 8);
    expect(await next(driver, 3)).toEqual([lid, [EV.ABS, 0, 42], SYN]);
    source.tell([EV.KEY, KEY_A, 1]);
    expect(await next(driver, 2)).toEqual([[EV.KEY, KEY_A, 1], SYN]);
  });

  test('what a driver has of a report that went in parts is known when its queue goes on', async () => {
    const { source, driver } = await open({ queueSize: 4 }, PROFILES.keyboard, true);
    supply(driver, 2);
    source.tell([EV.KEY, KEY_A, 1], [EV.KEY, KEY_B, 1], [EV.KEY, CAPS, 1], [EV.KEY, 3, 1]);
    await next(driver, 2);
    await driver.stopQueue(EVENTQ);
    source.tell([EV.KEY, KEY_A, 0], [EV.KEY, KEY_B, 0], [EV.KEY, CAPS, 0], [EV.KEY, 3, 0]);
    driver.startQueue(EVENTQ);
    supply(driver, 4);
    expect(await next(driver, 3)).toEqual([[EV.KEY, KEY_A, 0], [EV.KEY, KEY_B, 0], SYN]);
  });

  test('the difference is told, after what is held', async () => {
    const { source, driver } = await open({}, PROFILES.keyboard, true);
    supply(driver, 4);
    source.tell([EV.KEY, KEY_A, 1]);
    await next(driver, 2);
    source.lose((state) => {
      state.release();
      state.apply(EV.KEY, KEY_B, 1);
    });
    supply(driver, 8);
    expect(await next(driver, 3)).toEqual([[EV.KEY, KEY_A, 0], [EV.KEY, KEY_B, 1], SYN]);
    source.lose((state) => state.apply(EV.KEY, KEY_B, 1));
    await nothing(driver);
  });

  test('contacts are told one by one, and lifted when the source is gone', async () => {
    const { source, driver } = await open({}, PROFILES.touchscreen, true);
    const [slot, x, id] = [0x2f, 0x35, 0x39];
    supply(driver, 40);
    source.lose((state) => {
      for (const [at, value] of [7, 8].entries()) {
        state.apply(EV.ABS, slot, at);
        state.apply(EV.ABS, id, value);
        state.apply(EV.ABS, x, value * 10);
      }
    });
    expect(await next(driver, 6)).toEqual([
      [EV.ABS, x, 70],
      [EV.ABS, id, 7],
      [EV.ABS, slot, 1],
      [EV.ABS, x, 80],
      [EV.ABS, id, 8],
      SYN,
    ]);
    source.lose((state) => state.release());
    expect(await next(driver, 5)).toEqual([
      [EV.ABS, slot, 0],
      [EV.ABS, id, -1],
      [EV.ABS, slot, 1],
      [EV.ABS, id, -1],
      SYN,
    ]);
  });
});

describe('questions', () => {
  test('every selector', async () => {
    const description = describeInput({
      name: 'Panel',
      serial: 'S-1',
      ids: { bustype: 3, vendor: 0x1234, product: 2, version: 0x111 },
      properties: [1],
      codes: { [EV.KEY]: [KEY_A, 0x2ff], [EV.LED]: [CAPS], [EV.REP]: [0, 1] },
      axes: new Map([[0x28, rangeOf(-1000, 1000, { fuzz: 4, flat: 8, res: 12 })]]),
    });
    const { driver } = await open({}, description);
    const text = (select: number) => new TextDecoder().decode(ask(driver, select, 0));
    expect(driver.device.configSize).toBe(136);
    expect(ask(driver, SELECT.UNSET, 0)).toHaveLength(0);
    expect(text(SELECT.ID_NAME)).toBe('Panel');
    expect(text(SELECT.ID_SERIAL)).toBe('S-1');
    expect(InputIds.decode(ask(driver, SELECT.ID_DEVIDS, 0))).toEqual(description.ids);
    expect([...ask(driver, SELECT.PROP_BITS, 0)]).toEqual([2]);
    expect(bitsOf(ask(driver, SELECT.EV_BITS, EV.KEY))).toEqual([KEY_A, 0x2ff]);
    expect(bitsOf(ask(driver, SELECT.EV_BITS, EV.ABS))).toEqual([0x28]);
    expect(bitsOf(ask(driver, SELECT.EV_BITS, EV.REP))).toEqual([0, 1]);
    expect(InputAbs.decode(ask(driver, SELECT.ABS_INFO, 0x28))).toEqual({
      ...{ min: -1000 >>> 0, max: 1000, fuzz: 4, flat: 8, res: 12 },
    });
    for (const [select, subsel] of [
      [SELECT.ID_NAME, 1],
      [SELECT.ID_DEVIDS, 1],
      [SELECT.PROP_BITS, 1],
      [SELECT.EV_BITS, EV.REL],
      [SELECT.EV_BITS, 0xff],
      [SELECT.ABS_INFO, 0],
      [SELECT.ABS_INFO, 0xff],
      [0x13, 0],
      [0xff, 0xff],
    ] as const) {
      expect(ask(driver, select, subsel), `${select} ${subsel}`).toHaveLength(0);
    }
  });

  test('in any order, at once, with the whole space, and beyond the selectors', async () => {
    const { driver } = await open({}, PROFILES.mouse);
    const name = PROFILES.mouse.name.length;
    driver.writeConfig(1, Uint8Array.of(0));
    driver.writeConfig(0, Uint8Array.of(SELECT.ID_NAME));
    expect(driver.config(InputConfig)).toMatchObject({ select: 1, subsel: 0, size: name });
    driver.writeConfig(0, Uint8Array.of(SELECT.EV_BITS, EV.REL));
    expect(driver.config(InputConfig).size).toBe(2);
    const whole = driver.readConfig();
    whole.fill(0xff, 2);
    whole[1] = EV.KEY;
    driver.writeConfig(0, whole);
    expect(driver.config(InputConfig)).toMatchObject({ select: 0x11, subsel: EV.KEY, size: 35 });
    const before = driver.readConfig();
    driver.writeConfig(2, Uint8Array.of(9, 9, 9));
    driver.writeConfig(135, Uint8Array.of(9));
    expect(driver.readConfig()).toEqual(before);
  });

  test('a long name is cut between characters', async () => {
    const { driver } = await open({}, { ...PROFILES.mouse, name: `${'x'.repeat(62)}ä` });
    expect(ask(driver, SELECT.ID_NAME, 0)).toHaveLength(62);
  });
});

test('names of codes', () => {
  expect(codeOf(EV.KEY, 'BTN_LEFT')).toBe(0x110);
  expect(codeOf(EV.KEY, 'BTN_SOUTH')).toBe(0x130);
  expect(codeOf(EV.KEY, 'KEY_MICMUTE')).toBe(248);
  expect(codeOf(EV.ABS, 'ABS_MT_TOOL_Y')).toBe(0x3d);
  expect(codeOf(EV.REL, 'REL_WHEEL')).toBe(8);
  expect(codeOf(EV.SW, 'SW_LID')).toBe(0);
  expect(codeOf(EV.LED, 'KEY_A')).toBeNull();
  expect(codeOf(EV.KEY, 0x300)).toBeNull();
  expect(codeOf(EV.KEY, '30')).toBe(30);
  expect(nameOf(EV.LED, CAPS)).toBe('LED_CAPSL');
  expect(nameOf(EV.KEY, 0x110)).toBe('BTN_LEFT');
});

test.each([
  [{}, 'input: give exactly one of --evdev-path and --script'],
  [{ evdevPath: 'a', script: 'b' }, 'input: give exactly one of --evdev-path and --script'],
  [{ script: 'b', profile: 'x' }, 'input: --profile: one of keyboard, mouse, tablet, touchscreen'],
])('options: %o is refused', async (options, message) => {
  await expect(DeviceProcess.open(input, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: expect.stringContaining(message),
  });
});

test('an event device that is none, or not there, is refused', async () => {
  for (const [evdevPath, reason] of [
    ['/nowhere/event0', 'ENOENT'],
    ['/dev/null', 'ENOTTY'],
  ]) {
    const before = resourceCounts();
    await expect(DeviceProcess.open(input, { evdevPath })).rejects.toMatchObject({
      code: 'VLO_SOURCE_ACCESS',
      message: expect.stringContaining(`(${reason})`),
    });
    expect(resourceCounts().fds).toBe(before.fds);
  }
});
