/** The engine of the kernel transports, between our back end and a kernel that the test plays. */
import { describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { PROTOCOL_FEATURE } from '../vhost-user/index.js';
import { MortalDevice, until } from '../vhost-user/test-utils.js';
import { F } from '../virtio/index.js';
import { comeBack, DRIVER_FEATURES, started, withStand } from './test-utils.js';

const layouts = [
  { name: 'split', features: DRIVER_FEATURES, kernel: {} },
  {
    name: 'packed',
    features: DRIVER_FEATURES | F.RING_PACKED,
    kernel: { packed: true },
  },
];

describe.each(layouts)('$name rings', ({ features, kernel: kernelOptions }) => {
  const options = { kernel: kernelOptions };

  test('are served, reset, and served again with other features', () =>
    withStand({}, async (stand) => {
      const { kernel, server } = stand;
      const attachment = await started(stand, features, options);
      expect(attachment).toMatchObject({ state: 'ready', queueCount: 2 });
      for (let round = 0; round < 3; round += 1) {
        for (const ring of kernel.rings) ring.add(1);
        for (const ring of kernel.rings) ring.add(2);
        for (const index of [0, 1]) expect(await comeBack(kernel, index, 2)).toEqual([1, 2]);
        await kernel.reset();
        expect(kernel.events.slice(-2)).toEqual(['no past', 'acknowledged']);
        expect(server.device.running.size).toBe(0);
        await kernel.start(round === 0 ? features & ~F.EVENT_IDX : features);
      }
      const tracked = () => kernel.events.filter((event) => event === 'tracked').length;
      await until(() => tracked() === 4, 'in-flight memory for each driver');
      await attachment.close();
      expect(kernel.events.at(-1)).toBe('close');
      expect(stand.states).toEqual([]);
    }));

  test('one queue is reset and set up anew while the other goes on', () =>
    withStand({}, async (stand) => {
      const { kernel } = stand;
      await started(stand, features, options);
      kernel.rings[0]!.add(1);
      kernel.rings[1]!.add(1);
      await comeBack(kernel, 0, 1);
      await comeBack(kernel, 1, 1);
      for (let round = 0; round < 3; round += 1) {
        await kernel.removeRing(1);
        kernel.rings[0]!.add(2);
        await comeBack(kernel, 0, 1);
        kernel.addRing(1).add(7);
        await kernel.port!.tell();
        expect(await comeBack(kernel, 1, 1)).toEqual([7]);
      }
    }));

  test('a back end that dies costs no request', () =>
    withStand({}, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand, features, options);
      const back: number[] = [];
      let token = 0;
      for (let round = 1; round <= 4; round += 1) {
        server.device.holds = true;
        const { device } = server;
        for (let i = 0; i < 3; i += 1) kernel.rings[0]!.add(token + i);
        await until(() => device.held.length === 3, 'held');
        device.release([1]);
        await server.die();
        kernel.rings[0]!.add(token + 3);
        token += 4;
        await comeBack(kernel, 0, token, back);
        await until(() => states.length === round * 2, 'back again');
      }
      expect(back.toSorted((a, b) => a - b)).toEqual(Array.from({ length: token }, (_, i) => i));
      expect(states.slice(0, 2)).toEqual(['waiting', 'ready']);
      expect(kernel.events).not.toContain('failRequests');
    }));

  test('adapter and back end die together, and the next ones go on', () =>
    withStand({}, async (stand) => {
      const { kernel, server } = stand;
      let attachment = await started(stand, features, options);
      const back: number[] = [];
      let token = 0;
      for (let round = 1; round <= 4; round += 1) {
        server.device.holds = true;
        const { device } = server;
        for (let i = 0; i < 3; i += 1) kernel.rings[0]!.add(token + i);
        await until(() => device.held.length === 3, 'held');
        device.release([1]);
        kernel.killAdapter(attachment);
        await server.die();
        kernel.rings[0]!.add(token + 3);
        token += 4;
        attachment = await stand.attach(options);
        await comeBack(kernel, 0, token, back);
      }
      expect(back.toSorted((a, b) => a - b)).toEqual(Array.from({ length: token }, (_, i) => i));
      expect(kernel.events).not.toContain('failRequests');
      expect(kernel.events).not.toContain('no past');
    }));

  test('the adapter alone dies, and the next one goes on', () =>
    withStand({}, async (stand) => {
      const { kernel } = stand;
      let attachment = await started(stand, features, options);
      const back: number[] = [];
      for (let token = 0; token < 40; token += 4) {
        for (let i = 0; i < 3; i += 1) kernel.rings[0]!.add(token + i);
        await comeBack(kernel, 0, token + 3, back);
        kernel.killAdapter(attachment);
        kernel.rings[0]!.add(token + 3);
        attachment = await stand.attach(options);
        await comeBack(kernel, 0, token + 4, back);
      }
      expect(stand.lines.filter((line) => line.includes('took over'))).toHaveLength(10);
    }));
});

