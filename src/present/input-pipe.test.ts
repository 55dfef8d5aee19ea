import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { InputDriver, input } from '../devices/index.js';
import { DeviceProcess } from '../kit/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { BackEndServer } from '../vhost-user/index.js';
import { InputNode } from './input-node.js';
import { InputPipe } from './input-pipe.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-input-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function withDriver(script: string, work: (driver: InputDriver) => Promise<void>) {
  const path = join(folder, 'script');
  writeFileSync(path, script);
  await expectNoLeaks(async () => {
    const device = await DeviceProcess.open(input, { script: path });
    const server = new BackEndServer(device, { path: join(folder, 's') });
    device.listener = server;
    await server.start();
    const driver = await InputDriver.connect({ path: join(folder, 's') });
    await work(driver);
    await driver.close();
    await server.close();
    await device.close();
  });
}

test('the pipe holds a script: what the device is, and then its reports', async () => {
  const lines = '{"key": "KEY_A"}\n{"key": "KEY_B", "value": 1}\n';
  await withDriver(lines, async (driver) => {
    const pipe = new InputPipe(driver, folder);
    expect(pipe.path).toBe(join(folder, 'events'));
    expect(statSync(pipe.path).isFIFO()).toBe(true);
    await expect.poll(() => pipe.counters.requests).toBe(3);
    const reader = await open(pipe.path, 'r');
    const { buffer, bytesRead } = await reader.read(Buffer.alloc(65536));
    await reader.close();
    const [device, ...reports] = buffer.toString('utf8', 0, bytesRead).trim().split('\n');
    expect(JSON.parse(device!)).toMatchObject({ device: { name: 'Virtual keyboard' } });
    expect(reports).toEqual([
      '{"events":[["EV_KEY","KEY_A",1]]}',
      '{"events":[["EV_KEY","KEY_A",0]]}',
      '{"events":[["EV_KEY","KEY_B",1]]}',
    ]);
    await pipe.close();
    expect(() => readFileSync(pipe.path)).toThrow('ENOENT');
  });
});

test('what nobody reads is lost whole, and the device goes on', async () => {
  await withDriver('{"key": "KEY_A"}\n'.repeat(2000), async (driver) => {
    const pipe = new InputPipe(driver, folder);
    await expect.poll(() => pipe.counters.requests, { timeout: 10_000 }).toBe(4000);
    expect(pipe.counters.errors).toBeGreaterThan(1000);
    const reader = await open(pipe.path, 'r');
    const { buffer, bytesRead } = await reader.read(Buffer.alloc(65536));
    await reader.close();
    const lines = buffer.toString('utf8', 0, bytesRead).trimEnd().split('\n');
    for (const line of lines) JSON.parse(line);
    expect(lines.length).toBe(4001 - pipe.counters.errors);
    pipe.driverFailed();
    await pipe.close();
  });
});

test('without uinput there is no node, and nothing is left behind', async () => {
  await withDriver('', async (driver) => {
    expect(() => new InputNode(driver, join(folder, 'uinput'))).toThrow('ENOENT');
    expect(() => new InputNode(driver, '/dev/null')).toThrow('UI_SET_EVBIT');
  });
});
