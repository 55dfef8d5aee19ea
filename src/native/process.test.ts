import {
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { NativeBuffer } from './buffer.js';
import { Fd } from './fd.js';
import { makeFifo, readInto, tryLock } from './file.js';
import { check, libc } from './libc.js';
import { notifyServiceManager } from './notify.js';
import { becomeIoFlusher } from './process.js';
import { expectNoLeaks } from './test-utils.js';

let folder: string;
const before = process.env.NOTIFY_SOCKET;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'native-process-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
  if (before === undefined) delete process.env.NOTIFY_SOCKET;
  else process.env.NOTIFY_SOCKET = before;
});

test('a named pipe', () =>
  expectNoLeaks(() => {
    const path = join(folder, 'pipe');
    makeFifo(path, 0o600);
    expect([statSync(path).isFIFO(), statSync(path).mode & 0o777]).toEqual([true, 0o600]);
    const pipe = new Fd(openSync(path, 'r+'));
    writeSync(pipe.number, 'through');
    const target = Buffer.alloc(16);
    expect(target.toString('utf8', 0, readSync(pipe.number, target))).toBe('through');
    pipe.close();
    expect(() => makeFifo(path, 0o600)).toThrow('EEXIST');
    expect(() => makeFifo(join(folder, 'none', 'pipe'), 0o600)).toThrow('ENOENT');
  }));

test('a lock is held by one open file, until it is closed', () =>
  expectNoLeaks(() => {
    const path = join(folder, 'lock');
    writeFileSync(path, '');
    const [first, second] = [new Fd(openSync(path, 'r')), new Fd(openSync(path, 'r'))];
    expect(tryLock(first.number)).toBe(true);
    expect(tryLock(first.number)).toBe(true);
    expect(tryLock(second.number)).toBe(false);
    first.close();
    expect(tryLock(second.number)).toBe(true);
    second.close();
  }));

/** A socket for datagrams at an address, as a service manager has it. */
function bindDatagrams(address: Buffer): Fd {
  const memory = new NativeBuffer(128);
  // AF_UNIX; SOCK_DGRAM, SOCK_NONBLOCK and SOCK_CLOEXEC.
  const fd = new Fd(check(libc.socket(1, 2 | 0o4000 | 0o2000000, 0), 'socket'));
  memory.u16[0] = 1;
  memory.bytes.set(address, 2);
  check(libc.bind(fd.number, memory.address, 2 + address.length), 'bind');
  memory.free();
  return fd;
}

function takeDatagram(socket: Fd): string | null {
  const memory = new NativeBuffer(4096);
  const size = readInto(socket.number, memory.address, 4096);
  const text = size < 0 ? null : Buffer.from(memory.bytes.subarray(0, size)).toString();
  memory.free();
  return text;
}

test.each(['a path', 'an abstract name'])('a service manager behind %s hears of a state', (kind) =>
  expectNoLeaks(() => {
    const isPath = kind === 'a path';
    const name = isPath ? join(folder, 'notify') : `vlo-test-${process.pid}`;
    const socket = bindDatagrams(Buffer.from(isPath ? `${name}\0` : `\0${name}`));
    process.env.NOTIFY_SOCKET = isPath ? name : `@${name}`;
    notifyServiceManager('READY=1\nSTATUS=two devices');
    expect(takeDatagram(socket)).toBe('READY=1\nSTATUS=two devices');
    expect(takeDatagram(socket)).toBe(null);
    socket.close();
  }),
);

test('without a service manager nothing happens', () =>
  expectNoLeaks(() => {
    for (const path of [undefined, '', join(folder, 'gone'), '@vlo-nobody', '/dev/null']) {
      if (path === undefined) delete process.env.NOTIFY_SOCKET;
      else process.env.NOTIFY_SOCKET = path;
      notifyServiceManager('READY=1');
    }
  }));

test('a path that is too long for a socket does not end the program', () => {
  process.env.NOTIFY_SOCKET = `/${'x'.repeat(200)}`;
  notifyServiceManager('READY=1');
});

test('to serve disks for the kernel takes a privilege', () => {
  expect(becomeIoFlusher()).toBeTypeOf('boolean');
  // As the process was before: later tests of this process are no servers of disks.
  libc.prctl(57, 0, 0, 0, 0);
});
