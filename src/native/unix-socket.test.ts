import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { consumeEvent, createEventFd, signalEvent, waitReadable } from './eventfd.js';
import { type Fd, openFdCount } from './fd.js';
import { expectNoLeaks } from './test-utils.js';
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  MESSAGE_BYTES_MAX,
  receiveMessage,
  SOCKET_PATH_MAX,
  sendMessage,
  socketPair,
  unixSocketKind,
} from './unix-socket.js';

const folder = mkdtempSync(join(tmpdir(), 'unix-socket-'));
afterAll(() => rmSync(folder, { recursive: true }));

const closeAll = (...fds: Fd[]): void => {
  for (const fd of fds) fd.close();
};

test('descriptors travel with the first byte of their message', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    const events = [createEventFd(), createEventFd(), createEventFd()];
    const numbers = events.map((fd) => fd.number);
    expect(sendMessage(a.number, new Uint8Array([1, 2, 3]), numbers)).toBe(3);
    expect(sendMessage(a.number, new Uint8Array([4]))).toBe(1);
    const fds: Fd[] = [];
    const target = new Uint8Array(2);
    expect(receiveMessage(b.number, target, fds)).toBe(2);
    expect([...target]).toEqual([1, 2]);
    expect(fds).toHaveLength(3);
    for (const fd of fds) signalEvent(fd.number);
    expect(numbers.map((number) => consumeEvent(number))).toEqual([1, 1, 1]);
    // The rest of the message, and the next: without descriptors.
    expect(receiveMessage(b.number, new Uint8Array(16), fds)).toBe(2);
    expect(fds).toHaveLength(3);
    expect(receiveMessage(b.number, target, fds)).toBe(-1);
    closeAll(...fds, ...events, a);
    expect(receiveMessage(b.number, target, fds)).toBe(0);
    b.close();
  }));

test('as many descriptors as the kernel takes, and one more', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    const event = createEventFd();
    const count = (n: number) => Array<number>(n).fill(event.number);
    expect(sendMessage(a.number, new Uint8Array(1), count(253))).toBe(1);
    const fds: Fd[] = [];
    expect(receiveMessage(b.number, new Uint8Array(1), fds)).toBe(1);
    expect(fds).toHaveLength(253);
    expect(() => sendMessage(a.number, new Uint8Array(1), count(254))).toThrow('bug');
    expect(() => sendMessage(a.number, new Uint8Array(1), [1_000_000])).toThrow(
      expect.objectContaining({ errno: 'EBADF' }),
    );
    expect(receiveMessage(b.number, new Uint8Array(1), fds)).toBe(-1);
    closeAll(...fds, event, a, b);
  }));

