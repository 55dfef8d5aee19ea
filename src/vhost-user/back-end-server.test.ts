import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  acceptUnix,
  connectUnix,
  createEventFd,
  type Fd,
  listenUnix,
  mappingCounts,
  openFdCount,
  socketPair,
} from '../native/index.js';
import { F, ringFeatures } from '../virtio/index.js';
import { BackEndServer, type BackEndServerOptions } from './back-end-server.js';
import { VIRTIO_FEATURE } from './messages-constants.js';
import { FakeDevice, GuestRam, RawFrontEnd, TestRing, until } from './test-utils.js';

let folder: string;
let path: string;
let before: { fds: number; live: number };
const counts = () => ({ fds: openFdCount(), live: mappingCounts().live });
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 3));

beforeEach(() => {
  before = counts();
  folder = mkdtempSync(join(tmpdir(), 'vlo-'));
  path = join(folder, 's');
});
afterEach(async () => {
  rmSync(folder, { recursive: true });
  await turn();
  expect(counts()).toEqual(before);
});

async function started(options: BackEndServerOptions, device = new FakeDevice()) {
  const server = new BackEndServer(device, options);
  await server.start();
  return { server, device };
}

const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'none',
    (error: { code?: unknown }) => error.code,
  );

/** Connects and asks a question, as a front end that may have to wait for its turn. */
function frontEndAt(socketPath: string): RawFrontEnd {
  return new RawFrontEnd(connectUnix(socketPath));
}

test('traps 3 and 4: one listener serves one front end after the other, without a leak', async () => {
  const { server, device } = await started({ path });
  const { ino } = statSync(path);
  const ram = new GuestRam();
  const inside = counts();
  for (let round = 1; round <= 20; round += 1) {
    const frontEnd = frontEndAt(path);
    const ring = new TestRing(ram, 0, 8, ringFeatures(F.VERSION_1));
    ring.driver.reset();
    frontEnd.send('SET_FEATURES', { value: F.VERSION_1 });
    frontEnd.send('SET_MEM_TABLE', { regions: [ram.region] }, [ram.fd]);
    frontEnd.send('SET_VRING_NUM', { index: 0, num: 8 });
    frontEnd.send('SET_VRING_ADDR', ring.address());
    frontEnd.send('SET_VRING_CALL', { value: 0n }, [ring.call]);
    frontEnd.send('SET_VRING_KICK', { value: 0n }, [ring.kick]);
    ring.add(round);
    await until(() => device.served.length === round, `round ${round}`);
    expect(server.isConnected).toBe(true);
    // Some leave in the middle of a message.
    if (round % 2 === 0) frontEnd.connection.send(new Uint8Array(5));
    frontEnd.close();
    await until(() => !server.isConnected, 'left');
    ring.free();
    await turn();
    expect(counts()).toEqual(inside);
  }
  expect(statSync(path).ino, 'the same socket file').toBe(ino);
  expect(device.events.filter((event) => event === 'reset')).toHaveLength(20);
  await server.close();
  expect(existsSync(path)).toBe(false);
  ram.free();
});

test('a second front end waits in the backlog until the first has left', async () => {
  const { server } = await started({ path });
  const first = frontEndAt(path);
  await first.sync();
  const second = frontEndAt(path);
  let answered = false;
  const answer = second.sync().then(() => {
    answered = true;
  });
  await turn();
  expect(answered).toBe(false);
  // One that breaks the protocol does not end the server.
  first.connection.send(new Uint8Array(12));
  await first.closed;
  await answer;
  second.close();
  await server.close();
});

test('close ends a session that is under way, and resolves `ended`', async () => {
  const { server, device } = await started({ path });
  const frontEnd = frontEndAt(path);
  await frontEnd.sync();
  await server.close();
  await server.ended;
  expect((await frontEnd.closed)?.code).toBe('VLO_DISCONNECTED');
  expect(device.events.at(-1)).toBe('reset');
  await server.close();
});

test('a stale socket is replaced, a live one and other files are left alone', async () => {
  const stale = listenUnix(path);
  stale.close();
  const { server } = await started({ path });
  expect(await codeOf(new BackEndServer(new FakeDevice(), { path }).start())).toBe(
    'VLO_SOCKET_IN_USE',
  );
  const frontEnd = frontEndAt(path);
  await frontEnd.sync();
  frontEnd.close();
  await server.close();
  const file = join(folder, 'file');
  writeFileSync(file, 'precious');
  expect(await codeOf(new BackEndServer(new FakeDevice(), { path: file }).start())).toBe(
    'VLO_SOCKET_PATH',
  );
  expect(readFileSync(file, 'utf8')).toBe('precious');
  const nowhere = join(folder, 'none', 's');
  expect(await codeOf(new BackEndServer(new FakeDevice(), { path: nowhere }).start())).toBe(
    'VLO_SOCKET_PATH',
  );
  const long = join(folder, 'x'.repeat(120));
  expect(await codeOf(new BackEndServer(new FakeDevice(), { path: long }).start())).toBe(
    'VLO_SOCKET_PATH',
  );
});

test('trap 3: at the end only the own socket file is removed', async () => {
  const { server } = await started({ path });
  rmSync(path);
  const other = listenUnix(path);
  await server.close();
  expect(existsSync(path)).toBe(true);
  other.close();
});

test('takes over a listening descriptor, and leaves its path alone', async () => {
  const listener = listenUnix(path);
  const { server } = await started({ fd: listener.take() });
  for (let i = 0; i < 2; i += 1) {
    const frontEnd = frontEndAt(path);
    await frontEnd.sync();
    frontEnd.close();
  }
  await server.close();
  expect(existsSync(path)).toBe(true);
});

test('takes over a connected descriptor, and ends with it', async () => {
  const [ours, theirs] = socketPair();
  const { server } = await started({ fd: theirs.take() });
  const frontEnd = new RawFrontEnd(ours);
  await frontEnd.sync();
  frontEnd.close();
  await server.ended;
  await server.close();
});

test('refuses a descriptor that is no socket', async () => {
  const event = createEventFd();
  for (const fd of [event.number, 987654]) {
    expect(await codeOf(new BackEndServer(new FakeDevice(), { fd }).start())).toBe('VLO_SOCKET_FD');
  }
  event.close();
});

test('as a client it connects when somebody listens, and again when the connection is lost', async () => {
  const { server, device } = await started({ path, client: true });
  await turn();
  const listener = listenUnix(path);
  const next = async (): Promise<RawFrontEnd> => {
    let socket: Fd | null = null;
    await until(() => {
      socket = acceptUnix(listener.number);
      return socket !== null;
    }, 'connection');
    return new RawFrontEnd(socket!);
  };
  for (let i = 0; i < 2; i += 1) {
    const frontEnd = await next();
    const { value } = await frontEnd.get('GET_FEATURES', {});
    expect(value & VIRTIO_FEATURE.PROTOCOL_FEATURES).not.toBe(0n);
    frontEnd.close();
  }
  await until(() => device.events.filter((event) => event === 'reset').length === 2, 'left');
  listener.close();
  await server.close();
});
