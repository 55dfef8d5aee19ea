import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { expectNoLeaks } from '../native/test-utils.js';
import { F } from '../virtio/index.js';
import { FrontEnd } from './front-end.js';
import type { FrontEndOptions } from './front-end-options.js';
import { FrontEndQueue, type QueueOwner } from './front-end-queue.js';
import { PROTOCOL_FEATURE } from './messages-constants.js';
import {
  type FakeDevice,
  FILL,
  MortalDevice,
  type ServerOptions,
  TestServer,
  until,
} from './test-utils.js';

/** Places requests of one readable and one writable segment, and counts what comes back. */
class TestOwner implements QueueOwner {
  queue!: FrontEndQueue;
  readonly returned: number[] = [];
  readonly resubmitted: number[] = [];
  calls = 0;
  data = 0;

  place(token: number): void {
    const { ring } = this.queue;
    ring.begin();
    ring.addReadable(this.data, 8);
    ring.addWritable(this.data + 64, 16);
    expect(ring.commit(token)).toBe(true);
  }

  placeAll(...tokens: number[]): void {
    for (const token of tokens) this.place(token);
    this.queue.ring.publish();
  }

  drain(): void {
    while (this.queue.ring.next()) this.returned.push(this.queue.ring.usedToken);
  }

  resubmit(tokens: readonly number[]): void {
    this.resubmitted.push(...tokens);
    this.placeAll(...tokens);
  }

  called(): void {
    this.calls += 1;
  }

  async comeBack(count: number): Promise<number[]> {
    await until(() => {
      this.drain();
      return this.returned.length >= count;
    }, `${count} requests come back`);
    return this.returned.toSorted((a, b) => a - b);
  }
}

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(() => rmSync(folder, { recursive: true }));

const RING = F.EVENT_IDX | F.INDIRECT_DESC;
const layouts = [
  { name: 'split', features: RING },
  { name: 'packed', features: RING | F.RING_PACKED },
  { name: 'packed in order', features: RING | F.RING_PACKED | F.IN_ORDER },
];

async function connected(
  options: Partial<FrontEndOptions> = {},
  queueCount = 1,
): Promise<{ frontEnd: FrontEnd; owners: TestOwner[] }> {
  const frontEnd = await FrontEnd.connect({ path, features: RING, timeoutMs: 2000, ...options });
  await frontEnd.addMemory(FrontEndQueue.bytesNeeded(16, 4) * queueCount + 4096);
  const data = frontEnd.memory.allocate(1024)!;
  const owners: TestOwner[] = [];
  for (let i = 0; i < queueCount; i += 1) {
    const owner = new TestOwner();
    owner.queue = frontEnd.createQueue({ size: 16, tableLength: 4, owner });
    owner.data = data.address;
    owners.push(owner);
  }
  return { frontEnd, owners };
}

/** Runs a test with a server, and checks that nothing is left of either side. */
async function withServer(
  options: ServerOptions,
  work: (server: TestServer) => Promise<void>,
): Promise<void> {
  await expectNoLeaks(async () => {
    const server = new TestServer(path, options);
    try {
      await work(server);
    } finally {
      await server.close();
    }
  });
}

