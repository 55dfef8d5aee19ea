/** The ends of ports over real terminals, sockets and files. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IovecList, NativeBuffer, setTerminalSize } from '../../native/index.js';
import { eventually, expectNoLeaks } from '../../native/test-utils.js';
import { GONE, type PortEnd, type PortEvents } from './backend.js';
import { FileEnd } from './backend-file.js';
import { PtyEnd } from './backend-pty.js';
import { reopen } from './backend-stdio.js';
import { UnixEnd } from './backend-unix.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-end-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What a port hears, and memory for what it says. */
class Probe implements PortEvents {
  end!: PortEnd;
  readyCount = 0;
  readonly changes: boolean[] = [];
  readonly lines: string[] = [];
  private readonly buffer = new NativeBuffer(65536);
  private readonly list = new IovecList(4);

  ready(): void {
    this.readyCount += 1;
    this.end.want(false, false);
  }

  changed(): void {
    this.changes.push(this.end.isOpen);
  }

  log(line: string): void {
    this.lines.push(line);
  }

  /** Two segments, so that more than one is used. */
  private use(size: number): IovecList {
    this.list.clear();
    this.list.push(this.buffer.address, 1);
    this.list.push(this.buffer.address + 1, size - 1);
    return this.list;
  }

  write(text: string): number {
    this.buffer.bytes.set(Buffer.from(text));
    return this.end.write(this.use(text.length));
  }

  read(): string | number {
    const size = this.end.read(this.use(4096));
    return size > 0 ? Buffer.from(this.buffer.bytes.subarray(0, size)).toString() : size;
  }

  async hears(): Promise<string | number> {
    this.end.want(true, false);
    const before = this.readyCount;
    await eventually(() => this.readyCount > before);
    return this.read();
  }

  close(): void {
    this.end.close();
    this.list.free();
    this.buffer.free();
  }
}

const NOBODY: PortEvents = { ready: () => {}, changed: () => {}, log: () => {} };

async function withEnd<E extends PortEnd>(
  make: (events: PortEvents) => E,
  work: (end: E, probe: Probe) => Promise<void>,
): Promise<void> {
  await expectNoLeaks(async () => {
    const probe = new Probe();
    const end = make(probe);
    probe.end = end;
    try {
      await work(end, probe);
    } finally {
      probe.close();
    }
  });
}

describe('pty', () => {
  const link = (): string => join(folder, 'tty');
  const open = (path: string): number =>
    openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  const make = (events: PortEvents): PtyEnd => new PtyEnd(link(), events);

  test('bytes as they are, comings and goings, sizes', () =>
    withEnd(make, async (end, probe) => {
      expect(end.isOpen).toBe(false);
      expect([probe.write('lost'), probe.read()]).toEqual([GONE, GONE]);
      let terminal = open(link());
      await eventually(() => end.isOpen);
      expect(probe.write('a\nb\x03\r')).toBe(5);
      const bytes = Buffer.alloc(16);
      expect(bytes.subarray(0, readSync(terminal, bytes)).toString()).toBe('a\nb\x03\r');
      writeSync(terminal, 'x\x03\r\n\x7f');
      expect(await probe.hears()).toBe('x\x03\r\n\x7f');
      expect(probe.read()).toBe(0);
      setTerminalSize(terminal, { cols: 132, rows: 50 });
      await eventually(() => end.size?.cols === 132);
      expect(end.size).toEqual({ cols: 132, rows: 50 });
      await eventually(() => probe.changes.length >= 2);
      expect(probe.changes).toEqual([true, true]);
      // The last words are heard.
      writeSync(terminal, 'bye');
      closeSync(terminal);
      await new Promise((resolve) => setTimeout(resolve, 450));
      expect(end.isOpen).toBe(true);
      expect(await probe.hears()).toBe('bye');
      await eventually(() => !end.isOpen);
      await eventually(() => probe.changes.length >= 3);
      expect(probe.changes).toEqual([true, true, false]);
      terminal = open(link());
      await eventually(() => end.isOpen);
      writeSync(terminal, 'again');
      expect(await probe.hears()).toBe('again');
      closeSync(terminal);
      await eventually(() => probe.changes.length === 5);
    }));

  test('nobody reads: it is full, and then not', () =>
    withEnd(make, async (end, probe) => {
      const terminal = open(link());
      await eventually(() => end.isOpen);
      let sent = 0;
      for (let size = 1; size > 0; sent += size) size = probe.write('x'.repeat(4096));
      expect(sent).toBeGreaterThan(1000);
      end.want(false, true);
      const before = probe.readyCount;
      const bytes = Buffer.alloc(65536);
      for (let got = 0; got < sent; ) got += readSync(terminal, bytes);
      await eventually(() => probe.readyCount > before);
      expect(probe.write('more')).toBe(4);
      closeSync(terminal);
    }));

  test('the link: one that was left is replaced, a file is in the way', async () => {
    symlinkSync('/dev/pts/nowhere', link());
    await withEnd(make, async (end) => {
      expect(end.place).toContain(link());
    });
    expect(existsSync(link())).toBe(false);
    writeFileSync(link(), '');
    await expectNoLeaks(() => {
      expect(() => make(NOBODY)).toThrowError(expect.objectContaining({ code: 'VLO_PORT_ACCESS' }));
    });
    expect(lstatSync(link()).isFile()).toBe(true);
  });
});

