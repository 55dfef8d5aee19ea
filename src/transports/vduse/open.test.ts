/** What VDUSE refuses, said before anything is made; and a machine without it. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { PortSpec } from '../kernel-port.js';
import { vduseProblem } from './control.js';
import { VDUSE } from './open.js';

const SPEC: PortSpec = {
  name: 'vlo-test',
  type: 'blk',
  deviceId: 2,
  features: 1n << 32n,
  queueSizes: [256],
  config: new Uint8Array(60),
  isConfigWindow: false,
  memory: 'bounce',
  poolSize: 64 * 2 ** 20,
  takeoverMs: 30_000,
  inbound: [],
  early: [],
  fillsSectors: false,
  stopMs: 10_000,
  log: () => {},
};

test.each(['rng', 'console', 'fs', 'vsock', 'input'])('a device of type %s', (type) => {
  const problem = vduseProblem(type);
  expect(problem?.code).toBe('VLO_TRANSPORT_UNAVAILABLE');
  expect(problem?.message).toMatch(`not '${type}': use the transport 'loopback'`);
});

test.each<[string, Partial<PortSpec>]>([
  ['memory', { memory: 'direct' }],
  ['name', { name: 'control' }],
  ['name', { name: 'a/b' }],
  ['name', { name: 'x'.repeat(32) }],
  ['queue', { queueSizes: [100] }],
  ['queue', { queueSizes: [65536] }],
  ['pool', { poolSize: 4096 }],
  ['pool', { poolSize: 2 ** 30 + 65536 }],
])('an option that does not fit: %s', async (word, change) => {
  const error = await VDUSE.open({ ...SPEC, ...change }).catch((reason: Error) => reason);
  expect(error).toMatchObject({ code: 'VLO_OPTION_INVALID' });
  expect((error as Error).message).toMatch(word);
});

test('without the modules, the error names them', async (context) => {
  if (existsSync('/dev/vduse/control')) return context.skip('this machine has VDUSE');
  const error = await VDUSE.open(SPEC).catch((reason: Error) => reason);
  expect(error).toMatchObject({ code: 'VLO_TRANSPORT_UNAVAILABLE' });
  expect((error as Error).message).toMatch("'modprobe -a vduse virtio_vdpa' as root");
});
