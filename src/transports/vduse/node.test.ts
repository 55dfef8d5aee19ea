/** What sysfs says, in a tree such as the kernel's. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  busDriver,
  findNode,
  isOnBus,
  lookForNode,
  type NodeRoots,
  readPoolSize,
  virtioStatus,
} from './node.js';

let folder: string;
let roots: NodeRoots;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-node-'));
  roots = { sys: join(folder, 'sys'), dev: join(folder, 'dev') };
});
afterEach(() => rmSync(folder, { recursive: true }));

function file(path: string, text = ''): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
}

const DEVICE = 'sys/bus/vdpa/devices/disk0';

test('a disk has a node, a network interface a name', async () => {
  expect(lookForNode('blk', 'disk0', roots)).toBeNull();
  file(`${DEVICE}/virtio3/block/vdb/stat`);
  expect(lookForNode('blk', 'disk0', roots)).toBeNull();
  file('dev/vdb');
  expect(lookForNode('blk', 'disk0', roots)).toBe(join(roots.dev, 'vdb'));
  file(`${DEVICE}/virtio3/net/eth1/address`);
  expect(await findNode('net', 'disk0', AbortSignal.timeout(1000), roots)).toBe('eth1');
  expect(lookForNode('rng', 'disk0', roots)).toBeNull();
});

test('it is told when nothing came', async () => {
  expect(await findNode('blk', 'disk0', AbortSignal.timeout(50), roots)).toBeNull();
});

test('status and drivers', () => {
  expect(isOnBus('disk0', roots)).toBe(false);
  expect(busDriver('disk0', roots)).toBeNull();
  file(`${DEVICE}/virtio3/status`, '0x0000000f\n');
  expect(isOnBus('disk0', roots)).toBe(true);
  // Without a driver its status is nobody's.
  expect(virtioStatus('disk0', roots)).toBeNull();
  file('sys/bus/virtio/drivers/virtio_blk/bind');
  symlinkSync(
    join(roots.sys, 'bus/virtio/drivers/virtio_blk'),
    join(folder, DEVICE, 'virtio3/driver'),
  );
  expect(virtioStatus('disk0', roots)).toBe(15);
  file('sys/bus/vdpa/drivers/virtio_vdpa/bind');
  symlinkSync(join(roots.sys, 'bus/vdpa/drivers/virtio_vdpa'), join(folder, DEVICE, 'driver'));
  expect(busDriver('disk0', roots)).toBe('virtio_vdpa');
});

test('the size of the pool, and that of kernels that do not tell it', () => {
  expect(readPoolSize('disk0', roots)).toBe(64 * 2 ** 20);
  file('sys/class/vduse/disk0/bounce_size', '16777216\n');
  expect(readPoolSize('disk0', roots)).toBe(16 * 2 ** 20);
});
