/** The input driver against the input device, over a socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DeviceProcess, defineDevice } from '../../kit/index.js';
import { expectNoLeaks } from '../../native/test-utils.js';
import { BackEndServer } from '../../vhost-user/index.js';
import type { EventList } from './backend.js';
import { NullInput, type Triple } from './backend-null.js';
import { describe, PROFILES, rangeOf } from './description.js';
import { InputDevice } from './device.js';
import { InputDriver } from './driver.js';
import { input } from './index.js';
import { EV } from './wire.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

async function serve(source: NullInput): Promise<() => Promise<void>> {
  const definition = defineDevice({
    ...input,
    options: v.object({}),
    arguments: {},
    open: (_options, host) => new InputDevice(source, host).open(),
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

/** Reports as they come. */
class Listener {
  readonly reports: Triple[][] = [];

  readonly take = ({ types, codes, values, count }: EventList): void => {
    const report = Array.from(
      { length: count },
      (_, i): Triple => [types[i]!, codes[i]!, values[i]!],
    );
    this.reports.push(report);
  };

  async wait(count: number): Promise<Triple[][]> {
    await expect.poll(() => this.reports.length, { timeout: 5000 }).toBe(count);
    return this.reports.splice(0);
  }
}

test.each([
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
])('what it is, what it tells, and its LEDs, over a $name ring', ({ packed }) =>
  expectNoLeaks(async () => {
    const description = describe({
      name: 'Everything',
      serial: 'S-1',
      ids: { bustype: 3, vendor: 1, product: 2, version: 3 },
      properties: [1],
      codes: { [EV.KEY]: [30, 0x2ff], [EV.LED]: [1], [EV.SW]: [0], [EV.REP]: [0, 1] },
      axes: new Map([[0, rangeOf(-5, 5, { fuzz: 1, flat: 2, res: 3 })]]),
    });
    const source = new NullInput(description);
    const stop = await serve(source);
    const driver = await InputDriver.connect({ path, packed });
    expect(driver.description).toEqual(description);
    source.tell([EV.KEY, 30, 1], [EV.ABS, 0, -5]); // Waits for somebody who listens.
    const listener = new Listener();
    driver.listen(listener.take);
    expect(await listener.wait(1)).toEqual([
      [
        [EV.KEY, 30, 1],
        [EV.ABS, 0, -5],
        [EV.SYN, 0, 0],
      ],
    ]);
    for (let i = 0; i < 1000; i += 1) source.tell([EV.KEY, 30, i & 1]);
    const reports = await listener.wait(1000);
    expect(reports.every((report, i) => report[0]![2] === (i & 1))).toBe(true);
    source.tell(...Array.from({ length: 200 }, (_, i): Triple => [EV.KEY, 30, i & 1]));
    expect((await listener.wait(1))[0]).toHaveLength(201);
    expect(driver.setStatus(EV.LED, 1, 1)).toBe(true);
    await expect.poll(() => source.status).toEqual([[EV.LED, 1, 1]]);
    await driver.close();
    expect(driver.setStatus(EV.LED, 1, 0)).toBe(false);
    await stop();
  }),
);

test('the device process dies: its successor goes on, and no key stays pressed', () =>
  expectNoLeaks(async () => {
    const first = new NullInput(PROFILES.keyboard);
    let stop = await serve(first);
    const driver = await InputDriver.connect({ path, reconnect: { delayMs: 1 } });
    const listener = new Listener();
    driver.listen(listener.take);
    first.tell([EV.KEY, 30, 1]);
    await listener.wait(1);
    await stop();
    const second = new NullInput(PROFILES.keyboard);
    stop = await serve(second);
    const [released] = await listener.wait(1);
    expect(released!.filter(([type, code]) => type === EV.KEY && code === 30)).toEqual([
      [EV.KEY, 30, 0],
    ]);
    second.tell([EV.KEY, 31, 1]);
    expect((await listener.wait(1))[0]![0]).toEqual([EV.KEY, 31, 1]);
    await driver.close();
    await stop();
  }));

test('without a back end', async () => {
  await expect(InputDriver.connect({ path })).rejects.toMatchObject({ code: 'VLO_DISCONNECTED' });
});
