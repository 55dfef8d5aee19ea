/** The CAN driver over vhost-user: with our own device, one that dies, and a hostile one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AnyDeviceDefinition, DeviceProcess, defineDevice } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { BackEndServer } from '../../vhost-user/index.js';
import { CanFrame, SEND_FAILED, SEND_PENDING } from './backend.js';
import { NullBus } from './backend-null.js';
import { CanDevice } from './device.js';
import { CanDriver } from './driver.js';
import { can } from './index.js';
import { CAN_FLAG, CAN_MESSAGE, CanHeader } from './wire.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Serves a device; the result ends it. */
async function serve(
  definition: AnyDeviceDefinition,
  name = 's',
  options: object = {},
): Promise<{ path: string; stop: () => Promise<void> }> {
  const path = join(folder, name);
  const device = await DeviceProcess.open(definition, options);
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  const stop = async (): Promise<void> => {
    await server.close();
    await device.close();
  };
  return { path, stop };
}

function onBus(bus: NullBus): AnyDeviceDefinition {
  return defineDevice({
    ...can,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new CanDevice(bus, host).open(),
  });
}

function frame(id: number, flags: number, length: number): CanFrame {
  const made = new CanFrame();
  Object.assign(made, { id, flags, length });
  for (let i = 0; i < length; i += 1) made.data[i] = (id + i) & 0xff;
  return made;
}

function copyOf(original: CanFrame): CanFrame {
  const copy = new CanFrame();
  copy.copy(original);
  return copy;
}

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 5000; !condition() && Date.now() < end; ) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  expect(condition()).toBe(true);
}

test.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('many frames between two controllers, over $name rings', ({ packed }) =>
  expectNoLeaks(async () => {
    const [a, b] = [await serve(can, 'a', { bus: 'x' }), await serve(can, 'b', { bus: 'x' })];
    const seen: CanFrame[] = [];
    const onFrame = (received: CanFrame): void => void seen.push(copyOf(received));
    const sender = await CanDriver.connect({ path: a.path, packed });
    const receiver = await CanDriver.connect({ path: b.path, packed, onFrame });
    await Promise.all([sender.start(), receiver.start()]);
    const count = 3000;
    let sentCount = 0;
    const countSent = (isSent: boolean): void => {
      sentCount += isSent ? 1 : 0;
    };
    const flags = [0, CAN_FLAG.EXTENDED, CAN_FLAG.FD];
    for (let id = 0; id < count; id += 1) {
      while (!sender.hasRoom) await new Promise(setImmediate);
      const made = frame(id & 0x7ff, flags[id % 3]!, id % 9);
      expect(sender.send(made, countSent)).toBe(true);
    }
    await until(() => seen.length === count && sentCount === count);
    for (const [id, received] of seen.entries()) {
      expect(received.equals(frame(id & 0x7ff, flags[id % 3]!, id % 9))).toBe(true);
    }
    await receiver.stop();
    sender.send(frame(1, 0, 1), countSent);
    await until(() => sentCount > count);
    await receiver.start();
    sender.send(frame(2, 0, 2));
    await until(() => seen.length > count);
    expect(seen.at(-1)!.id).toBe(2);
    await Promise.all([sender.close(), receiver.close()]);
    await Promise.all([a.stop(), b.stop()]);
  }),
);

test('refused frames, a bus that cannot be joined, bus-off', () =>
  expectNoLeaks(async () => {
    const bus = new NullBus();
    bus.hasFd = false;
    bus.canJoin = false;
    const { path, stop } = await serve(onBus(bus));
    let busOffCount = 0;
    const onBusOff = (): void => {
      busOffCount += 1;
    };
    const driver = await CanDriver.connect({ path, onBusOff });
    expect(driver.hasFd).toBe(false);
    await expect(driver.start()).rejects.toMatchObject({ code: 'VLO_DEVICE_FAILED' });
    bus.canJoin = true;
    await driver.start();
    const results: boolean[] = [];
    const result = (isSent: boolean): void => void results.push(isSent);
    driver.send(frame(1, CAN_FLAG.FD, 1), result);
    driver.send(frame(1, 0, 1), result);
    await until(() => results.length === 2);
    expect(results).toEqual([false, true]);
    expect(() => driver.send(frame(1, 0, 65))).toThrow(/64 fit/);
    for (let round = 1; round <= 2; round += 1) {
      bus.listener!.busOff();
      await until(() => busOffCount === round);
      await driver.start();
    }
    bus.answer = SEND_FAILED;
    driver.send(frame(1, 0, 1), result);
    await until(() => results.length === 3);
    expect(results[2]).toBe(false);
    await driver.close();
    await stop();
  }));