test('truncated control data is refused, and what came of it is closed', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    const event = createEventFd();
    sendMessage(a.number, new Uint8Array(4), [event.number, event.number, event.number]);
    // A process at its limit of descriptors gets those that fit, and MSG_CTRUNC.
    const limit = (value: string) =>
      execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${value}:`]);
    const soft = execFileSync('prlimit', [
      ...['--pid', String(process.pid), '--nofile', '-o', 'SOFT', '--noheadings'],
    ]);
    limit('400');
    const fillers: number[] = [];
    const fds: Fd[] = [];
    try {
      for (;;) fillers.push(openSync('/dev/null', 'r'));
    } catch {
      // EMFILE: room for none is left; make room for one.
      closeSync(fillers.pop()!);
    }
    let thrown: unknown = null;
    try {
      receiveMessage(b.number, new Uint8Array(4), fds);
    } catch (error) {
      thrown = error;
    } finally {
      // The one that came was closed again: there is room for it.
      fillers.push(openSync('/dev/null', 'r'));
      for (const fd of fillers) closeSync(fd);
      limit(soft.toString().trim());
    }
    expect(thrown).toMatchObject({ code: 'VLO_PROTOCOL' });
    expect(fds).toEqual([]);
    closeAll(a, b, event);
  }));

test('a full socket takes what fits, then nothing, and goes on', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    const bytes = Uint8Array.from({ length: MESSAGE_BYTES_MAX + 5 }, (_, i) => i % 251);
    let sent = 0;
    for (;;) {
      const size = sendMessage(a.number, bytes);
      if (size === 0) break;
      expect(size).toBeLessThanOrEqual(MESSAGE_BYTES_MAX);
      sent += size;
    }
    const target = new Uint8Array(MESSAGE_BYTES_MAX * 2);
    let received = 0;
    for (let size = 1; size > 0; ) {
      size = receiveMessage(b.number, target, []);
      expect(size).toBeLessThanOrEqual(MESSAGE_BYTES_MAX);
      if (size > 0) received += size;
    }
    expect(received).toBe(sent);
    expect(sendMessage(a.number, bytes)).toBeGreaterThan(0);
    closeAll(a, b);
  }));

test('a peer that is gone', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    sendMessage(a.number, new Uint8Array(8), []);
    b.close(); // Unread data: a reset.
    const gone = expect.objectContaining({ code: 'VLO_DISCONNECTED' });
    expect(() => receiveMessage(a.number, new Uint8Array(1), [])).toThrow(gone);
    expect(() => sendMessage(a.number, new Uint8Array(1))).toThrow(gone);
    a.close();
  }));

test('descriptors that nobody received go with the socket', () =>
  expectNoLeaks(() => {
    const [a, b] = socketPair();
    const event = createEventFd();
    sendMessage(a.number, new Uint8Array(1), [event.number]);
    closeAll(a, b, event);
  }));

test('listening, connecting, accepting', () =>
  expectNoLeaks(() => {
    const path = join(folder, 'socket');
    const listener = listenUnix(path);
    expect(acceptUnix(listener.number)).toBeNull();
    const client = connectUnix(path);
    expect(waitReadable([listener.number], 1000)).toBe(0);
    const server = acceptUnix(listener.number)!;
    expect(sendMessage(client.number, new Uint8Array([9]))).toBe(1);
    const target = new Uint8Array(1);
    expect(receiveMessage(server.number, target, [])).toBe(1);
    expect(unixSocketKind(listener.number)).toBe('listening');
    expect(unixSocketKind(server.number)).toBe('connected');
    expect(() => listenUnix(path)).toThrow(expect.objectContaining({ errno: 'EADDRINUSE' }));
    closeAll(listener, client, server);
    expect(() => connectUnix(path)).toThrow(expect.objectContaining({ errno: 'ECONNREFUSED' }));
  }));

test('paths that cannot be', () =>
  expectNoLeaks(() => {
    const path = join(folder, 'missing');
    expect(() => connectUnix(path)).toThrow(expect.objectContaining({ errno: 'ENOENT' }));
    const wrong = expect.objectContaining({ code: 'VLO_SOCKET_PATH', exitStatus: 2 });
    expect(() => listenUnix('')).toThrow(wrong);
    expect(() => listenUnix('x'.repeat(SOCKET_PATH_MAX + 1))).toThrow(wrong);
    expect(() => connectUnix('\u00e9'.repeat(54))).toThrow(wrong); // Bytes count, not characters.
    const file = join(folder, 'file');
    writeFileSync(file, '');
    expect(() => connectUnix(file)).toThrow(expect.objectContaining({ errno: 'ECONNREFUSED' }));
    const longest = join(folder, 'y'.repeat(SOCKET_PATH_MAX - folder.length - 1));
    const listener = listenUnix(longest);
    closeAll(connectUnix(longest), listener);
  }));

test('what is no Unix stream socket', () => {
  const count = openFdCount();
  const fd = openSync('/dev/null', 'r');
  expect(unixSocketKind(fd)).toBeNull();
  closeSync(fd);
  expect(unixSocketKind(1_000_000)).toBeNull();
  expect(openFdCount()).toBe(count);
});