describe('unix', () => {
  const path = (): string => join(folder, 'socket');
  const make = (events: PortEvents): UnixEnd => new UnixEnd(path(), events);
  const heard = new WeakMap<Socket, string>();
  const client = (): Socket => {
    const socket = connect(path());
    heard.set(socket, '');
    socket.on('data', (bytes) => heard.set(socket, heard.get(socket)! + bytes.toString()));
    return socket;
  };

  test('one client after the other', () =>
    withEnd(make, async (end, probe) => {
      const first = client();
      await eventually(() => end.isOpen);
      const second = client();
      second.write('second');
      probe.write('hello');
      await eventually(() => heard.get(first) === 'hello');
      first.end('first');
      expect(await probe.hears()).toBe('first');
      expect(probe.read()).toBe(GONE);
      await eventually(() => end.isOpen);
      expect(await probe.hears()).toBe('second');
      await eventually(() => probe.changes.length >= 3);
      expect(probe.changes).toEqual([true, false, true]);
      // Left without a word, while nobody reads.
      second.destroy();
      await eventually(() => !end.isOpen);
      expect([probe.write('lost'), probe.read()]).toEqual([GONE, GONE]);
      await eventually(() => first.closed && second.closed);
    }));

  test('a socket that was left is replaced, one that is used is not', async () => {
    const program = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 9))`;
    try {
      execFileSync(process.execPath, ['-e', program, path()], { stdio: 'ignore' });
    } catch {
      // It was killed, and left its socket.
    }
    expect(existsSync(path())).toBe(true);
    await withEnd(make, async () => {
      expect(() => make(NOBODY)).toThrowError(
        expect.objectContaining({ code: 'VLO_SOCKET_IN_USE' }),
      );
    });
    expect(existsSync(path())).toBe(false);
    expect(() => new UnixEnd('/nowhere/socket', NOBODY)).toThrowError(
      expect.objectContaining({ code: 'VLO_PORT_ACCESS' }),
    );
  });
});

describe('stdio', () => {
  test('a pipe that cannot be opened again is refused, one that can is another descriptor', async () => {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    await expectNoLeaks(() => {
      const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
      const other = reopen(writer, constants.O_WRONLY);
      expect(other!.number).not.toBe(writer);
      other!.close();
      closeSync(reader);
      expect(() => reopen(writer, constants.O_WRONLY)).toThrowError(
        expect.objectContaining({
          code: 'VLO_PORT_ACCESS',
          message: 'standard output cannot be opened (ENXIO); give the port another chardev',
        }),
      );
      closeSync(writer);
    });
  });
});

describe('file', () => {
  test('what is sent is appended', () =>
    withEnd(
      (events) => new FileEnd(join(folder, 'log'), events),
      async (end, probe) => {
        probe.write('one\n');
        probe.write('two\n');
        expect(probe.read()).toBe(0);
        expect(end.isOpen).toBe(true);
        expect(readFileSync(end.place, 'utf8')).toBe('one\ntwo\n');
      },
    ));

  test('a full disk loses output, says so once, and recovers', () =>
    withEnd(
      (events) => new FileEnd('/dev/full', events),
      async (_end, probe) => {
        expect([probe.write('one'), probe.write('two')]).toEqual([3, 3]);
        expect(probe.lines).toEqual(['/dev/full: output is lost (ENOSPC)']);
      },
    ));

  test('a pipe that nobody reads is refused, and one that is full loses output', async () => {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    expect(() => new FileEnd(path, NOBODY)).toThrowError(
      expect.objectContaining({
        code: 'VLO_PORT_ACCESS',
        message: expect.stringContaining('(ENXIO): nobody reads this pipe'),
      }),
    );
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    await withEnd(
      (events) => new FileEnd(path, events),
      async (_end, probe) => {
        for (let i = 0; i < 40; i += 1) probe.write('x'.repeat(4096));
        expect(probe.lines).toEqual([`${path}: output is lost (EAGAIN)`]);
      },
    );
    closeSync(reader);
  });

  test('no such folder', () => {
    expect(() => new FileEnd('/nowhere/log', NOBODY)).toThrowError(
      expect.objectContaining({ code: 'VLO_PORT_ACCESS' }),
    );
  });
});
