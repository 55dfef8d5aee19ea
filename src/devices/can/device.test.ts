/** The CAN device: what it sends and refuses, its modes, and simulated buses between several. */
import * as v from 'valibot';
import { afterEach, describe, expect, test } from 'vitest';
import { DeviceProcess, defineDevice } from '../../kit/index.js';
import { cutAt, MockDriver, type MockDriverOptions, pattern } from '../../testing/index.js';
import { SEND_DONE, SEND_FAILED, SEND_FULL, SEND_PENDING } from './backend.js';
import { NullBus } from './backend-null.js';
import { CanDevice, FIFO_FRAMES } from './device.js';
import { can } from './index.js';
import { CAN_F, CAN_FLAG, CAN_MESSAGE, CanConfig, CanControl, CanHeader } from './wire.js';

const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];
const [TXQ, RXQ, CONTROLQ] = [0, 1, 2];
const { EXTENDED, FD, RTR } = CAN_FLAG;
const OK = Uint8Array.of(0);
const NOT_OK = Uint8Array.of(1);

const drivers: MockDriver[] = [];
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.close();
});

async function open(options: object, mock: MockDriverOptions = {}): Promise<MockDriver> {
  const driver = await MockDriver.open(can, options, mock);
  drivers.push(driver);
  return driver;
}

/** The device on a bus for tests. */
async function openNull(
  mock: MockDriverOptions = {},
): Promise<{ bus: NullBus; driver: MockDriver }> {
  const bus = new NullBus();
  const definition = defineDevice({
    ...can,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new CanDevice(bus, host).open(),
  });
  const driver = await MockDriver.open(definition, {}, mock);
  drivers.push(driver);
  return { bus, driver };
}

interface Frame {
  readonly id?: number;
  readonly flags?: number;
  readonly data?: Uint8Array;
  readonly length?: number;
  readonly messageType?: number;
}

function message({ data = new Uint8Array(0), ...frame }: Frame): Uint8Array {
  const header = { messageType: CAN_MESSAGE.TX, length: data.length, id: 0x123, ...frame };
  return Buffer.concat([CanHeader.encode(header), data]);
}

async function send(driver: MockDriver, frame: Frame): Promise<Uint8Array> {
  return (await driver.request(TXQ, { readable: [message(frame)], writable: [1] })).bytes;
}

async function control(driver: MockDriver, messageType: number): Promise<Uint8Array> {
  const readable = [CanControl.encode({ messageType })];
  return (await driver.request(CONTROLQ, { readable, writable: [1] })).bytes;
}

const start = (driver: MockDriver) => control(driver, CAN_MESSAGE.SET_CTRL_MODE_START);
const stop = (driver: MockDriver) => control(driver, CAN_MESSAGE.SET_CTRL_MODE_STOP);
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const isBusOff = (driver: MockDriver) => driver.config(CanConfig).status === 1;

/** The next frame that the driver got. */
async function receive(driver: MockDriver): Promise<Frame & { bytes: Uint8Array }> {
  const { bytes } = await driver.nextFilled(RXQ);
  const { id, flags, length, messageType } = CanHeader.decode(bytes);
  expect(messageType).toBe(CAN_MESSAGE.RX);
  return { id, flags, length, bytes: bytes.subarray(CanHeader.size) };
}

