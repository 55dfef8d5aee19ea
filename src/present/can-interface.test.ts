/**
 * A CAN controller as a vcan interface, where the kernel has that; else why it cannot be one. The
 * lab's job `can` has such a kernel.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CanDriver, CanFrame, can, SocketCanBus } from '../devices/index.js';
import { VloError } from '../errors.js';
import { DeviceProcess } from '../kit/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { BackEndServer } from '../vhost-user/index.js';
import { CanInterface } from './can-interface.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A controller on a simulated bus, and its driver. */
async function connect(name: string): Promise<{ driver: CanDriver; stop: () => Promise<void> }> {
  const path = join(folder, name);
  const device = await DeviceProcess.open(can, { bus: 'shown' });
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  const driver = await CanDriver.connect({ path });
  const stop = async (): Promise<void> => {
    await driver.close();
    await server.close();
    await device.close();
  };
  return { driver, stop };
}

test('frames pass both ways, or it is said what is missing', async () => {
  await expectNoLeaks(async () => {
    const [one, other] = [await connect('a'), await connect('b')];
    const log: string[] = [];
    const opened = await CanInterface.open(one.driver, 'vlo-test', (line) => log.push(line)).catch(
      (error: unknown) => error,
    );
    if (opened instanceof VloError) {
      expect(opened.code).toBe('VLO_CAN_INTERFACE');
      expect(opened.message).toMatch(/^the interface 'vlo-test' cannot be made: /);
    } else await exchange(opened as CanInterface, other.driver);
    await one.stop();
    await other.stop();
  });
});

async function exchange(shown: CanInterface, driver: CanDriver): Promise<void> {
  expect(shown.path).toBe('vlo-test');
  const seen: number[] = [];
  driver.onFrame = ({ id }) => void seen.push(id);
  await driver.start();
  const program = await SocketCanBus.open('vlo-test', { canConfirm: false, log: () => {} });
  const listener = {
    ...{ hasRoomFor: () => true, ended: () => {}, writable: () => {}, busOff: () => {} },
    received: ({ id }: CanFrame) => void seen.push(id),
  };
  expect(program.join(listener, false)).toBe(true);
  program.send(Object.assign(new CanFrame(), { id: 1 }), 0);
  driver.send(Object.assign(new CanFrame(), { id: 2 }));
  for (let i = 0; i < 200 && seen.length < 2; i += 1) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(seen.sort()).toEqual([1, 2]);
  program.close();
  await shown.close();
}