describe.each(layouts)('$name ring', ({ features }) => {
  test('two queues serve requests, stop, and go on at their base', () =>
    withServer({}, async ({ device }) => {
      const { frontEnd, owners } = await connected({ features }, 2);
      await frontEnd.start();
      for (const [i, owner] of owners.entries()) {
        for (let round = 0; round < 5; round += 1) {
          owner.placeAll(round * 3, round * 3 + 1, round * 3 + 2);
          expect(await owner.comeBack((round + 1) * 3)).toHaveLength((round + 1) * 3);
          await frontEnd.stopQueue(owner.queue);
          // Placed while nobody serves the ring.
          if (round === 3) await frontEnd.start();
          else if (i === 0) await frontEnd.start();
          if (!owner.queue.isStarted) await frontEnd.start();
        }
      }
      owners[0]!.placeAll(100);
      await owners[0]!.comeBack(16);
      const [data] = frontEnd.memory.regions;
      const at = owners[0]!.data - data!.guestAddress + 64;
      expect(data!.mapping.bytes(at, 16)).toEqual(new Uint8Array(16).fill(FILL));
      expect(device.events.filter((event) => event.startsWith('start'))).toHaveLength(12);
      await frontEnd.close();
      await frontEnd.close();
    }));

  test('requests placed before the start and during a stop are served', () =>
    withServer({}, async () => {
      const { frontEnd, owners } = await connected({ features });
      const owner = owners[0]!;
      owner.placeAll(1, 2);
      await frontEnd.start();
      await owner.comeBack(2);
      await frontEnd.stopQueue(owner.queue);
      owner.placeAll(3, 4);
      await frontEnd.start();
      expect(await owner.comeBack(4)).toEqual([1, 2, 3, 4]);
      await frontEnd.close();
    }));

  test.each([
    { name: 'with in-flight memory', without: 0n },
    { name: 'without it', without: PROTOCOL_FEATURE.INFLIGHT_SHMFD },
  ])('a back end that dies costs no request, $name', ({ without }) =>
    withServer({ without }, async (server) => {
      let lost = 0;
      const { frontEnd, owners } = await connected({
        features,
        reconnect: { delayMs: 1 },
        events: { onDisconnect: () => (lost += 1) },
      });
      const owner = owners[0]!;
      await frontEnd.start();
      let token = 0;
      for (let round = 1; round <= 6; round += 1) {
        owner.placeAll(token, token + 1);
        await owner.comeBack(token + 2);
        server.device.holds = true;
        const { device } = server;
        owner.placeAll(token + 2, token + 3, token + 4, token + 5);
        await until(() => device.held.length === 4, 'held');
        // One completes, out of order where that is allowed; the others die with the device.
        const isInOrder = (features & F.IN_ORDER) !== 0n;
        device.release([isInOrder ? 0 : 2]);
        await server.die();
        owner.placeAll(token + 6);
        token += 7;
        await owner.comeBack(token);
        expect(frontEnd.isConnected || lost === round).toBe(true);
        await until(() => frontEnd.isConnected, 'reconnected');
        expect(lost).toBe(round);
      }
      expect(await owner.comeBack(token)).toEqual(Array.from({ length: token }, (_, i) => i));
      expect(owner.resubmitted.length > 0).toBe(without !== 0n);
      await frontEnd.close();
    }),
  );

  test('in-flight memory that a successor does not know: the rings start anew', () =>
    withServer({}, async (server) => {
      const { frontEnd, owners } = await connected({ features, reconnect: { delayMs: 1 } });
      const owner = owners[0]!;
      await frontEnd.start();
      for (const without of [PROTOCOL_FEATURE.INFLIGHT_SHMFD, 0n, 0n]) {
        const first = owner.returned.length;
        server.device.holds = true;
        const { device } = server;
        owner.placeAll(first, first + 1);
        await until(() => device.held.length === 2, 'held');
        server.options = { without };
        await server.die();
        await owner.comeBack(first + 2);
        await until(() => frontEnd.isConnected, 'reconnected');
      }
      expect(await owner.comeBack(6)).toEqual([0, 1, 2, 3, 4, 5]);
      await frontEnd.close();
    }));

  test('a reset of the device has outstanding requests placed anew', () =>
    withServer({}, async ({ device }) => {
      const { frontEnd, owners } = await connected({ features });
      await frontEnd.start();
      owners[0]!.placeAll(1, 2, 3);
      await owners[0]!.comeBack(3);
      await frontEnd.resetDevice();
      expect(device.events).toContain('reset');
      owners[0]!.placeAll(4);
      expect(await owners[0]!.comeBack(4)).toEqual([1, 2, 3, 4]);
      await frontEnd.close();
    }));

  test('the log names the pages that the back end wrote', () =>
    withServer({}, async () => {
      const { frontEnd, owners } = await connected({ features });
      const owner = owners[0]!;
      await frontEnd.start();
      owner.placeAll(1);
      await owner.comeBack(1);
      const log = await frontEnd.startLog();
      expect(log.takeDirty()).toEqual([]);
      owner.placeAll(2);
      await owner.comeBack(2);
      const page = (address: number): number => address - (address % 4096);
      const { guestAddress, userAddress } = frontEnd.memory.regions[0]!;
      const { used, descriptor } = owner.queue.address(true);
      const isPacked = owner.queue.ring.features.packed;
      const ring = (isPacked ? descriptor : used) - userAddress + guestAddress;
      const dirty = log.takeDirty();
      expect(dirty).toContain(page(owner.data + 64));
      expect(dirty).toContain(page(ring));
      expect(log.takeDirty()).toEqual([]);
      await frontEnd.stopLog();
      owner.placeAll(3);
      await owner.comeBack(3);
      await frontEnd.startLog();
      await frontEnd.close();
    }));
});

