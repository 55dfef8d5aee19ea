/** The console device: control messages and ports, over an end that can do what real ones can. */
import { afterEach, describe, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { cutAt, MockDriver, type MockDriverOptions, pattern } from '../../testing/index.js';
import type { NullEnd } from './backend-null.js';
import { consoleDevice } from './index.js';
import { parsePort } from './options.js';
import { scriptedConsole } from './test-utils.js';
import {
  CONSOLE_F,
  CONTROL_RECEIVE,
  CONTROL_TRANSMIT,
  ConsoleConfig,
  ControlMessage,
  EVENT,
  ResizeMessage,
  receiveIndex,
} from './wire.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

/** A driver as a kernel has it: it supplies buffers and answers. */
class Guest {
  readonly driver: MockDriver;
  readonly ends: NullEnd[];

  constructor(driver: MockDriver, ends: NullEnd[]) {
    this.driver = driver;
    this.ends = ends;
  }

  static async start(ports: readonly string[], mock: MockDriverOptions = {}): Promise<Guest> {
    const ends: NullEnd[] = [];
    const driver = await MockDriver.open(scriptedConsole(ports, ends), {}, mock);
    drivers.push(driver);
    return new Guest(driver, ends);
  }

  say(id: number, event: number, value = 1): Promise<unknown> {
    const readable = [ControlMessage.encode({ id, event, value })];
    return this.driver.request(CONTROL_TRANSMIT, { readable });
  }

  supplyControl(count = 16): void {
    this.driver.supply(CONTROL_RECEIVE, new Array<number>(count).fill(256));
  }

  /** The next message of the device: its header, and what follows. */
  async hear(): Promise<[id: number, event: number, value: number, rest: string]> {
    const { bytes } = await this.driver.nextFilled(CONTROL_RECEIVE);
    const { id, event, value } = ControlMessage.decode(bytes);
    return [id, event, value, Buffer.from(bytes.subarray(ControlMessage.size)).toString('latin1')];
  }

  /** Up to where ports can be used. */
  async bringUp(): Promise<void> {
    this.supplyControl();
    await this.say(0xffffffff, EVENT.DEVICE_READY);
    for (const id of this.ends.keys()) {
      expect(await this.hear()).toEqual([id, EVENT.DEVICE_ADD, 1, '']);
      this.driver.supply(receiveIndex(id), [64, 64, 64, 64]);
    }
    for (const id of this.ends.keys()) {
      await this.say(id, EVENT.PORT_READY);
      for (let event = -1; event !== EVENT.PORT_OPEN; ) [, event] = await this.hear();
      await this.say(id, EVENT.PORT_OPEN);
    }
  }

  /** Queues start as they stopped, at a device that knows nothing of the past. */
  async replaceDevice(meanwhile = () => {}): Promise<void> {
    const { driver } = this;
    await this.say(0, EVENT.DEVICE_READY, 0);
    for (let i = 0; i < driver.queueCount; i += 1) await driver.stopQueue(i);
    meanwhile();
    for (let i = 0; i < driver.queueCount; i += 1) driver.startQueue(i);
  }

  send(id: number, ...readable: Uint8Array[]): Promise<unknown> {
    return this.driver.request(receiveIndex(id) + 1, { readable });
  }

  async received(id: number): Promise<Uint8Array> {
    return (await this.driver.nextFilled(receiveIndex(id))).bytes;
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const text = (bytes: Uint8Array | null): string => Buffer.from(bytes ?? []).toString('latin1');
const size = (cols: number, rows: number): string => text(ResizeMessage.encode({ cols, rows }));

describe.each(LAYOUTS)('$name ring', ({ packed }) => {
  test('several ports are announced in the order of the specification', async () => {
    const guest = await Guest.start(['agent', 'tty,console', ''], { packed });
    const { driver, ends } = guest;
    expect(driver.queueCount).toBe(8);
    expect(driver.config(ConsoleConfig)).toEqual({ cols: 80, rows: 24, maxNrPorts: 3, emergWr: 0 });
    ends[1]!.change(false);
    await guest.say(0, EVENT.PORT_READY); // Of a port that it was not told of.
    guest.supplyControl();
    await guest.say(7, EVENT.DEVICE_READY);
    for (const id of [0, 1, 2]) expect(await guest.hear()).toEqual([id, EVENT.DEVICE_ADD, 1, '']);
    await guest.say(1, EVENT.PORT_READY);
    expect(await guest.hear()).toEqual([1, EVENT.CONSOLE_PORT, 1, '']);
    expect(await guest.hear()).toEqual([1, EVENT.RESIZE, 1, size(80, 24)]);
    expect(await guest.hear()).toEqual([1, EVENT.PORT_NAME, 1, 'tty']);
    expect(await guest.hear()).toEqual([1, EVENT.PORT_OPEN, 0, '']);
    await guest.say(0, EVENT.PORT_READY);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_NAME, 1, 'agent']);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_OPEN, 1, '']);
    await guest.say(2, EVENT.PORT_READY, 0);
    await guest.say(2, EVENT.PORT_READY);
    expect(await guest.hear()).toEqual([2, EVENT.PORT_OPEN, 1, '']);
    expect(driver.log.at(-1)).toBe('console: the driver could not set up port 2');
    // Comings, goings and sizes.
    ends[1]!.change(true, { cols: 132, rows: 50 });
    expect(await guest.hear()).toEqual([1, EVENT.PORT_OPEN, 1, '']);
    expect(await guest.hear()).toEqual([1, EVENT.RESIZE, 1, size(132, 50)]);
    ends[0]!.change(false);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_OPEN, 0, '']);
    // A driver that begins again is told all again.
    await guest.say(0, EVENT.DEVICE_READY);
    for (const id of [0, 1, 2]) expect(await guest.hear()).toEqual([id, EVENT.DEVICE_ADD, 1, '']);
  });

  test('messages wait for buffers, the latest state only', async () => {
    const guest = await Guest.start(['a'], { packed });
    await guest.say(0, EVENT.DEVICE_READY);
    await guest.say(0, EVENT.PORT_READY);
    for (let i = 0; i < 50; i += 1) guest.ends[0]!.change(i % 2 === 0);
    guest.supplyControl(2);
    expect(await guest.hear()).toEqual([0, EVENT.DEVICE_ADD, 1, '']);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_NAME, 1, 'a']);
    guest.supplyControl(8);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_OPEN, 0, '']);
    await expect(guest.driver.nextFilled(CONTROL_RECEIVE, 30)).rejects.toMatchObject({
      code: 'VLO_TIMEOUT',
    });
  });

  test('bytes both ways, however they are cut', async () => {
    const guest = await Guest.start(['a', 'b'], { packed });
    await guest.bringUp();
    const [a, b] = guest.ends;
    const bytes = pattern(5000);
    await guest.send(1, ...cutAt(bytes, 1, 2, 4095));
    await guest.send(0, new Uint8Array(0));
    expect(Buffer.compare(b!.heard!, bytes)).toBe(0);
    expect(a!.heard).toHaveLength(0);
    b!.say(pattern(100, 2));
    const parts = [await guest.received(1), await guest.received(1)];
    expect(parts.map((part) => part.length)).toEqual([64, 36]);
    expect(Buffer.concat(parts).equals(pattern(100, 2))).toBe(true);
    // No buffers: the end keeps what it has.
    b!.say(pattern(200, 3));
    const early = Buffer.concat([await guest.received(1), await guest.received(1)]);
    expect(b!.wanted.readable).toBe(false);
    guest.driver.supply(receiveIndex(1), [100, 100]);
    const late = Buffer.concat([early, await guest.received(1)]);
    expect(late.equals(pattern(200, 3))).toBe(true);
  });

  test('a full end holds requests up, in part if need be, and over a stop', async () => {
    const guest = await Guest.start(['a'], { packed });
    await guest.bringUp();
    const [end] = guest.ends;
    const { driver } = guest;
    end!.room = 1000;
    const sent = [pattern(1500, 1), pattern(700, 2), pattern(10, 3)];
    const done = sent.map((bytes) => guest.send(0, ...cutAt(bytes, 7)));
    while (end!.heard!.length < 1000) await sleep(1);
    await driver.stopQueue(1);
    driver.startQueue(1);
    await sleep(5);
    end!.drain(600);
    await done[0];
    end!.drain();
    await Promise.all(done);
    expect(Buffer.concat(sent).equals(end!.heard!)).toBe(true);
    // Reset: what was sent of a request is forgotten with it.
    end!.room = 10;
    end!.heard = new Uint8Array(0);
    void guest.send(0, pattern(20));
    while (end!.heard.length < 10) await sleep(1);
    await driver.restartQueue(1);
    end!.drain();
    await guest.send(0, pattern(20, 5));
    expect(Buffer.compare(end!.heard.subarray(10), pattern(20, 5))).toBe(0);
  });

  test('nobody at either end', async () => {
    const guest = await Guest.start(['a'], { packed });
    await guest.bringUp();
    const [end] = guest.ends;
    end!.room = 0;
    const stuck = guest.send(0, pattern(10));
    await sleep(5);
    end!.change(false);
    await stuck; // Swallowed.
    await guest.send(0, pattern(10));
    end!.room = 100;
    end!.change(true);
    await guest.send(0, pattern(10, 2));
    expect(Buffer.compare(end!.heard!, pattern(10, 2))).toBe(0);
    await guest.say(0, EVENT.PORT_OPEN, 0);
    end!.say(pattern(10, 3));
    await expect(guest.driver.nextFilled(0, 30)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
    await guest.say(0, EVENT.PORT_OPEN, 1);
    expect(await guest.received(0)).toEqual(pattern(10, 3));
  });

  test('a driver that resets its device has no port open any more', async () => {
    const guest = await Guest.start(['a'], { packed });
    await guest.bringUp();
    const [end] = guest.ends;
    await guest.driver.reset();
    // Queue 0 starts before those of control messages do.
    guest.driver.startQueue(0);
    guest.driver.supply(0, [64]);
    end!.say(pattern(10));
    await expect(guest.driver.nextFilled(0, 30)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
  });

  test('one port: a console without messages, whose size is in config space', async () => {
    const guest = await Guest.start([], { packed });
    const { driver, ends } = guest;
    expect(driver.queueCount).toBe(2);
    expect(driver.features & CONSOLE_F.MULTIPORT).toBe(0n);
    driver.supply(0, [16]);
    ends[0]!.say(Buffer.from('login'));
    expect(text(await guest.received(0))).toBe('login');
    ends[0]!.change(true, { cols: 100, rows: 30 });
    expect(ConsoleConfig.decode(await driver.nextConfigChange())).toMatchObject({
      cols: 100,
      rows: 30,
    });
    // A console is never held up: what nobody reads is put aside, and at last lost.
    ends[0]!.room = 0;
    for (let i = 0; i < 20; i += 1) await guest.send(0, pattern(32768, i));
    ends[0]!.drain();
    const heard = ends[0]!.heard!;
    expect(heard).toHaveLength(256 * 1024);
    expect(Buffer.compare(heard.subarray(0, 32768), pattern(32768, 0))).toBe(0);
    await guest.send(0, Buffer.from('more'));
    expect(text(ends[0]!.heard!.subarray(-4))).toBe('more');
    // Emergency write, whole or in part, at any time.
    await driver.reset();
    driver.writeConfig(8, Uint8Array.of(0x41, 0, 0, 0));
    driver.writeConfig(0, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0, 0, 0));
    driver.writeConfig(0, Uint8Array.of(1, 2, 3, 4));
    expect(text(ends[0]!.heard!.subarray(-6))).toBe('moreAB');
    await driver.negotiate();
    await guest.send(0, Buffer.from('!'));
    expect(text(ends[0]!.heard!.subarray(-2))).toBe('B!');
  });

  test('a driver without MULTIPORT has the first port only', async () => {
    const guest = await Guest.start(['a', 'b'], {
      packed,
      features: CONSOLE_F.SIZE,
      queueCount: 2,
    });
    await guest.send(0, Buffer.from('x'));
    expect(text(guest.ends[0]!.heard)).toBe('x');
  });

  test('a console port is a plain one to a driver without SIZE', async () => {
    const guest = await Guest.start(['tty,console'], { packed, features: CONSOLE_F.MULTIPORT });
    guest.supplyControl();
    await guest.say(0, EVENT.DEVICE_READY);
    expect(await guest.hear()).toEqual([0, EVENT.DEVICE_ADD, 1, '']);
    await guest.say(0, EVENT.PORT_READY);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_NAME, 1, 'tty']);
    expect(guest.driver.log.at(-1)).toMatch(/no console here/);
  });

  test('a device that goes on with the driver of a predecessor', async () => {
    const guest = await Guest.start(['a', 'b'], { packed });
    const { ends } = guest;
    await guest.bringUp();
    await guest.replaceDevice();
    ends[1]!.say(Buffer.from('on'));
    expect(text(await guest.received(1))).toBe('on');
    await guest.say(1, EVENT.PORT_OPEN, 0);
    await guest.say(1, EVENT.PORT_OPEN, 1);
    await guest.send(1, Buffer.from('off'));
    expect(text(ends[1]!.heard)).toBe('off');
  });

  test('clients of a predecessor have a moment to come back', async () => {
    const guest = await Guest.start(['a', 'b'], { packed });
    const { ends } = guest;
    await guest.bringUp();
    const before = performance.now();
    await guest.replaceDevice(() => {
      for (const end of ends) end.change(false);
    });
    const names = ['a', 'b'].map((name, id) => [id, EVENT.PORT_NAME, 1, name]);
    expect([await guest.hear(), await guest.hear()]).toEqual(names);
    ends[0]!.change(true);
    expect(await guest.hear()).toEqual([0, EVENT.PORT_OPEN, 1, '']);
    expect(await guest.hear()).toEqual([1, EVENT.PORT_OPEN, 0, '']);
    expect(performance.now() - before).toBeGreaterThan(900);
  });

  test.each([
    ['a message that is too short', CONTROL_TRANSMIT, 'short', { readable: [pattern(7)] }],
    ['a message in no memory', CONTROL_TRANSMIT, 'short', { writable: [8] }],
    ['a receive buffer to be read', 0, 'request', { readable: [pattern(8)] }],
    ['a control buffer that is too small', CONTROL_RECEIVE, 'short', { writable: [7] }],
  ] as const)('%s stops its queue only', async (_what, queue, reason, request) => {
    const guest = await Guest.start(['a', 'b'], { packed });
    const { driver, ends } = guest;
    await guest.bringUp();
    while (await driver.nextFilled(CONTROL_RECEIVE, 1).catch(() => null));
    if (queue !== CONTROL_TRANSMIT) await driver.restartQueue(queue);
    if (queue === CONTROL_RECEIVE) {
      void guest.say(0, EVENT.DEVICE_READY);
      void guest.say(0, EVENT.PORT_READY);
    }
    void driver.request(queue, request).catch(() => {});
    if (queue === 0) ends[0]!.say(Buffer.from('x'));
    const fault = await driver.nextFault();
    expect([fault.queueIndex, fault.fault?.reason]).toEqual([queue, reason]);
    await guest.send(1, Buffer.from('on'));
    expect(text(ends[1]!.heard)).toBe('on');
  });
});

