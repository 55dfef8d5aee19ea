/** The kernel's side of a mount, for tests: a pair of sockets that keeps messages apart. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'vitest';
import { Fd, NativeBuffer } from '../native/index.js';
import { check, libc } from '../native/libc.js';
import { FuseChannel } from './channel.js';
import { FUSE_MESSAGES, FUSE_OPCODE, type FuseMessageName, FuseOutHeader } from './messages.js';

const AF_UNIX = 1;
/** SOCK_SEQPACKET, SOCK_NONBLOCK and SOCK_CLOEXEC. */
const TYPE = 5 | 0o4000 | 0o2000000;
const SIZE = 256 * 1024;
/** The sender of all requests. */
export const SENDER = { uid: 1000, gid: 1001, pid: 1002 } as const;

export interface FakeReply {
  /** The errno, positive; 0 for success, and the code of a notification. */
  readonly errno: number;
  readonly unique: number;
  readonly body: Buffer;
}

/** A request; numbers are the fields of its fixed part by name. */
export interface FakeRequest {
  readonly nodeid?: number;
  readonly fields?: Readonly<Record<string, number>>;
  /** What follows the fixed part. */
  readonly rest?: Uint8Array;
}

export class FakeKernel {
  readonly channel: FuseChannel;
  /** Replies that nobody asked for yet, in order. */
  readonly replies: FakeReply[] = [];
  private readonly fd: Fd;
  private readonly buffer = new NativeBuffer(SIZE);
  private lastUnique = 0;

  constructor() {
    const { buffer } = this;
    check(libc.socketpair(AF_UNIX, TYPE, 0, buffer.address), 'socketpair');
    this.fd = new Fd(buffer.i32[0]!);
    this.channel = new FuseChannel(new Fd(buffer.i32[1]!));
  }

  /** Sends bytes as one message. */
  sendBytes(bytes: Uint8Array): void {
    this.buffer.bytes.set(bytes);
    check(libc.write(this.fd.number, this.buffer.address, bytes.length), 'write');
  }

  /** Sends a request, and returns its number. */
  send(name: FuseMessageName, request: FakeRequest = {}): number {
    const { nodeid = 2, fields = {}, rest = new Uint8Array(0) } = request;
    const fixed = FUSE_MESSAGES[name].request.encode(fields as never);
    this.lastUnique += 2;
    this.sendBytes(requestBytes(FUSE_OPCODE[name], nodeid, this.lastUnique, fixed, rest));
    return this.lastUnique;
  }

  /** Takes what has been sent to the kernel into `replies`. */
  take(): readonly FakeReply[] {
    const { buffer } = this;
    for (;;) {
      const size = libc.read(this.fd.number, buffer.address, SIZE);
      if (size <= 0) return this.replies;
      const { len, error, unique } = FuseOutHeader.decode(buffer.bytes);
      expect(len).toBe(size);
      const body = Buffer.from(buffer.bytes.subarray(FuseOutHeader.size, size));
      this.replies.push({ errno: unique === 0 ? error : 0 - error, unique, body });
    }
  }

  /** Waits for the reply to a request. */
  async reply(unique: number, timeoutMs = 5000): Promise<FakeReply> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      this.take();
      const index = this.replies.findIndex((reply) => reply.unique === unique);
      if (index >= 0) return this.replies.splice(index, 1)[0]!;
      expect(performance.now(), `request ${unique} has no reply`).toBeLessThan(end);
      await nextTurn();
    }
  }

  /** Sends a request and waits for its reply. */
  ask(name: FuseMessageName, request?: FakeRequest): Promise<FakeReply> {
    return this.reply(this.send(name, request));
  }

  close(): void {
    this.channel.close();
    this.fd.close();
    this.buffer.free();
  }
}

/** A request as the kernel sends it. */
export function requestBytes(
  opcode: number,
  nodeid: number,
  unique: number,
  ...parts: readonly Uint8Array[]
): Buffer {
  const header = Buffer.alloc(40);
  const bytes = Buffer.concat([header, ...parts]);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt32LE(opcode, 4);
  bytes.writeBigUInt64LE(BigInt(unique), 8);
  bytes.writeBigUInt64LE(BigInt(nodeid), 16);
  bytes.writeUInt32LE(SENDER.uid, 24);
  bytes.writeUInt32LE(SENDER.gid, 28);
  bytes.writeUInt32LE(SENDER.pid, 32);
  return bytes;
}
