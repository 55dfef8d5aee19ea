/** What observers hear of, and a kick descriptor that is no good. */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { MockDriver } from '../testing/index.js';
import { DriverFault } from '../virtio/index.js';
import { CHANNELS, defineDevice, type QueueEvent, QueueService } from './index.js';
import { ServedQueue } from './served-queue.js';

const probe = defineDevice({
  name: 'probe',
  summary: 'a device for tests',
  virtioId: 63,
  options: v.object({}),
  arguments: {},
  queues: [{ name: 'requestq' }],
  open: () => ({ features: 0n, handlers: { requestq: () => {} }, close: () => {} }),
});

test('channels tell of the start, the fault and the stop of a queue', async () => {
  const heard: string[] = [];
  const listen = (name: keyof typeof CHANNELS) => {
    const listener = (message: unknown): void => {
      const { device, queue, cause } = message as QueueEvent;
      const reason = cause instanceof DriverFault ? ` ${cause.reason}` : '';
      heard.push(`${name} ${device} ${queue.index}${reason}`);
    };
    CHANNELS[name].subscribe(listener);
    return () => CHANNELS[name].unsubscribe(listener);
  };
  const ends = [listen('queueStart'), listen('queueFault'), listen('queueStop')];
  const driver = await MockDriver.open(probe, {});
  driver.placeMalformed(0, 'address');
  await driver.nextFault();
  await driver.close();
  for (const end of ends) end();
  expect(heard).toEqual(['queueStart probe 0', 'queueFault probe 0 address', 'queueStop probe 0']);
});

test('a kick descriptor whose writer has gone stops its queue and costs no time', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-kick-'));
  const path = join(folder, 'pipe');
  expect(spawnSync('mkfifo', [path]).status).toBe(0);
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  closeSync(openSync(path, constants.O_WRONLY)); // From here on the pipe is at its end.
  const faults: string[] = [];
  const device = probe.open({}, {} as never);
  const service = new QueueService(await device, {
    onFault: (_queue, fault) => faults.push(fault.message),
    onBug: (_queue, error) => faults.push(String(error)),
  });
  const ring = {
    index: 0,
    counters: { popped: 0, completed: 0, notifications: 0, kicks: 0 },
    inflightCount: 0,
    unpublishedCount: 0,
    hasAvailable: () => false,
    armKicks: () => false,
    suppressKicks: () => {},
  };
  const queue = new ServedQueue(ring as never, 'requestq', () => {}, false, readEnd, service);
  service.add(queue);
  await expect.poll(() => faults).toEqual(['the kick descriptor is dead']);
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 200));
  const { user, system } = process.cpuUsage(before);
  expect(user + system).toBeLessThan(100_000);
  await service.remove(queue);
  closeSync(readEnd);
  rmSync(folder, { recursive: true });
});
