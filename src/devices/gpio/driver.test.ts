/** The driver against the device over a socket: requests, interrupts, and a device that dies. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AnyDeviceDefinition, DeviceProcess, defineDevice } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { BackEndServer } from '../../vhost-user/index.js';
import { SimulatedChip } from './backend-sim.js';
import { GpioDevice } from './device.js';
import { GpioDriver } from './driver.js';
import { gpio } from './index.js';
import { DIRECTION, TRIGGER } from './wire.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Serves a chip; the result ends it. */
async function serve(chip: SimulatedChip): Promise<() => Promise<void>> {
  const definition: AnyDeviceDefinition = defineDevice({
    ...gpio,
    options: v.object({}),
    arguments: {},
    open: () => new GpioDevice(chip).open(),
  });
  const device = await DeviceProcess.open(definition, {});
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  return async () => {
    await server.close();
    await device.close();
  };
}

/** Waits until something is so. */
async function until(isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + 5000; !isSo(); ) {
    if (Date.now() > end) expect.fail('it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

test.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('lines, names and interrupts, over a $name ring', ({ packed }) =>
  expectNoLeaks(async () => {
    const chip = new SimulatedChip(40, ['led', 'button']);
    const stop = await serve(chip);
    const driver = await GpioDriver.connect({ path, packed });
    expect([driver.lineCount, ...driver.names.slice(0, 3)]).toEqual([40, 'led', 'button', '']);
    await driver.setValue(0, 1);
    await driver.setDirection(0, DIRECTION.OUT);
    expect([await driver.direction(0), await driver.value(0)]).toEqual([DIRECTION.OUT, 1]);
    expect(chip.state(0).value).toBe(1);
    // More at a time than there are slots.
    const lines = Array.from({ length: 38 }, (_, at) => at + 1);
    await Promise.all(lines.map((line) => driver.setDirection(line, DIRECTION.IN)));
    const counts = new Map<number, number>();
    const count = (line: number) => counts.set(line, (counts.get(line) ?? 0) + 1);
    await Promise.all(lines.map((line) => driver.watch(line, TRIGGER.BOTH, () => count(line))));
    for (let value = 1, round = 1; round <= 4; round += 1, value = 1 - value) {
      for (const line of lines) chip.drive(line, value);
      await until(() => lines.every((line) => counts.get(line) === round));
    }
    await driver.watch(1, TRIGGER.NONE);
    await driver.watch(2, TRIGGER.RISING, () => count(2));
    chip.drive(1, 1);
    chip.drive(2, 1);
    await until(() => counts.get(2) === 5);
    expect(counts.get(1)).toBe(4);
    await driver.close();
    await stop();
  }),
);

test('what the device refuses, and what is no line', () =>
  expectNoLeaks(async () => {
    const chip = new SimulatedChip(2);
    const stop = await serve(chip);
    const driver = await GpioDriver.connect({ path });
    chip.failure = -5;
    await expect(driver.value(0)).rejects.toMatchObject({
      code: 'VLO_DEVICE_FAILED',
      message: 'GET_VALUE of line 0 was answered with status 1',
    });
    await expect(driver.value(2)).rejects.toMatchObject({ code: 'VLO_REQUEST_INVALID' });
    await expect(driver.watch(9, 0)).rejects.toMatchObject({ code: 'VLO_REQUEST_INVALID' });
    const late = driver.value(1);
    late.catch(() => {});
    await driver.close();
    await expect(late).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await expect(driver.value(0)).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await stop();
  }));

test('another device process is told what the last one was', () =>
  expectNoLeaks(async () => {
    const stopFirst = await serve(new SimulatedChip(3));
    const driver = await GpioDriver.connect({ path });
    await driver.setValue(0, 1);
    await driver.setDirection(0, DIRECTION.OUT);
    let count = 0;
    await driver.setDirection(1, DIRECTION.IN);
    await driver.watch(1, TRIGGER.RISING, () => {
      count += 1;
    });
    await stopFirst();
    const chip = new SimulatedChip(3);
    const stop = await serve(chip);
    await until(() => chip.state(1).edges === TRIGGER.RISING);
    expect(chip.state(0)).toMatchObject({ direction: DIRECTION.OUT, value: 1 });
    chip.drive(1, 1);
    await until(() => count === 1);
    await driver.close();
    await stop();
  }));