test('a port is announced when its queues run, and not before', async () => {
  const guest = await Guest.start(['a', 'b']);
  const { driver } = guest;
  await driver.stopQueue(5);
  guest.supplyControl();
  await guest.say(0, EVENT.DEVICE_READY);
  expect(await guest.hear()).toEqual([0, EVENT.DEVICE_ADD, 1, '']);
  await expect(driver.nextFilled(CONTROL_RECEIVE, 20)).rejects.toMatchObject({});
  driver.startQueue(5);
  expect(await guest.hear()).toEqual([1, EVENT.DEVICE_ADD, 1, '']);
});

test('messages that make no sense are left alone', async () => {
  const guest = await Guest.start(['a']);
  guest.supplyControl();
  for (const id of [0, 1, 31, 0xffffffff]) {
    for (let event = 1; event < 12; event += 1) await guest.say(id, event, 0xffff);
  }
  await guest.say(0, EVENT.DEVICE_READY, 0);
  await expect(guest.driver.nextFilled(CONTROL_RECEIVE, 20)).rejects.toMatchObject({});
  await guest.say(0, EVENT.DEVICE_READY, 1);
  expect(await guest.hear()).toEqual([0, EVENT.DEVICE_ADD, 1, '']);
});

test.each([
  [{ chardev: 'serial' }, '--chardev: one of pty, unix, stdio, file, null is needed'],
  [{ chardev: 'unix' }, "--chardev: 'unix' needs a path"],
  [{ chardev: 'null', path: '/tmp/x' }, "--chardev: 'null' takes no path"],
  [{ terminalSize: '80' }, '--terminal-size: a size such as 80x24 is needed'],
  [{ port: ['a,chardev=x'] }, '--port: one of pty, unix, stdio, file, null is needed'],
  [{ port: ['a,b'] }, "--port: chardev=, path= and console are known, not 'b'"],
  [{ port: ['a,chardev=file'] }, "--port: 'file' needs a path"],
  [{ port: ['a', 'a'] }, "--port: 'a' is the name of two ports"],
  [{ port: ['a,path=/x', 'b,path=/x'] }, "--port: '/x' is the path of two ports"],
  [{ port: ['a,chardev=stdio', ',chardev=stdio'] }, "--port: only one port can have 'stdio'"],
  [{ port: ['x'.repeat(121)] }, /--port: a name of up to 120 bytes/],
  [{ port: new Array(32).fill('') }, '--port: at most 31 ports are possible'],
])('options: %o is refused', async (options, message) => {
  await expect(DeviceProcess.open(consoleDevice, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: typeof message === 'string' ? `console: ${message}` : expect.stringMatching(message),
  });
});

test('options: ports as they are given', () => {
  expect(parsePort('org.example.a,chardev=unix,path=/tmp/a=b.sock')).toEqual({
    ...{ name: 'org.example.a', backend: 'unix', path: '/tmp/a=b.sock', isConsole: false },
  });
  expect(parsePort(',console')).toEqual({
    ...{ name: '', backend: 'pty', path: null, isConsole: true },
  });
});

test('a port that cannot be opened leaves nothing of the others', async () => {
  const open = () =>
    DeviceProcess.open(consoleDevice, { port: ['a', 'b,chardev=file,path=/nowhere/log'] });
  await expectNoLeaks(() => expect(open()).rejects.toMatchObject({ code: 'VLO_PORT_ACCESS' }));
});
