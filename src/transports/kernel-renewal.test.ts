/** The engine with a port that makes its rings anew for each back end, as the loopback module's. */
import { describe, expect, test } from 'vitest';
import { PROTOCOL_FEATURE } from '../vhost-user/index.js';
import { until } from '../vhost-user/test-utils.js';
import { RenewingKernel, type Stand, started, withKernel } from './test-utils.js';

const stand = (without: bigint, work: (stand: Stand<RenewingKernel>) => Promise<void>) =>
  withKernel(() => new RenewingKernel(), { without }, work);

/** Waits until the driver has these tokens back, each once. */
async function comesBack(kernel: RenewingKernel, tokens: readonly number[]): Promise<void> {
  await until(() => {
    kernel.harvest();
    return kernel.back.length >= tokens.length;
  }, `${tokens.length} requests come back`);
  expect(kernel.back.toSorted((a, b) => a - b)).toEqual(tokens);
}

describe.each([
  { name: 'with in-flight memory', without: 0n },
  { name: 'without', without: PROTOCOL_FEATURE.INFLIGHT_SHMFD },
])('a back end $name', ({ without }) => {
  test('that dies costs no request', () =>
    stand(without, async (stand) => {
      const { kernel, server, states } = stand;
      await started(stand);
      const tokens: number[] = [];
      for (let round = 1; round <= 4; round += 1) {
        server.device.holds = true;
        const { device } = server;
        const first = tokens.length;
        for (let i = 0; i < 3; i += 1) kernel.place(0, first + i);
        await until(() => device.held.length === 3, 'held');
        device.release([1]);
        await server.die();
        tokens.push(first, first + 1, first + 2);
        await comesBack(kernel, tokens);
        await until(() => states.length === 2 * round, 'back again');
      }
      expect(kernel.events.filter((event) => event === 'renew')).toHaveLength(4);
      for (const event of ['failRequests', 'tracked', 'untracked']) {
        expect(kernel.events).not.toContain(event);
      }
    }));

  test('and adapter die together, and the next ones go on', () =>
    stand(without, async (stand) => {
      const { kernel, server } = stand;
      const attachment = await started(stand);
      server.device.holds = true;
      const { device } = server;
      for (const token of [0, 1, 2]) kernel.place(1, token);
      await until(() => device.held.length === 3, 'held');
      kernel.killAdapter(attachment);
      await server.die();
      kernel.renew(); // As the port of the module does when it is taken over.
      await stand.attach();
      await comesBack(kernel, [0, 1, 2]);
    }));
});

test('a back end that breaks a ring is replaced, and given up when it does so again and again', () =>
  stand(0n, async (stand) => {
    const { kernel, states } = stand;
    const attachment = await started(stand);
    for (let breaks = 1; breaks <= 5; breaks += 1) {
      kernel.port!.broken();
      await until(() => states.length === 2 * breaks, 'back again');
    }
    expect(attachment.state).toBe('ready');
    kernel.place(0, 7);
    await comesBack(kernel, [7]);
    kernel.port!.broken();
    await until(() => attachment.state === 'failed', 'failed');
    expect(states.at(-1)).toMatchObject({
      code: 'VLO_DEVICE_FAILED',
      message: expect.stringContaining('broke a ring'),
    });
  }));

test('a back end that breaks a ring while it takes over is replaced too', () =>
  stand(0n, async (stand) => {
    const { kernel, states } = stand;
    const attachment = await started(stand);
    const { renew } = kernel;
    let breaks = 0;
    kernel.renew = () => {
      // The new session's messages are under way, and get no answer.
      if (breaks++ < 3) process.nextTick(() => kernel.port!.broken());
      return renew.call(kernel);
    };
    kernel.port!.broken();
    kernel.place(0, 7);
    await comesBack(kernel, [7]);
    await until(() => states.length === 2, 'back again');
    expect(states.map((state) => (typeof state === 'string' ? state : state.code))).toEqual([
      'waiting',
      'ready',
    ]);
    expect(attachment.state).toBe('ready');
    expect(breaks).toBe(4);
  }));