describe.each(LAYOUTS)('$name ring', ({ packed }) => {
  test('frames of all kinds, however they are cut', async () => {
    const { bus, driver } = await openNull({ packed });
    expect(await start(driver)).toEqual(OK);
    const frames: Frame[] = [
      { id: 0, data: pattern(0) },
      { id: 0x7ff, data: pattern(8) },
      { id: 0x1fffffff, flags: EXTENDED, data: pattern(3) },
      { id: 5, flags: FD, data: pattern(64) },
      { id: 6, flags: FD | EXTENDED, data: pattern(12) },
    ];
    let count = 0;
    for (const frame of frames) {
      const bytes = message(frame);
      for (let at = 1; at < bytes.length; at += 1) {
        const readable = cutAt(bytes, at);
        const result = await driver.request(TXQ, { readable, writable: [1], misalignment: at % 4 });
        expect(result.bytes).toEqual(OK);
        const sent = bus.frames[count]!;
        count += 1;
        expect([sent.id, sent.flags]).toEqual([frame.id, frame.flags ?? 0]);
        expect(sent.data.subarray(0, sent.length)).toEqual(frame.data);
      }
    }
    expect(bus.frames.length).toBe(count);
  });

  test('remote requests, with and without the bytes that they ask for', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    expect(await send(driver, { flags: RTR, length: 8 })).toEqual(OK);
    expect(await send(driver, { flags: RTR | EXTENDED, data: pattern(4) })).toEqual(OK);
    expect(bus.frames.map(({ flags, length }) => [flags, length])).toEqual([
      [RTR, 8],
      [RTR | EXTENDED, 4],
    ]);
    expect(bus.frames[1]!.data.every((byte) => byte === 0)).toBe(true);
  });

  test.each<[string, Frame]>([
    ['an undefined flag', { flags: 1 }],
    ['an undefined flag of higher bits', { flags: 0x10000 }],
    ['a remote request of FD', { flags: RTR | FD }],
    ['a standard id of 12 bits', { id: 0x800 }],
    ['an extended id of 30 bits', { id: 0x20000000, flags: EXTENDED }],
    ['an id with the highest bit', { id: 0x80000001, flags: EXTENDED }],
    ['9 bytes of classic CAN', { data: pattern(9) }],
    ['65 bytes of FD', { flags: FD, data: pattern(65) }],
    ['a remote request for 9 bytes', { flags: RTR, length: 9 }],
    ['a length beyond the request', { data: pattern(4), length: 5 }],
    ['a large length', { length: 0xffff }],
    ['another message', { messageType: CAN_MESSAGE.RX }],
  ])('refused: %s', async (_what, frame) => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    expect(await send(driver, frame)).toEqual(NOT_OK);
    expect(await send(driver, {})).toEqual(OK);
    expect(bus.frames.length).toBe(1);
    expect(driver.log).toEqual([]);
  });

  test('a short request is refused, one without room for a result stops its queue', async () => {
    const { driver } = await openNull({ packed });
    await start(driver);
    for (const size of [1, 2, 15]) {
      const readable = [message({}).subarray(0, size)];
      const { bytes } = await driver.request(TXQ, { readable, writable: [1] });
      expect(bytes).toEqual(NOT_OK);
    }
    await driver.request(TXQ, { readable: [message({})] });
    expect(await driver.nextFault()).toMatchObject({
      queueIndex: TXQ,
      fault: { reason: 'request' },
    });
    await driver.restartQueue(TXQ);
    expect(await send(driver, {})).toEqual(OK);
    await driver.request(CONTROLQ, { readable: [CanControl.encode({ messageType: 0x201 })] });
    expect((await driver.nextFault()).queueIndex).toBe(CONTROLQ);
  });

  test('received frames of all kinds, in order, also before there is a buffer', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    bus.receive(1, 0, pattern(8));
    bus.receive(0x1fffffff, EXTENDED | FD, pattern(64));
    bus.receive(3, RTR, new Uint8Array(5));
    driver.supply(RXQ, [80, 80]);
    expect(await receive(driver)).toEqual({ id: 1, flags: 0, length: 8, bytes: pattern(8) });
    expect(await receive(driver)).toEqual({
      ...{ id: 0x1fffffff, flags: EXTENDED | FD, length: 64, bytes: pattern(64) },
    });
    driver.supply(RXQ, [80]);
    const remote = await receive(driver);
    expect(remote).toEqual({ id: 3, flags: RTR, length: 5, bytes: new Uint8Array(5) });
  });

  test('a receive buffer that is too small is the fault of the driver', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    driver.supply(RXQ, [24]);
    bus.receive(1, 0, pattern(8));
    expect((await receive(driver)).length).toBe(8);
    driver.supply(RXQ, [23]);
    bus.receive(2, 0, pattern(8));
    expect(await driver.nextFault()).toMatchObject({ queueIndex: RXQ, fault: { reason: 'short' } });
    expect((await driver.nextFilled(RXQ)).bytes).toHaveLength(0);
    await driver.restartQueue(RXQ);
    driver.supply(RXQ, [80]);
    expect((await receive(driver)).id).toBe(2);
  });

  test('a result comes when the frame is on the bus, and the others do not wait', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    expect(bus.confirms).toBe(true);
    bus.answer = SEND_PENDING;
    const results = [send(driver, { id: 1 }), send(driver, { id: 2 }), send(driver, { id: 3 })];
    while (bus.frames.length < 3) await sleep(1);
    const [first, second, third] = bus.tokens;
    bus.listener!.ended(second!, true);
    expect(await results[1]).toEqual(OK);
    bus.listener!.ended(first!, false);
    expect(await results[0]).toEqual(NOT_OK);
    bus.listener!.ended(first!, true); // Nobody waits for it: nothing happens.
    await stop(driver);
    expect(await results[2]).toEqual(NOT_OK);
    expect(third).not.toBe(first);
  });

  test('a bus that is full is waited for; the requests stay in the ring', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    bus.answer = SEND_FULL;
    const results = [send(driver, { id: 1 }), send(driver, { id: 2 })];
    while (bus.frames.length === 0) await sleep(1);
    await driver.stopQueue(TXQ);
    bus.listener!.writable();
    driver.startQueue(TXQ);
    while (bus.frames.length < 2) await sleep(1);
    bus.answer = SEND_DONE;
    bus.listener!.writable();
    expect(await Promise.all(results)).toEqual([OK, OK]);
    expect(bus.frames.map(({ id }) => id)).toEqual([1, 1, 1, 2]);
    bus.answer = SEND_FULL;
    const waiting = send(driver, {});
    while (bus.frames.length < 5) await sleep(1);
    await stop(driver);
    expect(await waiting).toEqual(NOT_OK);
  });

  test('stopped: frames are refused and none is heard', async () => {
    const { bus, driver } = await openNull({ packed });
    expect(await send(driver, {})).toEqual(NOT_OK);
    expect(await stop(driver)).toEqual(OK);
    expect(await start(driver)).toEqual(OK);
    expect(await start(driver)).toEqual(OK);
    expect(await send(driver, {})).toEqual(OK);
    expect(await stop(driver)).toEqual(OK);
    expect(bus.listener).toBeNull();
    expect(await send(driver, {})).toEqual(NOT_OK);
    expect(await control(driver, 0x203)).toEqual(NOT_OK);
    const short = await driver.request(CONTROLQ, { readable: [pattern(1)], writable: [1] });
    expect(short.bytes).toEqual(NOT_OK);
    bus.canJoin = false;
    expect(await start(driver)).toEqual(NOT_OK);
    bus.canJoin = true;
    expect(await start(driver)).toEqual(OK);
    bus.answer = SEND_FAILED;
    expect(await send(driver, {})).toEqual(NOT_OK);
  });

  test('bus-off: told in config space, what is on its way fails, and START clears it', async () => {
    const { bus, driver } = await openNull({ packed });
    await start(driver);
    bus.answer = SEND_PENDING;
    const pending = send(driver, {});
    while (bus.frames.length === 0) await sleep(1);
    bus.listener!.busOff();
    expect(CanConfig.decode(await driver.nextConfigChange()).status).toBe(1);
    expect(await pending).toEqual(NOT_OK);
    expect(bus.listener).toBeNull();
    bus.answer = SEND_DONE;
    expect(await send(driver, {})).toEqual(NOT_OK);
    expect(await start(driver)).toEqual(OK);
    expect(isBusOff(driver)).toBe(false);
    expect(await send(driver, {})).toEqual(OK);
    bus.listener!.busOff();
    await driver.negotiate();
    expect(isBusOff(driver)).toBe(false);
    expect(await send(driver, {})).toEqual(NOT_OK);
  });

  test('only what was negotiated is sent and heard', async () => {
    const { bus, driver } = await openNull({ packed });
    const kinds = [0, RTR, FD];
    const tryAll = async (features: bigint): Promise<[number, number][]> => {
      await driver.negotiate(features);
      driver.supply(RXQ, [80, 80, 80]);
      await start(driver);
      expect(bus.confirms).toBe((features & CAN_F.LATE_TX_ACK) !== 0n);
      const results: [number, number][] = [];
      for (const flags of kinds) {
        const [result] = await send(driver, { flags });
        bus.receive(1, flags, new Uint8Array(0));
        const heard = await driver.nextFilled(RXQ, 20).catch(() => null);
        results.push([result!, heard === null ? 0 : 1]);
      }
      return results;
    };
    const [yes, no]: [number, number][] = [
      [0, 1],
      [1, 0],
    ];
    const { CAN_CLASSIC, CAN_FD, RTR_FRAMES, LATE_TX_ACK } = CAN_F;
    expect(await tryAll(CAN_CLASSIC | CAN_FD | RTR_FRAMES | LATE_TX_ACK)).toEqual([yes, yes, yes]);
    expect(await tryAll(CAN_CLASSIC)).toEqual([yes, no, no]);
    expect(await tryAll(CAN_FD)).toEqual([no, no, yes]);
    // A driver must not take it without CAN_CLASSIC.
    expect(await tryAll(CAN_FD | RTR_FRAMES)).toEqual([no, no, yes]);
    await driver.negotiate(0n);
    expect(await start(driver)).toEqual(NOT_OK);
  });

  test('devices of a bus hear each other, and not themselves', async () => {
    const bus = `test-${packed}`;
    const [a, b, c] = [
      await open({ bus }, { packed }),
      await open({ bus }, { packed }),
      await open({ bus }, { packed }),
    ];
    const other = await open({}, { packed });
    for (const driver of [a, b, c, other]) {
      driver.supply(RXQ, [80, 80]);
      await start(driver);
    }
    await stop(c);
    expect(await send(a, { id: 1, data: pattern(8) })).toEqual(OK);
    expect(await receive(b)).toMatchObject({ id: 1, bytes: pattern(8) });
    expect(await send(b, { id: 2, flags: FD, data: pattern(64) })).toEqual(OK);
    expect(await receive(a)).toMatchObject({ id: 2, bytes: pattern(64) });
    for (const driver of [a, b, c, other]) {
      await expect(driver.nextFilled(RXQ, 10)).rejects.toMatchObject({ code: 'VLO_TIMEOUT' });
    }
  });

  test('a driver that takes nothing delays the others a little, then it loses frames', async () => {
    const bus = `slow-${packed}`;
    const [a, b] = [await open({ bus }, { packed }), await open({ bus }, { packed })];
    await start(a);
    await start(b);
    for (let i = 0; i < FIFO_FRAMES; i += 32) {
      await Promise.all(Array.from({ length: 32 }, (_, k) => send(a, { id: i + k })));
    }
    const startedAt = performance.now();
    expect(await send(a, { id: 0x7ff })).toEqual(OK);
    const tookMs = performance.now() - startedAt;
    expect(tookMs).toBeGreaterThan(50);
    expect(b.log).toEqual([expect.stringContaining('frames are lost')]);
    b.supply(
      RXQ,
      Array.from({ length: 60 }, () => 80),
    );
    for (let id = 0; id < 60; id += 1) expect((await receive(b)).id).toBe(id);
    await stop(b);
    expect(b.log[1]).toContain('1 frames were lost');
  });
});

