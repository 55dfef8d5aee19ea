import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SimulatedChip } from '../devices/gpio/backend-sim.js';
import { GpioDevice } from '../devices/gpio/device.js';
import { DIRECTION, GpioDriver, gpio, sayToLines, TRIGGER } from '../devices/index.js';
import { VloError } from '../errors.js';
import { defineDevice } from '../kit/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { GpioLines } from './gpio-lines.js';
import { Served } from './test-utils.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-lines-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

type Work = (lines: GpioLines, chip: SimulatedChip, driver: GpioDriver) => Promise<void>;

async function withLines(work: Work): Promise<void> {
  await expectNoLeaks(async () => {
    const chip = new SimulatedChip(3, ['led', 'button']);
    const open = () => new GpioDevice(chip).open();
    const definition = defineDevice({ ...gpio, options: v.object({}), arguments: {}, open });
    const served = await Served.start(definition);
    const driver = await GpioDriver.connect({ path: served.path });
    const lines = new GpioLines(driver, folder);
    try {
      await work(lines, chip, driver);
    } finally {
      await lines.close();
      await driver.close();
      await served.close();
      // A client's socket closes its descriptor in a later turn.
      await delay(20);
    }
  });
}

/** The first answer to a command. */
async function say(path: string, command: string): Promise<Record<string, unknown>> {
  for await (const reply of sayToLines(path, command)) return reply;
  return expect.fail('no answer');
}

test('lines are listed, set and read through the socket, and it is gone after close', async () => {
  await withLines(async ({ path, counters }, chip) => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(await say(path, 'set led=1')).toEqual({ values: [1] });
    expect(chip.state(0)).toMatchObject({ direction: DIRECTION.OUT, value: 1 });
    chip.drive(1, 1);
    expect(await say(path, 'get led button 2')).toEqual({ values: [1, 1, 0] });
    const { lines } = (await say(path, 'info')) as { lines: unknown[] };
    expect(lines).toEqual([
      { line: 0, name: 'led', direction: 'out', value: 1, trigger: 'none' },
      { line: 1, name: 'button', direction: 'none', value: 1, trigger: 'none' },
      { line: 2, name: '', direction: 'none', value: 0, trigger: 'none' },
    ]);
    await expect(say(path, 'wire 0 1')).rejects.toThrow(/no command/);
    expect(counters.requests).toBeGreaterThan(10);
    expect(counters.errors).toBe(0);
  });
  expect(existsSync(join(folder, 'lines'))).toBe(false);
});

test('two who watch a line hear of the edges that each wants, until they leave', async () => {
  await withLines(async ({ path }, chip) => {
    const both = sayToLines(path, 'watch button');
    const falling = sayToLines(path, 'watch 1 falling');
    await both.next();
    await falling.next();
    expect(chip.state(1)).toMatchObject({ direction: DIRECTION.IN, edges: TRIGGER.BOTH });
    for (const value of [1, 0, 1, 0]) {
      chip.drive(1, value);
      expect((await both.next()).value).toEqual({ line: 1, name: 'button', value });
      if (value === 0) expect((await falling.next()).value).toMatchObject({ value });
    }
    await both.return(undefined);
    await expect.poll(() => chip.state(1).edges).toBe(TRIGGER.FALLING);
    await falling.return(undefined);
    await expect.poll(() => chip.state(1).edges).toBe(TRIGGER.NONE);
  });
});

test('a chip that fails is an answer, and a driver that ended is one too', async () => {
  await withLines(async ({ path, counters }, chip, driver) => {
    chip.failure = -5;
    await expect(say(path, 'get led')).rejects.toThrow(/cannot be read/);
    await expect(say(path, 'set led=1')).rejects.toThrow(/SET_DIRECTION of line 0/);
    await expect(say(path, 'watch led')).rejects.toThrow(/SET_DIRECTION of line 0/);
    expect(counters.errors).toBeGreaterThan(2);
    driver.abandon(new VloError('VLO_DEVICE_FAILED', 'enough'));
    await expect(say(path, 'info')).rejects.toThrow(/enough/);
  });
});