test('config space is read and written; what the device has not reads as zero', () =>
  withServer({}, async ({ device }) => {
    const { frontEnd } = await connected();
    expect(await frontEnd.readConfig(4, 4)).toEqual(Uint8Array.of(4, 5, 6, 7));
    expect((await frontEnd.readConfig(290, 40)).subarray(10)).toEqual(new Uint8Array(30));
    await frontEnd.writeConfig(8, Uint8Array.of(1, 2));
    expect(device.config.slice(8, 10)).toEqual(Uint8Array.of(1, 2));
    await expect(frontEnd.writeConfig(299, Uint8Array.of(1, 2))).rejects.toMatchObject({
      code: 'VLO_BACKEND_REFUSED',
    });
    await expect(frontEnd.readConfig(300, 4)).rejects.toMatchObject({
      code: 'VLO_BACKEND_REFUSED',
    });
    await frontEnd.close();
  }));

test.each([
  { name: 'slots', without: 0n },
  { name: 'a table', without: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS },
])('memory comes and goes while a ring runs, by $name', ({ without }) =>
  withServer({ without }, async () => {
    const { frontEnd, owners } = await connected({ reconnect: {} });
    const owner = owners[0]!;
    await frontEnd.start();
    const first = owner.data;
    const regions = [];
    for (let i = 1; i <= 6; i += 1) {
      const region = await frontEnd.addMemory(10_000 * i);
      regions.push(region);
      owner.data = region.allocate(1024, 64)!.address;
      owner.placeAll(i);
      await owner.comeBack(i);
      const bytes = region.mapping.bytes(64, 16);
      expect(bytes).toEqual(new Uint8Array(16).fill(FILL));
    }
    const starts = frontEnd.memory.regions.map((region) => region.guestAddress);
    expect(starts).toEqual(starts.toSorted((a, b) => a - b));
    const [second] = regions;
    second!.release({
      region: second!,
      address: second!.guestAddress,
      size: 1024,
      bytes: new Uint8Array(0),
    });
    await frontEnd.removeMemory(second!);
    owner.data = first;
    owner.placeAll(7);
    await owner.comeBack(7);
    // The gap is filled again.
    expect((await frontEnd.addMemory(8192)).guestAddress).toBe(second!.guestAddress);
    await frontEnd.close();
  }),
);

test('a table has room for eight regions', () =>
  withServer({ without: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS }, async () => {
    const frontEnd = await FrontEnd.connect({ path });
    for (let i = 0; i < 8; i += 1) await frontEnd.addMemory(4096);
    await expect(frontEnd.addMemory(4096)).rejects.toMatchObject({ code: 'VLO_BACKEND_FEATURES' });
    await frontEnd.close();
  }));

test('notifications by message only', () =>
  withServer({ inBand: true }, async ({ device }) => {
    const { frontEnd, owners } = await connected({ inBandNotifications: true });
    const owner = owners[0]!;
    await frontEnd.start();
    expect(device.events).toContain('start 0 -2');
    owner.queue.ring.armNotifications();
    owner.placeAll(1, 2);
    await until(() => owner.calls > 0, 'called by message');
    await owner.comeBack(2);
    await frontEnd.close();
  }));