test('a driver that goes on after the death of its device has started the controller', async () => {
  const { bus, driver } = await openNull();
  driver.supply(RXQ, [80, 80]);
  await start(driver);
  for (const queue of [TXQ, RXQ, CONTROLQ]) await driver.stopQueue(queue);
  driver.device.reset(); // The connection has ended.
  driver.device.setFeatures(driver.features);
  expect(bus.listener).toBeNull();
  bus.canJoin = false;
  driver.startQueue(TXQ);
  const early = driver.request(TXQ, { readable: [message({})], writable: [1] });
  await sleep(5);
  expect(bus.frames.length).toBe(0);
  driver.startQueue(RXQ);
  driver.startQueue(CONTROLQ);
  bus.canJoin = true; // The bus is back: it is tried again.
  expect((await early).bytes).toEqual(OK);
  bus.receive(7, 0, pattern(2));
  expect((await receive(driver)).id).toBe(7);
});

test('a front end that comes back finds the controller as it was: stopped, or off the bus', async () => {
  const { bus, driver } = await openNull();
  const comeBack = async (): Promise<void> => {
    for (const queue of [TXQ, RXQ, CONTROLQ]) await driver.stopQueue(queue);
    driver.device.reset('disconnect');
    driver.device.setFeatures(driver.features);
    expect(bus.listener).toBeNull();
    for (const queue of [TXQ, RXQ, CONTROLQ]) driver.startQueue(queue);
  };
  await start(driver);
  await comeBack();
  expect(await send(driver, {})).toEqual(OK);
  await stop(driver);
  await comeBack();
  expect(await send(driver, {})).toEqual(NOT_OK);
  expect(bus.listener).toBeNull();
  await start(driver);
  bus.listener!.busOff();
  await comeBack();
  expect(isBusOff(driver)).toBe(true);
  expect(await send(driver, {})).toEqual(NOT_OK);
  // A new driver begins with nothing of that.
  driver.device.reset('disconnect');
  await driver.negotiate();
  expect(isBusOff(driver)).toBe(false);
});