describe('without in-flight memory', () => {
  const without = PROTOCOL_FEATURE.INFLIGHT_SHMFD;

  test('the requests of a back end that died fail, and the next ones are served', () =>
    withStand({ without }, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand);
      expect(kernel.events).toContain('untracked');
      server.device.holds = true;
      const { device } = server;
      for (const token of [1, 2, 3]) kernel.rings[0]!.add(token);
      await until(() => device.held.length === 3, 'held');
      device.release([1]);
      await server.die();
      await until(() => states.length === 2, 'back again');
      kernel.rings[0]!.add(4);
      expect(await comeBack(kernel, 0, 4)).toEqual([1, 2, 3, 4]);
      expect(server.device.served).toHaveLength(1);
      expect(stand.lines).toContain('2 requests failed: no back end knows of them');
    }));

  test('so do those of an adapter that died', () =>
    withStand({ without }, async (stand) => {
      const { kernel, server } = stand;
      const attachment = await started(stand);
      server.device.holds = true;
      const { device } = server;
      for (const token of [1, 2]) kernel.rings[0]!.add(token);
      await until(() => device.held.length === 2, 'held');
      kernel.killAdapter(attachment);
      await server.die();
      await stand.attach();
      kernel.rings[0]!.add(3);
      expect(await comeBack(kernel, 0, 3)).toEqual([1, 2, 3]);
      expect(server.device.served).toHaveLength(1);
    }));

  test.each([
    { name: 'packed rings', packed: true, cannotFail: false, reason: 'its rings are packed' },
    { name: 'a port that cannot', packed: false, cannotFail: true, reason: 'its transport' },
  ])('the device fails with $name', ({ packed, cannotFail, reason }) =>
    withStand({ without }, async (stand) => {
      const { kernel, server, states } = stand;
      const features = DRIVER_FEATURES | (packed ? F.RING_PACKED : 0n);
      const attachment = await started(stand, features, { kernel: { packed } });
      kernel.cannotFail = cannotFail;
      await server.die();
      await until(() => attachment.state === 'failed', 'failed');
      expect(states.at(-1)).toMatchObject({ code: 'VLO_DEVICE_FAILED' });
      expect((states.at(-1) as VloError).message).toContain(reason);
      await attachment.close();
      expect(kernel.events.at(-1)).toBe('close');
    }),
  );
});

