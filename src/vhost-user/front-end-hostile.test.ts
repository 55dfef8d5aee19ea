/** The front end against back ends that answer wrongly, late, or not at all. */
import { describe, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { createEventFd, createMemfd, type Fd, socketPair } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { F } from '../virtio/index.js';
import { answerTo, decodeRequest, encodeAck, encodeReply, encodeRequest } from './codec.js';
import { Connection, closeAll, type IncomingMessage } from './connection.js';
import { FrontEnd } from './front-end.js';
import { FrontEndQueue } from './front-end-queue.js';
import { FRONT_END_MESSAGES, type FrontEndMessage, frontEndMessage } from './messages.js';
import { HEADER_FLAGS, PROTOCOL_FEATURE, VIRTIO_FEATURE } from './messages-constants.js';

const PROTOCOL =
  PROTOCOL_FEATURE.MQ |
  PROTOCOL_FEATURE.LOG_SHMFD |
  PROTOCOL_FEATURE.REPLY_ACK |
  PROTOCOL_FEATURE.BACKEND_REQ |
  PROTOCOL_FEATURE.CONFIG |
  PROTOCOL_FEATURE.INFLIGHT_SHMFD |
  PROTOCOL_FEATURE.RESET_DEVICE |
  PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS |
  PROTOCOL_FEATURE.STATUS |
  PROTOCOL_FEATURE.GPA_ADDRESSES;

/** How a back end misbehaves at one message. */
type Misdeed =
  | 'close'
  | 'silence'
  | 'refusal'
  | 'other id'
  | 'no reply flag'
  | 'wrong version'
  | 'too short'
  | 'too long'
  | 'huge'
  | 'with a descriptor'
  | 'twice'
  | 'half';

const MISDEEDS: readonly Misdeed[] = [
  'close',
  'silence',
  'refusal',
  'other id',
  'no reply flag',
  'wrong version',
  'too short',
  'too long',
  'huge',
  'with a descriptor',
  'twice',
  'half',
];

/** Answers as the specification has it, save the message with the number `at`. */
class ScriptedBackEnd {
  readonly names: FrontEndMessage[] = [];
  /** Numbers of the messages that have an answer. */
  readonly answered: number[] = [];
  readonly acknowledged: bigint[] = [];
  readonly connection: Connection;
  /** Socket of the back-end channel. */
  channel: Fd | null = null;
  private readonly at: number;
  private readonly misdeed: Misdeed;
  private readonly protocol: bigint;
  private status = 0n;

  constructor(socket: Fd, at = -1, misdeed: Misdeed = 'close', protocol = PROTOCOL) {
    this.at = at;
    this.misdeed = misdeed;
    this.protocol = protocol;
    const role = { requester: 'frontEnd', receives: 'request' } as const;
    this.connection = new Connection(socket, role, {
      onMessage: (message) => this.handle(message),
      onClose: () => {
        this.channel?.close();
        this.channel = null;
      },
    });
  }

  private handle(message: IncomingMessage): void {
    const { header, payload, fds } = message;
    const spec = frontEndMessage(header.request)!;
    const number = this.names.push(spec.name) - 1;
    if (spec.name === 'SET_BACKEND_REQ_FD') {
      this.channel?.close();
      this.channel = fds.shift()!;
    }
    if (spec.name === 'SET_STATUS') this.status = decodeRequest(spec.name, payload, 0).value;
    if (spec.name === 'SET_FEATURES') {
      this.acknowledged.push(decodeRequest(spec.name, payload, 0).value);
    }
    const answer = answerTo(spec, header, this.protocol);
    if (answer !== 'none') this.answered.push(number);
    const extra: Fd[] = [];
    const bytes = answer === 'none' ? null : this.answer(spec.name, payload, extra);
    if (number === this.at) this.misbehave(bytes ?? encodeAck(header.request, 0), extra);
    else if (bytes !== null) this.connection.send(bytes, extra);
    closeAll(extra);
  }

  private answer(name: FrontEndMessage, payload: Uint8Array, extra: Fd[]): Uint8Array {
    const word = (value: bigint): Uint8Array => {
      const bytes = encodeAck(FRONT_END_MESSAGES[name].id, 0);
      new DataView(bytes.buffer).setBigUint64(12, value, true);
      return bytes;
    };
    if (name === 'GET_FEATURES') {
      const { PROTOCOL_FEATURES, LOG_ALL } = VIRTIO_FEATURE;
      return word(F.VERSION_1 | F.EVENT_IDX | PROTOCOL_FEATURES | LOG_ALL);
    }
    if (name === 'GET_PROTOCOL_FEATURES') return word(this.protocol);
    if (name === 'GET_QUEUE_NUM') return word(4n);
    if (name === 'GET_MAX_MEM_SLOTS') return word(32n);
    if (name === 'GET_STATUS') return word(this.status);
    if (name === 'GET_CONFIG') return encodeReply(name, decodeRequest(name, payload, 0));
    if (name === 'GET_VRING_BASE') return encodeReply(name, decodeRequest(name, payload, 0));
    if (name === 'GET_INFLIGHT_FD') {
      extra.push(createMemfd('inflight', 8192));
      return encodeReply(name, { mmapSize: 8192, mmapOffset: 0, queueCount: 1, queueSize: 8 });
    }
    return word(0n);
  }

  private misbehave(bytes: Uint8Array, extra: Fd[]): void {
    const { connection } = this;
    const view = new DataView(bytes.buffer);
    switch (this.misdeed) {
      case 'close':
        setImmediate(() => connection.close());
        return;
      case 'silence':
        return;
      case 'refusal':
        bytes.fill(0xff, 12);
        break;
      case 'other id':
        view.setUint32(0, view.getUint32(0, true) + 1, true);
        break;
      case 'no reply flag':
        view.setUint32(4, 1, true);
        break;
      case 'wrong version':
        view.setUint32(4, HEADER_FLAGS.REPLY | 2, true);
        break;
      case 'too short':
        view.setUint32(8, 4, true);
        bytes = bytes.subarray(0, 16);
        break;
      case 'too long': {
        const longer = new Uint8Array(12 + 8000);
        longer.set(bytes.subarray(0, 12));
        bytes = longer;
        new DataView(bytes.buffer).setUint32(8, 8000, true);
        break;
      }
      case 'huge':
        view.setUint32(8, 0xffffffff, true);
        break;
      case 'with a descriptor':
        extra.push(createEventFd());
        break;
      case 'twice':
        connection.send(bytes, extra);
        break;
      case 'half':
        connection.send(bytes.subarray(0, bytes.length - 3), extra);
        setImmediate(() => connection.close());
        return;
    }
    connection.send(bytes, extra);
  }
}

const OWNER = { drain: () => {}, resubmit: () => {}, called: () => {} };

/** All that a front end can do, in order. */
async function everything(socket: Fd): Promise<void> {
  const frontEnd = await FrontEnd.connect({ fd: socket.take(), timeoutMs: 150 });
  try {
    expect(frontEnd.protocolFeatures & PROTOCOL_FEATURE.GPA_ADDRESSES).toBe(0n);
    await frontEnd.readConfig(0, 8);
    await frontEnd.writeConfig(0, Uint8Array.of(1, 2, 3));
    await frontEnd.addMemory(FrontEndQueue.bytesNeeded(8));
    const queue = frontEnd.createQueue({ size: 8, owner: OWNER });
    await frontEnd.start();
    const region = await frontEnd.addMemory(4096);
    await frontEnd.startLog();
    await frontEnd.stopLog();
    await frontEnd.removeMemory(region);
    await frontEnd.stopQueue(queue);
    await frontEnd.start();
    await frontEnd.resetDevice();
  } finally {
    await frontEnd.close();
  }
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'none',
    (error: unknown) => {
      if (error instanceof VloError) return error.code;
      throw error;
    },
  );

async function run(
  at?: number,
  misdeed?: Misdeed,
  protocol?: bigint,
): Promise<{ backEnd: ScriptedBackEnd; code: string }> {
  const [ours, theirs] = socketPair();
  const backEnd = new ScriptedBackEnd(theirs, at, misdeed, protocol);
  const code = await codeOf(everything(ours));
  backEnd.connection.close();
  return { backEnd, code };
}

const CODES = [
  'VLO_PROTOCOL',
  'VLO_DISCONNECTED',
  'VLO_TIMEOUT',
  'VLO_BACKEND_REFUSED',
  'VLO_BACKEND_FEATURES',
];

describe('every message', () => {
  test('is answered well: all goes well, with and without REPLY_ACK', async () => {
    await expectNoLeaks(async () => {
      const { backEnd, code } = await run();
      expect(code).toBe('none');
      expect(backEnd.acknowledged.some((word) => (word & VIRTIO_FEATURE.LOG_ALL) !== 0n)).toBe(
        true,
      );
      const without = await run(-1, 'close', PROTOCOL & ~PROTOCOL_FEATURE.REPLY_ACK);
      expect(without.code).toBe('none');
      expect(without.backEnd.names.length).toBeGreaterThan(backEnd.names.length);
    });
  });

  test.each(MISDEEDS)(
    '%s',
    async (misdeed) => {
      await expectNoLeaks(async () => {
        const { backEnd } = await run();
        const { names, answered } = backEnd;
        const failures: string[] = [];
        // Those after it come from close(), which has nobody to tell; what comes twice shows later.
        const lastTold = names.lastIndexOf('SET_STATUS') - (misdeed === 'twice' ? 1 : 0);
        for (const at of misdeed === 'close' || misdeed === 'half' ? names.keys() : answered) {
          if (at > lastTold) continue;
          const { code } = await run(at, misdeed);
          const isAlright =
            CODES.includes(code) || (code === 'none' && mayGoUnseen(misdeed, names[at]!));
          if (!isAlright) failures.push(`${at} ${names[at]}: ${code}`);
        }
        expect(failures).toEqual([]);
      });
    },
    120_000,
  );
});

/** Answers in which there is nothing wrong to be seen. */
function mayGoUnseen(misdeed: Misdeed, name: FrontEndMessage): boolean {
  // Any number is an answer to these.
  const isWord = name === 'SET_LOG_BASE' || name === 'GET_STATUS' || name === 'GET_VRING_BASE';
  if (misdeed === 'refusal') return isWord || name.startsWith('GET_');
  if (misdeed === 'with a descriptor') return name === 'GET_INFLIGHT_FD';
  return misdeed === 'too short' && name === 'SET_LOG_BASE';
}

test('what the back end may not ask is refused, on its channel', async () => {
  await expectNoLeaks(async () => {
    const [ours, theirs] = socketPair();
    const backEnd = new ScriptedBackEnd(theirs);
    let changes = 0;
    const lines: string[] = [];
    const frontEnd = await FrontEnd.connect({
      fd: ours.take(),
      events: { onConfigChange: () => (changes += 1) },
      log: (line) => lines.push(line),
    });
    const replies: number[] = [];
    const role = { requester: 'backEnd', receives: 'reply' } as const;
    const channel = new Connection(backEnd.channel!.duplicate(), role, {
      onMessage: ({ payload }) => void replies.push(payload[0]!),
      onClose: () => {},
    });
    const { NEED_REPLY } = HEADER_FLAGS;
    channel.send(encodeRequest('BACKEND_CONFIG_CHANGE_MSG', {}, NEED_REPLY));
    const uuid = { uuid: new Uint8Array(16) };
    channel.send(encodeRequest('BACKEND_SHARED_OBJECT_ADD', uuid, NEED_REPLY));
    channel.send(encodeRequest('BACKEND_VRING_CALL', { index: 77, num: 0 }, NEED_REPLY));
    const mmap = { shmid: 0, fdOffset: 0, shmOffset: 0, length: 4096, flags: 0n };
    const fd = createEventFd();
    channel.send(encodeRequest('BACKEND_SHMEM_MAP', mmap, NEED_REPLY), [fd]);
    fd.close();
    await expect.poll(() => replies).toEqual([0, 1, 0, 1]);
    await expect.poll(() => changes).toBe(1);
    expect(lines).toHaveLength(2);
    // A channel that breaks does not take the device with it.
    channel.send(new Uint8Array(40).fill(7));
    await expect.poll(() => lines).toHaveLength(3);
    expect((await frontEnd.readConfig(0, 4)).length).toBe(4);
    channel.close();
    await frontEnd.close();
    backEnd.connection.close();
  });
});

test('a socket that was given is not found again', async () => {
  await expectNoLeaks(async () => {
    const [ours, theirs] = socketPair();
    const backEnd = new ScriptedBackEnd(theirs);
    const failures: VloError[] = [];
    const frontEnd = await FrontEnd.connect({
      fd: ours.take(),
      reconnect: {},
      events: { onFail: (error) => failures.push(error) },
    });
    expect(frontEnd.features & VIRTIO_FEATURE.PROTOCOL_FEATURES).not.toBe(0n);
    backEnd.connection.close();
    await expect.poll(() => failures.map(({ code }) => code)).toEqual(['VLO_DISCONNECTED']);
    await frontEnd.close();
  });
});
