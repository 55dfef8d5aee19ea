import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkProcessors, refuseConsole } from './console.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-ports-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A port in sysfs, of a device at a place. */
function port(place: string, name: string): void {
  mkdirSync(join(folder, place, name), { recursive: true });
  mkdirSync(join(folder, 'class'), { recursive: true });
  symlinkSync(join(folder, place, name), join(folder, 'class', name));
}

const queues = (ports: number): number => 2 * (ports + 1);

test('a console without ports is refused, other types are not', () => {
  expect(() => refuseConsole('console', 1n)).toThrowError(
    expect.objectContaining({
      code: 'VLO_TRANSPORT_UNAVAILABLE',
      message: expect.stringContaining('--port'),
    }),
  );
  refuseConsole('console', 3n);
  refuseConsole('blk', 0n);
});

test('a processor is left for the device', () => {
  const ports = join(folder, 'class');
  checkProcessors(queues(1), 2, ports);
  checkProcessors(queues(3), 4, ports);
  const refusal = (count: number) =>
    expect.objectContaining({
      code: 'VLO_TRANSPORT_UNAVAILABLE',
      message: expect.stringContaining(`need ${count} processors`),
    });
  expect(() => checkProcessors(queues(1), 1, ports)).toThrowError(refusal(2));
  expect(() => checkProcessors(queues(4), 4, ports)).toThrowError(refusal(5));
  port('pci0000:00/virtio1/virtio-ports', 'vport1p1');
  checkProcessors(queues(1), 2, ports);
  port('platform/virtio-loopback.0/virtio5/virtio-ports', 'vport5p0');
  expect(() => checkProcessors(queues(1), 2, ports)).toThrowError(refusal(3));
  checkProcessors(queues(1), 3, ports);
});