describe('at a takeover', () => {
  test('an adapter that never served a ring left no past', () =>
    withStand({}, async (stand) => {
      const { kernel } = stand;
      await kernel.open({
        ...{ name: 'gpio0', type: 'gpio', deviceId: 41, features: DRIVER_FEATURES | 1n },
        ...{ queueSizes: [64, 64], config: new Uint8Array(8), isConfigWindow: false },
        ...{ memory: 'bounce', poolSize: 2 ** 20, takeoverMs: 1000, log: () => {} },
        ...{ inbound: [], early: [], fillsSectors: false, stopMs: 1000 },
      });
      kernel.port = null;
      await kernel.start(DRIVER_FEATURES);
      kernel.rings[0]!.add(1);
      await stand.attach();
      expect(await comeBack(kernel, 0, 1)).toEqual([1]);
      expect(kernel.events).not.toContain('failRequests');
      // The config space of the back end is another one.
      await until(() => kernel.config[1] === 1, 'config');
    }));

  test.each([
    { name: 'id', identity: { deviceId: 2 }, message: 'the virtio id 2, not 41' },
    { name: 'features', identity: { features: 1n << 50n }, message: '0x4000000000000' },
    {
      name: 'queues',
      identity: { queueSizes: [8, 8, 8] },
      message: '3 queues; the back end has 2',
    },
    { name: 'config space', identity: { configSize: 4 }, message: '4 bytes of config space' },
  ])('another $name is refused, and the device stays', ({ identity, message }) =>
    withStand({}, async (stand) => {
      const { kernel } = stand;
      const attachment = await started(stand);
      kernel.killAdapter(attachment);
      kernel.identity = identity;
      const error = await stand.attach().catch((reason: VloError) => reason);
      expect(error).toMatchObject({ code: 'VLO_DEVICE_MISMATCH' });
      expect((error as VloError).message).toContain(message);
      expect(kernel.events).not.toContain('remove');
      kernel.identity = {};
      await stand.attach();
    }),
  );

  test('in-flight memory that makes no sense is as good as none', () =>
    withStand({}, async (stand) => {
      const { kernel, server } = stand;
      const attachment = await started(stand);
      server.device.holds = true;
      const { device } = server;
      kernel.rings[0]!.add(1);
      await until(() => device.held.length === 1, 'held');
      kernel.killAdapter(attachment);
      const { fd } = kernel.past!.memory!;
      kernel.past = { memory: { fd, note: new Uint8Array(3) } };
      await server.die();
      await stand.attach();
      kernel.rings[0]!.add(2);
      expect(await comeBack(kernel, 0, 2)).toEqual([1, 2]);
      expect(kernel.events).toContain('failRequests');
    }));

  test('a living adapter is left alone', () =>
    withStand({}, async (stand) => {
      await started(stand);
      await expect(stand.attach()).rejects.toMatchObject({ code: 'VLO_DEVICE_IN_USE' });
    }));
});

describe('the end', () => {
  test('a broken ring: the device is failed, and stays until it is closed', () =>
    withStand({}, async (stand) => {
      const { kernel, states } = stand;
      const attachment = await started(stand);
      kernel.port!.broken();
      expect(states).toMatchObject([{ code: 'VLO_DEVICE_FAILED' }]);
      attachment.abandon(states[0] as VloError);
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(kernel.events).not.toContain('remove');
      await attachment.close();
      expect(kernel.events).toContain('remove');
    }));

  test('the kernel removes the device by itself', () =>
    withStand({}, async (stand) => {
      const attachment = await started(stand);
      stand.kernel.port!.gone();
      expect(attachment.state).toBe('failed');
      expect(stand.states).toMatchObject([{ code: 'VLO_DEVICE_FAILED' }]);
    }));

  test('a back end that does not return in time, or not as it was', () =>
    withStand({}, async (stand) => {
      const { server, states } = stand;
      const attachment = await started(stand, DRIVER_FEATURES, { reconnectMs: 50 });
      const other = new MortalDevice();
      other.features &= ~1n;
      await server.die(other);
      await until(() => attachment.state === 'failed', 'failed');
      expect(states.at(-1)).toMatchObject({ code: 'VLO_BACKEND_FEATURES' });
    }));

  test('a driver that is reset while no back end is there need not wait', () =>
    withStand({}, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand);
      const closing = server.close();
      await until(() => states.length === 1, 'lost');
      await kernel.reset();
      await kernel.start(DRIVER_FEATURES);
      kernel.rings[0]!.add(1);
      expect(states).toEqual(['waiting']);
      await closing;
    }));

  test('given up, the device is removed and waits for nobody', () =>
    withStand({}, async (stand) => {
      const { kernel, server, states } = stand;
      const attachment = await started(stand);
      const closing = server.close();
      await until(() => states.length === 1, 'lost');
      attachment.abandon(new VloError('VLO_DEVICE_START', 'it died too often'));
      expect(attachment.state).toBe('failed');
      await attachment.close();
      expect(kernel.events.slice(-1)).toEqual(['close']);
      await closing;
    }));

  test('no driver: the note says so', () =>
    withStand({}, async (stand) => {
      const attachment = await stand.attach();
      expect(attachment.presentation).toBeNull();
      expect(attachment.note).toContain("is there one for 'gpio'?");
    }));

  test('a type that nobody knows, and one without the config space that it needs', () =>
    withStand({ without: PROTOCOL_FEATURE.CONFIG }, async (stand) => {
      await expect(stand.attach({ type: 'floppy' })).rejects.toMatchObject({
        code: 'VLO_TRANSPORT_UNAVAILABLE',
      });
      await expect(stand.attach()).rejects.toMatchObject({ code: 'VLO_BACKEND_FEATURES' });
    }));
});