test('changes of the config space and broken rings are told', () =>
  withServer({}, async (server) => {
    const told: string[] = [];
    const { frontEnd, owners } = await connected({
      events: {
        onConfigChange: () => told.push('config'),
        onDeviceError: (error) => told.push(`${error.code}: ${error.message}`),
      },
    });
    await frontEnd.start();
    server.session!.configChanged();
    await until(() => told.length === 1, 'config change');
    expect(told).toEqual(['config']);
    const [queue] = [...server.device.running.keys()];
    server.session!.reportFault(queue!, null);
    await until(() => told.length === 3, 'device error');
    expect(told.slice(1).toSorted()).toEqual([
      'VLO_DEVICE_FAILED: the back end says that the ring of queue 0 is broken',
      'VLO_DEVICE_FAILED: the device needs a reset',
    ]);
    expect(owners[0]!.returned).toEqual([]);
    await frontEnd.close();
  }));

describe('back ends that do not fit', () => {
  const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => 'none',
      (error: { code?: unknown }) => error.code,
    );

  test('nobody listens', async () => {
    await expectNoLeaks(async () => {
      expect(await codeOf(FrontEnd.connect({ path }))).toBe('VLO_DISCONNECTED');
    });
  });

  test('a needed feature is missing', () =>
    withServer({}, async ({ device }) => {
      device.features = F.RING_PACKED;
      const connecting = FrontEnd.connect({ path });
      await expect(connecting).rejects.toThrow('does not offer VERSION_1');
      expect(await codeOf(FrontEnd.connect({ path, required: 1n << 5n }))).toBe(
        'VLO_BACKEND_FEATURES',
      );
      expect(
        await codeOf(FrontEnd.connect({ path, required: 0n, inBandNotifications: true })),
      ).toBe('VLO_BACKEND_FEATURES');
    }));

  test('a successor lacks a feature in use, or a queue: the requests will not come back', () =>
    withServer({}, async (server) => {
      for (const change of [
        (device: FakeDevice) => (device.features &= ~F.EVENT_IDX),
        (device: FakeDevice) => (device.queueCount = 1),
      ]) {
        server.device = new MortalDevice();
        let failure: unknown = null;
        const events = { onFail: (error: unknown) => (failure = error) };
        const { frontEnd } = await connected({ reconnect: { delayMs: 1 }, events }, 2);
        await frontEnd.start();
        const successor = new MortalDevice();
        change(successor);
        await server.die(successor);
        await until(() => failure !== null, 'failed');
        expect(failure).toMatchObject({ code: 'VLO_BACKEND_FEATURES' });
        expect(await codeOf(frontEnd.addMemory(4096))).toBe('VLO_BACKEND_FEATURES');
        expect(await codeOf(frontEnd.reconnect())).toBe('VLO_BACKEND_FEATURES');
        await frontEnd.close();
      }
    }));

  test('no successor within the time limit', async () => {
    await expectNoLeaks(async () => {
      const server = new TestServer(path);
      let failure: unknown = null;
      const { frontEnd } = await connected({
        reconnect: { limitMs: 50, delayMs: 1 },
        events: { onFail: (error) => (failure = error) },
      });
      await frontEnd.start();
      await server.close();
      await until(() => failure !== null, 'failed');
      expect(failure).toMatchObject({ code: 'VLO_DISCONNECTED' });
      await frontEnd.close();
      expect(await codeOf(frontEnd.readConfig(0, 4))).toBe('VLO_CLOSED');
    });
  });

  test('reconnect by hand, and closed while it seeks', async () => {
    await expectNoLeaks(async () => {
      const server = new TestServer(path);
      const { frontEnd, owners } = await connected();
      await frontEnd.start();
      await server.die();
      await until(() => !frontEnd.isConnected, 'lost');
      owners[0]!.placeAll(1);
      expect(await codeOf(frontEnd.addMemory(4096))).toBe('VLO_DISCONNECTED');
      await frontEnd.reconnect();
      await owners[0]!.comeBack(1);
      await server.close();
      await until(() => !frontEnd.isConnected, 'lost');
      const seeking = codeOf(frontEnd.reconnect());
      await frontEnd.close();
      expect(await seeking).toBe('VLO_CLOSED');
    });
  });
});