test.each(['driver', 'disconnect'] as const)(
  'not joined to a bus that returns: %s',
  async (cause) => {
    const { bus, driver } = await openNull();
    await start(driver);
    for (const queue of [TXQ, RXQ, CONTROLQ]) await driver.stopQueue(queue);
    driver.device.reset(cause);
    driver.device.setFeatures(driver.features);
    bus.canJoin = false;
    driver.startQueue(CONTROLQ);
    if (cause === 'driver') {
      await driver.stopQueue(CONTROLQ);
      driver.startQueue(CONTROLQ); // It tries once more, and not twice.
      await driver.stopQueue(CONTROLQ);
      driver.device.reset();
    } else expect(await stop(driver)).toEqual(OK); // By a driver that goes on, while it is away.
    bus.canJoin = true;
    await sleep(1100); // As long as it would have taken to try again.
    expect(bus.listener).toBeNull();
  },
);

test('a token of a frame that was given up stands for no other before the bus has named it', async () => {
  const { bus, driver } = await openNull();
  await start(driver);
  bus.answer = SEND_PENDING;
  const first = send(driver, { id: 1 });
  while (bus.frames.length < 1) await sleep(1);
  await driver.stopQueue(TXQ);
  expect(await first).toEqual(NOT_OK);
  driver.startQueue(TXQ);
  const second = send(driver, { id: 2 });
  while (bus.frames.length < 2) await sleep(1);
  const [firstToken, secondToken] = bus.tokens;
  expect(secondToken).not.toBe(firstToken);
  bus.listener!.ended(firstToken!, true); // The first one was sent all the same.
  let isAnswered = false;
  void second.then(() => (isAnswered = true));
  await sleep(5);
  expect(isAnswered).toBe(false);
  bus.listener!.ended(secondToken!, true);
  expect(await second).toEqual(OK);
});

