/** Memory and config space that change while a device is attached to the kernel. */
import { describe, expect, test } from 'vitest';
import { PROTOCOL_FEATURE } from '../vhost-user/index.js';
import { GuestRam, MortalDevice, until } from '../vhost-user/test-utils.js';
import { comeBack, DRIVER_FEATURES, started, withStand } from './test-utils.js';

describe.each([
  { name: 'with memory slots', without: 0n, added: 37, removed: 38 },
  {
    ...{ name: 'without memory slots', without: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS },
    ...{ added: 5, removed: 5 },
  },
])('$name', ({ without, added, removed }) => {
  test('memory comes and goes while rings are served', () =>
    withStand({ without }, async (stand) => {
      const { kernel, server } = stand;
      await started(stand);
      const rams = [1, 2].map((i) => new GuestRam(65536, 0x80000000 + i * 65536));
      const regions = rams.map(({ fd, guestAddress, size }) => {
        return { fd, guestAddress, size, mmapOffset: 0 };
      });
      const back: number[] = [];
      const steps = [
        { extra: regions.slice(0, 1), message: added },
        { extra: regions, message: added },
        { extra: regions.slice(1), message: removed },
        { extra: [], message: removed },
      ];
      for (const [token, { extra, message }] of steps.entries()) {
        server.messages.length = 0;
        kernel.extra = extra;
        await kernel.port!.tell();
        kernel.rings[0]!.add(token);
        await comeBack(kernel, 0, token + 1, back);
        await until(() => server.messages.includes(message), `message ${message}`);
        // No ring was stopped or started for it.
        expect(server.messages.every((id) => [1, message].includes(id))).toBe(true);
      }
      for (const ram of rams) ram.free();
    }));
});

test('a back end has room for so many memory regions, and no more', () =>
  withStand({ without: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS }, async (stand) => {
    const { kernel } = stand;
    const attachment = await started(stand);
    const { fd } = kernel.ram;
    kernel.extra = Array.from({ length: 8 }, (_, i) => {
      return { fd, guestAddress: 0x80000000 + i * 4096, size: 4096, mmapOffset: 0 };
    });
    await kernel.port!.tell();
    await until(() => attachment.state === 'failed', 'failed');
    expect(stand.states.at(-1)).toMatchObject({ code: 'VLO_BACKEND_FEATURES' });
  }));

describe('config space', () => {
  test('changes of the device reach the driver, as one', () =>
    withStand({}, async (stand) => {
      const { kernel, server } = stand;
      await started(stand);
      expect([...kernel.config]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
      server.device.config.set([9, 2, 3, 9], 1);
      server.session!.configChanged();
      await until(() => kernel.config[4] === 9, 'changed');
      expect([...kernel.config]).toEqual([0, 9, 2, 3, 9, 5, 6, 7]);
      expect(kernel.events).toContain('config 1 4');
    }));

  test('writes of the driver reach the device, and its successor, until a reset', () =>
    withStand({}, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand);
      kernel.config[2] = 99;
      await kernel.port!.configWritten();
      await until(() => server.device.config[2] === 99, 'written');
      expect(server.device.events).toContain('writeConfig 2 1');
      await server.die();
      await until(() => states.length === 2, 'back again');
      await until(() => server.device.config[2] === 99, 'written again');
      await kernel.reset();
      await kernel.start(DRIVER_FEATURES);
      await server.die();
      await until(() => states.length === 4, 'back again');
      await until(() => kernel.config[2] === 2, 'as the device has it');
    }));

  test('a window: all of it is written, and what it then shows is read', () =>
    withStand({}, async (stand) => {
      const { kernel, server } = stand;
      const pending = stand.attach({ type: 'input' });
      await until(() => kernel.port !== null, 'there');
      await kernel.start(DRIVER_FEATURES);
      await pending;
      const { device } = server;
      device.writeConfig = (offset, bytes) => {
        device.events.push(`writeConfig ${offset} ${bytes.length}`);
        device.config[8] = 100 + bytes[0]!;
      };
      kernel.config[0] = 3;
      await kernel.port!.configWritten();
      expect(device.events).toContain('writeConfig 0 136');
      expect(kernel.config[8]).toBe(103);
    }));

  test('a write while no back end is there is made up for', () =>
    withStand({}, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand);
      const next = new MortalDevice();
      await server.die(next);
      kernel.config[3] = 77;
      await kernel.port!.configWritten();
      await until(() => states.length === 2, 'back again');
      await until(() => next.config[3] === 77, 'written');
    }));
});
