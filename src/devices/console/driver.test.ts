/** The console driver against our own device, over a socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { eventually, expectNoLeaks } from '../../native/test-utils.js';
import { pattern } from '../../testing/index.js';
import { BackEndServer } from '../../vhost-user/index.js';
import type { NullEnd } from './backend-null.js';
import { ConsoleDriver, type ConsolePort } from './driver.js';
import { scriptedConsole } from './test-utils.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Serves a console; the result ends it. */
async function serve(ports: readonly string[], ends: NullEnd[]): Promise<() => Promise<void>> {
  const device = await DeviceProcess.open(scriptedConsole(ports, ends), {});
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  return async () => {
    await server.close();
    await device.close();
  };
}

/** Gathers what a port hears. */
function gather(port: ConsolePort): { bytes: Buffer } {
  const heard = { bytes: Buffer.alloc(0) };
  port.listen({
    data: (bytes) => {
      heard.bytes = Buffer.concat([heard.bytes, bytes]);
      return true;
    },
  });
  return heard;
}

test.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('ports, over a $name ring', ({ packed }) =>
  expectNoLeaks(async () => {
    const ends: NullEnd[] = [];
    const stop = await serve(['agent', 'tty,console', ''], ends);
    const driver = await ConsoleDriver.connect({ path, packed });
    const agent = await driver.port('agent');
    const tty = await driver.port('tty');
    await driver.port(2);
    expect(driver.ports.map(({ id, name, isConsole }) => [id, name, isConsole])).toEqual([
      [0, 'agent', false],
      [1, 'tty', true],
      [2, '', false],
    ]);
    await eventually(() => tty.isHostOpen);
    expect(tty.size).toEqual({ cols: 80, rows: 24 });
    const heard = gather(agent);
    const sent = pattern(300_000);
    const writes = [
      agent.write(sent.slice(0, 1)),
      agent.write(sent.slice(1)),
      agent.write(pattern(0)),
    ];
    ends[0]!.say(pattern(200_000, 2));
    await Promise.all(writes);
    expect(Buffer.compare(ends[0]!.heard!, sent)).toBe(0);
    await eventually(() => heard.bytes.length === 200_000);
    expect(heard.bytes.equals(pattern(200_000, 2))).toBe(true);
    // Comings, goings, sizes.
    ends[1]!.change(false);
    await eventually(() => !tty.isHostOpen);
    ends[1]!.change(true, { cols: 132, rows: 50 });
    await eventually(() => tty.size?.cols === 132);
    agent.close();
    await eventually(() => !ends[0]!.wanted.readable);
    ends[0]!.say(Buffer.from('kept'));
    agent.open();
    await eventually(() => heard.bytes.subarray(-4).toString() === 'kept');
    await driver.close();
    await expect(agent.write(sent)).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await expect(driver.port('nobody')).rejects.toMatchObject({ code: 'VLO_CLOSED' });
    await stop();
  }),
);

test('one port, which is a console', () =>
  expectNoLeaks(async () => {
    const ends: NullEnd[] = [];
    const stop = await serve([], ends);
    const driver = await ConsoleDriver.connect({ path });
    const port = await driver.firstPort();
    expect([driver.queueCount, port.isConsole, port.size]).toEqual([
      2,
      true,
      expect.objectContaining({ cols: 80, rows: 24 }),
    ]);
    const heard = gather(port);
    ends[0]!.say(Buffer.from('login: '));
    await port.write(Buffer.from('root'));
    await eventually(() => heard.bytes.toString() === 'login: ');
    expect(Buffer.from(ends[0]!.heard!).toString()).toBe('root');
    ends[0]!.change(true, { cols: 100, rows: 30 });
    await eventually(() => port.size?.cols === 100);
    await driver.close();
    await stop();
  }));

test('what is not taken is offered again, and holds the device up', () =>
  expectNoLeaks(async () => {
    const ends: NullEnd[] = [];
    const stop = await serve(['a'], ends);
    const driver = await ConsoleDriver.connect({ path });
    const port = await driver.firstPort();
    let isReady = false;
    let heard = Buffer.alloc(0);
    port.listen({
      data: (bytes) => {
        if (isReady) heard = Buffer.concat([heard, bytes]);
        return isReady;
      },
    });
    const sent = pattern(1_000_000);
    ends[0]!.say(sent);
    await eventually(() => !ends[0]!.wanted.readable);
    expect(heard).toHaveLength(0);
    isReady = true;
    port.resume();
    await eventually(() => heard.length === sent.length);
    expect(heard.equals(sent)).toBe(true);
    await driver.close();
    await stop();
  }));

test('a device that dies: its successor is told what is open, and writes end', () =>
  expectNoLeaks(async () => {
    const ends: NullEnd[] = [];
    let stop = await serve(['a', 'b'], ends);
    const driver = await ConsoleDriver.connect({ path, reconnect: { delayMs: 1 } });
    const port = await driver.port('b');
    const heard = gather(port);
    ends[1]!.room = 10;
    const writing = port.write(pattern(10_000));
    await eventually(() => ends[1]!.heard!.length === 10);
    await stop();
    ends.length = 0;
    stop = await serve(['a', 'b'], ends);
    await writing;
    ends[1]!.say(Buffer.from('again'));
    await eventually(() => heard.bytes.toString() === 'again');
    await eventually(() => !ends[0]!.wanted.readable);
    await driver.close();
    await stop();
  }));

test('without a back end', async () => {
  await expect(ConsoleDriver.connect({ path })).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
});
