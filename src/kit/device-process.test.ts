/** The life of a device process, through a mock driver. */
import { expect, test } from 'vitest';
import { MockDriver, pattern, resourceCounts } from '../testing/index.js';
import type { DeviceHost } from './index.js';
import { ask, device, drive, echo, sleep } from './test-utils.js';

test('the config space changes, and the driver hears of it', async () => {
  let host!: DeviceHost;
  const written: [number, Uint8Array][] = [];
  const definition = device(echo, (given) => {
    host = given;
    given.wake(); // Nothing to wake yet, and no harm.
    expect(given.queues('requestq')).toEqual([]);
    return {
      config: Uint8Array.of(1, 2, 3, 4),
      writeConfig: (offset, bytes) => void written.push([offset, bytes]),
    };
  });
  const driver = await drive(definition);
  expect(driver.readConfig()).toEqual(Uint8Array.of(1, 2, 3, 4));
  expect(driver.readConfig(2, 4)).toEqual(Uint8Array.of(3, 4, 0, 0));
  host.setConfig(Uint8Array.of(5, 6, 7, 8));
  expect(await driver.nextConfigChange()).toEqual(Uint8Array.of(5, 6, 7, 8));
  driver.writeConfig(1, Uint8Array.of(9));
  expect(written).toEqual([[1, Uint8Array.of(9)]]);
  expect(host.queues('requestq').map(({ index }) => index)).toEqual([0]);
});

test('a config space without writeConfig refuses writes', async () => {
  const driver = await drive(device(echo, () => ({ config: new Uint8Array(4) })));
  expect(() => driver.writeConfig(0, Uint8Array.of(1))).toThrow(/read-only/);
});

test('several queues of a name, a reset, and features', async () => {
  const seen: bigint[] = [];
  let resets = 0;
  const definition = device(echo, () => ({
    features: 5n,
    queueCounts: { requestq: 3 },
    setFeatures: (features) => void seen.push(features & 0xffn),
    reset: () => {
      resets += 1;
    },
  }));
  const driver = await drive(definition, { features: 4n });
  expect(driver.queueCount).toBe(4);
  for (const index of [0, 1, 2]) {
    const { bytes } = await driver.request(index, { readable: [pattern(4)], writable: [4] });
    expect(bytes).toEqual(pattern(4));
  }
  const one = await drive(definition, { queueCount: 1 });
  expect((await ask(one, 5)).bytes).toEqual(pattern(8, 5));
  expect(() => one.batch(1, [])).toThrow('there is no queue 1');
  seen.length = 1;
  const before = resets;
  await driver.negotiate(1n);
  expect(resets).toBe(before + 1);
  expect(seen).toEqual([4n, 1n]);
  expect((await ask(driver, 2)).bytes).toEqual(pattern(8, 2));
  await expect(driver.negotiate(2n)).rejects.toMatchObject({ code: 'VLO_REQUEST_INVALID' });
  await driver.negotiate();
});

test('an idle device costs no time', async () => {
  const driver = await drive(device(echo), { pollUs: 1000 });
  for (let i = 0; i < 2000; i += 1) await ask(driver, i);
  await sleep(100);
  const before = process.cpuUsage();
  await sleep(300);
  const { user, system } = process.cpuUsage(before);
  // The test's own timers cost a little; a loop that spins would use nearly all of the 300 ms.
  expect((user + system) / 1000).toBeLessThan(30);
});

test('a driver opens and closes without leaving descriptors or mappings behind', async () => {
  const warm = await MockDriver.open(device(echo));
  await warm.close();
  const before = resourceCounts();
  for (let round = 0; round < 5; round += 1) {
    const driver = await MockDriver.open(device(echo), {}, { packed: round % 2 === 0 });
    await ask(driver, round);
    driver.supply(1, [8, 8]);
    await driver.close();
    await driver.close(); // Twice is once.
    await expect(async () => ask(driver)).rejects.toMatchObject({ code: 'VLO_CLOSED' });
  }
  expect(resourceCounts()).toEqual(before);
});