test('what lies behind the data of a frame does not reach the bus', async () => {
  const { bus, driver } = await openNull();
  await start(driver);
  await send(driver, { flags: FD, data: pattern(64) });
  await send(driver, { data: pattern(8), length: 2 });
  const { data } = bus.frames[1]!;
  expect([...data.subarray(0, 2)]).toEqual([...pattern(8).subarray(0, 2)]);
  expect(data.subarray(2).every((byte) => byte === 0)).toBe(true);
});

test('a driver that takes frames slowly but steadily loses none', async () => {
  const [a, b] = [await open({ bus: 'steady' }), await open({ bus: 'steady' })];
  await start(a);
  await start(b);
  for (let i = 0; i < FIFO_FRAMES; i += 32) {
    await Promise.all(Array.from({ length: 32 }, (_, k) => send(a, { id: (i + k) & 0x7ff })));
  }
  const more = Array.from({ length: 12 }, (_, k) => send(a, { id: k }));
  for (let i = 0; i < 12; i += 1) {
    b.supply(RXQ, [80]);
    await b.nextFilled(RXQ);
    await sleep(25); // Less than a stall each time, and far more together.
  }
  expect(await Promise.all(more)).toEqual(more.map(() => OK));
  expect(b.log).toEqual([]);
});

test('room is asked for a batch, and the patience for it ends', async () => {
  const { bus, driver } = await openNull();
  await start(driver);
  for (let i = 0; i < FIFO_FRAMES - 31; i += 1) bus.receive(1, 0, pattern(0));
  const listener = bus.listener!;
  expect([listener.hasRoomFor(31), listener.hasRoomFor(32)]).toEqual([true, false]);
  await sleep(120);
  expect(listener.hasRoomFor(32)).toBe(true);
});

test.each([
  [{ canDevices: 'can0', bus: 'a' }, 'can: --bus does not go with --can-devices'],
  [{ canDevices: 'can0 can1' }, 'can: --can-devices: the name of one interface is needed'],
  [{ canDevices: '' }, 'can: --can-devices: the name of one interface is needed'],
  [{ bus: '' }, 'can: --bus: up to 32 letters'],
])('options: %o is refused', async (options, text) => {
  await expect(DeviceProcess.open(can, options)).rejects.toMatchObject({
    code: 'VLO_OPTION_INVALID',
    message: expect.stringContaining(text),
  });
});

test('an interface that is not there is refused', async () => {
  await expect(DeviceProcess.open(can, { canDevices: 'nocan' })).rejects.toMatchObject({
    code: 'VLO_CAN_INTERFACE',
    message: expect.stringContaining('--can-devices'),
  });
});
