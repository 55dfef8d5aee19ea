/** A bus behind an interface, with a socket of the test: the kernel of a test may have no CAN. */
import { afterEach, expect, test, vi } from 'vitest';
import { CAN_ID, ERRNO, type RawCanFrame } from '../../native/index.js';
import { CanFrame, SEND_FAILED, SEND_FULL, SEND_PENDING } from './backend.js';
import { SocketCanBus } from './backend-socketcan.js';

const BATCH = 32;
const CHECK_MS = 200;

const fakes = vi.hoisted(() => {
  /** What `receive` brings: frames, or a negative errno. */
  type Batch = readonly RawCanFrame[] | number;

  class FakeSocket {
    static readonly batchSize = 32;
    static last: FakeSocket;
    static isMissing = false;
    static isMore = (count: number): boolean => count === FakeSocket.batchSize;
    readonly mtu = 72;
    readonly fd = 0;
    readonly outgoing = new Uint8Array(64);
    readonly batches: Batch[] = [];
    isThere = true;
    isUp = true;
    droppedCount = 0;
    sendResult = 0;
    private batch: readonly RawCanFrame[] = [];

    constructor() {
      FakeSocket.last = this;
    }

    connect = async (): Promise<boolean> => !FakeSocket.isMissing;
    send = (): number => this.sendResult;
    close(): void {}

    receive(): number {
      const next = this.batches.shift() ?? [];
      if (typeof next === 'number') return next;
      this.batch = next;
      return next.length;
    }

    take(index: number, frame: RawCanFrame): void {
      Object.assign(frame, this.batch[index]);
    }
  }

  class FakeWatch {
    static last: FakeWatch;
    isPaused = false;
    readonly callback: () => void;

    constructor(_fd: number, callback: () => void) {
      this.callback = callback;
      FakeWatch.last = this;
    }

    pause(): void {
      this.isPaused = true;
    }

    resume(): void {
      this.isPaused = false;
    }

    close(): void {}
  }
  return { FakeSocket, FakeWatch };
});

vi.mock('../../native/index.js', async (original) => ({
  ...(await original<object>()),
  CanSocket: fakes.FakeSocket,
  Watch: fakes.FakeWatch,
}));

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const raw = (word: number, isOwn = false): RawCanFrame => ({
  ...{ word, length: 0, isFd: false, isOwn },
});

let bus: SocketCanBus;
afterEach(() => bus.close());

/** A bus that was joined, and what its listener heard. */
async function join() {
  const log: string[] = [];
  bus = await SocketCanBus.open('can0', { canConfirm: true, log: (line) => log.push(line) });
  const heard = {
    log,
    ids: [] as number[],
    ends: [] as [token: number, isSent: boolean][],
    writable: 0,
    busOff: 0,
    room: 1000,
  };
  const listener = {
    hasRoomFor: (count: number) => heard.room >= count,
    received: ({ id }: CanFrame) => {
      heard.ids.push(id);
      heard.room -= 1;
    },
    ended: (token: number, isSent: boolean) => void heard.ends.push([token, isSent]),
    writable: () => {
      heard.writable += 1;
    },
    busOff: () => {
      heard.busOff += 1;
    },
  };
  expect(bus.join(listener, true)).toBe(true);
  return { heard, listener, socket: fakes.FakeSocket.last, watch: fakes.FakeWatch.last };
}

const send = (id: number): number => bus.send(Object.assign(new CanFrame(), { id }), id);

test('frames are confirmed as they come back, in any order', async () => {
  const { heard, socket, watch } = await join();
  expect([1, 2, 3].map(send)).toEqual([SEND_PENDING, SEND_PENDING, SEND_PENDING]);
  socket.batches.push([raw(2, true), raw(7), raw(1, true)]);
  watch.callback();
  expect(heard.ends).toEqual([
    [2, true],
    [1, true],
  ]);
  expect(heard.ids).toEqual([7]);
});

test('an interface that was down for a moment: what it had on its way has failed', async () => {
  const { heard, socket, watch } = await join();
  send(1);
  send(2);
  socket.batches.push(-ERRNO.ENETDOWN!, [raw(1, true), raw(7)]);
  watch.callback();
  // The confirmation that came before it went down counts.
  expect(heard.ends).toEqual([
    [1, true],
    [2, false],
  ]);
  expect(heard.ids).toEqual([7]);
  expect(watch.isPaused).toBe(false);
});

test('frames wait in the kernel until there is room for all that a call may bring', async () => {
  const { heard, socket, watch } = await join();
  heard.room = BATCH - 1;
  const batch = Array.from({ length: BATCH }, (_, id) => raw(id));
  socket.batches.push(batch);
  watch.callback();
  expect([heard.ids.length, watch.isPaused]).toEqual([0, true]);
  heard.room = BATCH;
  await sleep(10);
  expect([heard.writable, watch.isPaused]).toEqual([1, false]);
  watch.callback();
  expect(heard.ids).toEqual(batch.map(({ word }) => word));
});

test('an interface that goes down and comes back', async () => {
  const { heard, listener, socket } = await join();
  send(1);
  socket.isUp = false;
  socket.sendResult = -ERRNO.ENETDOWN!;
  expect(send(2)).toBe(SEND_FAILED);
  expect(heard.ends).toEqual([[1, false]]);
  expect(send(3)).toBe(SEND_FAILED);
  bus.leave();
  expect(bus.join(listener, true)).toBe(false);
  socket.isUp = true;
  socket.sendResult = 0;
  expect(bus.join(listener, true)).toBe(true);
  expect(send(4)).toBe(SEND_PENDING);
  expect(heard.log).toEqual([
    expect.stringContaining('frames fail until it is up'),
    expect.stringContaining('down or gone'),
  ]);
});

test('an interface that is removed, and made anew', async () => {
  const { heard, socket } = await join();
  send(1);
  fakes.FakeSocket.isMissing = true;
  socket.isThere = false;
  await sleep(CHECK_MS + 50);
  expect(heard.ends).toEqual([[1, false]]);
  expect(send(2)).toBe(SEND_FAILED);
  fakes.FakeSocket.isMissing = false;
  await sleep(CHECK_MS + 50);
  expect(fakes.FakeSocket.last).not.toBe(socket);
  expect(send(3)).toBe(SEND_PENDING);
  expect(heard.log.at(-1)).toContain('is up again');
  expect(heard.writable).toBe(1);
});

test('an interface that is full, lost confirmations, and bus-off', async () => {
  const { heard, socket, watch } = await join();
  socket.sendResult = -ERRNO.ENOBUFS!;
  expect(send(1)).toBe(SEND_FULL);
  await sleep(10);
  expect(heard.writable).toBe(1);
  socket.sendResult = 0;
  send(2);
  socket.droppedCount = 3;
  await sleep(CHECK_MS + 50);
  expect(heard.ends).toEqual([[2, true]]);
  expect(heard.log.at(-1)).toContain('no room for 3 frames');
  socket.batches.push([raw(CAN_ID.ERROR + 0x40)]);
  watch.callback();
  expect(heard.busOff).toBe(1);
});