test('a back end that dies and returns: nobody starts the controller again', () =>
  expectNoLeaks(async () => {
    const first = new NullBus();
    let served = await serve(onBus(first));
    const seen: number[] = [];
    const { path } = served;
    const onFrame = ({ id }: CanFrame): void => void seen.push(id);
    const driver = await CanDriver.connect({ path, onFrame, reconnect: { delayMs: 1 } });
    await driver.start();
    first.receive(1, 0, new Uint8Array(1));
    await until(() => seen.length === 1);
    await served.stop();
    const results: boolean[] = [];
    driver.send(frame(5, 0, 1), (isSent) => results.push(isSent));
    const second = new NullBus();
    served = await serve(onBus(second));
    await until(() => results.length === 1);
    expect(results).toEqual([true]);
    expect(second.frames.map(({ id }) => id)).toEqual([5]);
    second.receive(2, 0, new Uint8Array(1));
    await until(() => seen.length === 2);
    await driver.close();
    await served.stop();
  }));

test('what is on its way when the driver closes, or when too much is', () =>
  expectNoLeaks(async () => {
    const bus = new NullBus();
    bus.answer = SEND_PENDING;
    const { path, stop } = await serve(onBus(bus));
    const driver = await CanDriver.connect({ path });
    await driver.start();
    let count = 0;
    let failedCount = 0;
    const countFailed = (isSent: boolean): void => {
      failedCount += isSent ? 0 : 1;
    };
    while (driver.hasRoom) {
      driver.send(frame(1, 0, 8), countFailed);
      count += 1;
    }
    expect(driver.send(frame(1, 0, 8))).toBe(false);
    await until(() => bus.frames.length === count);
    await driver.close();
    expect(failedCount).toBe(count);
    expect(driver.send(frame(1, 0, 8))).toBe(false);
    await expect(driver.start()).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await stop();
  }));

test('a device that writes nonsense into the buffers', () =>
  expectNoLeaks(async () => {
    const messages = [
      CanHeader.encode({ messageType: CAN_MESSAGE.RX, id: 1 }),
      CanHeader.encode({ messageType: CAN_MESSAGE.RX, id: 2, length: 65 }),
      CanHeader.encode({ messageType: CAN_MESSAGE.RX, id: 3, length: 1 }),
      CanHeader.encode({ messageType: CAN_MESSAGE.RX, id: 4, flags: 1 }),
      CanHeader.encode({ messageType: CAN_MESSAGE.TX, id: 5 }),
      new Uint8Array(15),
      CanHeader.encode({ messageType: CAN_MESSAGE.RX, id: 6, length: 8, flags: CAN_FLAG.RTR }),
    ];
    const hostile = defineDevice({
      ...can,
      options: v.object({}),
      arguments: {},
      open: (_options, host) => ({
        features: 0n,
        config: new Uint8Array(2),
        handlers: {
          txq: () => undefined, // No result at all.
          controlq: ({ writer }) => {
            writer.writeU8(0);
            host.queues('rxq')[0]!.deliver(messages);
          },
        },
        close: () => {},
      }),
    });
    const { path, stop } = await serve(hostile);
    const seen: number[] = [];
    const driver = await CanDriver.connect({ path, onFrame: ({ id }) => void seen.push(id) });
    await driver.start();
    await until(() => seen.length === 2);
    expect(seen).toEqual([1, 6]);
    const results: boolean[] = [];
    driver.send(frame(1, 0, 8), (isSent) => results.push(isSent));
    await until(() => results.length === 1);
    expect(results).toEqual([false]);
    await driver.close();
    await stop();
  }));

test('without a back end', async () => {
  const path = join(folder, 'none');
  await expect(CanDriver.connect({ path })).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
});
