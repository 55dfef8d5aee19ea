/** What applications open, found in a tree such as the kernel's. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findNode, lookForNode, type NodeRoots } from './node.js';

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

const DEVICE = 'sys/devices/platform/virtio-loopback.3/virtio7';

/** The driver made something: a folder in sysfs that names a node, and the node. */
function make(place: string, name: string): void {
  file(`${DEVICE}/${place}/uevent`, `MAJOR=1\nDEVNAME=${name}\nDEVTYPE=x\n`);
  file(`dev/${name}`);
}

test.each([
  [
    'blk',
    [
      ['block/vda', 'vda'],
      ['block/vda/vda1', 'vda1'],
    ],
    'vda',
  ],
  ['console', [['virtio-ports/vport7p1', 'vport7p1']], 'vport7p1'],
  [
    'input',
    [
      ['input/input4', 'x'],
      ['input/input4/event9', 'input/event9'],
    ],
    'input/event9',
  ],
  [
    'sound',
    [
      ['sound/card0/pcmC0D0p', 'snd/pcmC0D0p'],
      ['sound/card0/controlC0', 'snd/controlC0'],
    ],
    'snd/controlC0',
  ],
  ['gpio', [['gpiochip2', 'gpiochip2']], 'gpiochip2'],
  ['i2c', [['i2c-5/i2c-dev/i2c-5', 'i2c-5']], 'i2c-5'],
] as const)('%s', async (type, made, expected) => {
  expect(lookForNode(type, 3, roots)).toBeNull();
  file(`${DEVICE}/uevent`, 'DRIVER=virtio_x\n');
  expect(lookForNode(type, 3, roots)).toBeNull();
  file(`${DEVICE}/driver`);
  for (const [place, name] of made) make(place, name);
  // A link, as sysfs has them everywhere, leads nowhere.
  symlinkSync('..', join(folder, DEVICE, 'subsystem'));
  const path = join(folder, 'dev', expected);
  expect(await findNode(type, 3, new AbortController().signal, roots)).toBe(path);
  expect(lookForNode(type, 4, roots)).toBeNull();
});

test('network interfaces have a name only', () => {
  file(`${DEVICE}/driver`);
  file(`${DEVICE}/net/eth1/uevent`, 'INTERFACE=eth1\n');
  expect(lookForNode('net', 3, roots)).toBe('eth1');
  expect(lookForNode('can', 3, roots)).toBe('eth1');
});

test('entropy: one node for all sources, when the kernel lists ours', () => {
  file(`${DEVICE}/driver`);
  file('dev/hwrng');
  const list = 'sys/class/misc/hw_random/rng_available';
  file(list, 'tpm-rng-0\n');
  expect(lookForNode('rng', 3, roots)).toBeNull();
  file(list, 'tpm-rng-0 virtio_rng.0\n');
  expect(lookForNode('rng', 3, roots)).toBe(join(folder, 'dev/hwrng'));
});

test('a file system is known by its tag', () => {
  file(`${DEVICE}/driver`);
  expect(lookForNode('fs', 3, roots)).toBeNull();
  for (const [name, tag, device] of [
    ['1', 'others', 'virtio2'],
    ['2', 'mine', 'virtio7'],
  ]) {
    file(`sys/fs/virtiofs/${name}/tag`, `${tag}\n`);
    mkdirSync(join(folder, 'devices', device!), { recursive: true });
    symlinkSync(join(folder, 'devices', device!), join(folder, `sys/fs/virtiofs/${name}/device`));
  }
  expect(lookForNode('fs', 3, roots)).toBe('mine');
});

test('the wait ends when it is told to', async () => {
  expect(await findNode('blk', 3, AbortSignal.timeout(30), roots)).toBeNull();
});
