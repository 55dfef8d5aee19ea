import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { consumeEvent, createEventFd, type Fd, signalEvent } from '../native/index.js';
import { expectNoLeaks } from '../native/test-utils.js';
import { DriverLoop, type LoopSource } from './driver-loop.js';

const open: Fd[] = [];
const loops: DriverLoop[] = [];
afterEach(() => {
  for (const loop of loops.splice(0)) loop.close();
  for (const fd of open.splice(0)) fd.close();
});

function makeLoop(pollUs?: number): DriverLoop {
  const loop = new DriverLoop(pollUs);
  loops.push(loop);
  return loop;
}

/** A source of events; what it took is counted. */
class EventSource implements LoopSource {
  readonly fd: number;
  isCheap = false;
  isReady = true;
  taken = 0;
  polls = 0;
  private readonly event = createEventFd();

  constructor() {
    this.fd = this.event.number;
    open.push(this.event);
  }

  signal(): void {
    signalEvent(this.fd);
  }

  poll(): boolean {
    this.polls += 1;
    const count = this.isReady ? consumeEvent(this.fd) : 0;
    this.taken += count;
    return count > 0;
  }
}

/** Milliseconds of processor time that this process uses in so many milliseconds. */
async function processorMs(ms: number): Promise<number> {
  const before = process.cpuUsage();
  await delay(ms);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

describe.each([
  { name: 'with polling', pollUs: undefined },
  { name: 'without', pollUs: 0 },
])('sources, $name', ({ pollUs }) => {
  test('the descriptor wakes the loop, again and again; idle it uses no processor time', async () => {
    const loop = makeLoop(pollUs);
    const sources = [new EventSource(), new EventSource()];
    for (const source of sources) loop.addSource(source);
    for (let round = 1; round <= 20; round += 1) {
      sources[round % 2]!.signal();
      const sum = (): number => sources[0]!.taken + sources[1]!.taken;
      await expect.poll(sum, { interval: 1 }).toBe(round);
      if (round % 5 === 0) await delay(20);
    }
    expect(sources.map(({ taken }) => taken)).toEqual([10, 10]);
    const polls = sources[0]!.polls;
    expect(await processorMs(300)).toBeLessThan(100);
    expect(sources[0]!.polls).toBeLessThan(polls + 10);
  });

  test('what is there when it is added is taken', async () => {
    const source = new EventSource();
    source.signal();
    makeLoop(pollUs).addSource(source);
    await expect.poll(() => source.taken).toBe(1);
  });

  test('a source that takes nothing now does not keep the loop awake', async () => {
    const loop = makeLoop(pollUs);
    const [paused, other] = [new EventSource(), new EventSource()];
    loop.addSource(paused);
    loop.addSource(other);
    await delay(20);
    paused.isReady = false;
    paused.signal();
    await delay(50);
    expect(await processorMs(300)).toBeLessThan(100);
    // The other one is still heard.
    other.signal();
    await expect.poll(() => other.taken).toBe(1);
    expect(paused.taken).toBe(0);
    paused.isReady = true;
    loop.wake();
    await expect.poll(() => paused.taken).toBe(1);
    await delay(50);
    paused.signal();
    await expect.poll(() => paused.taken).toBe(2);
  });

  test('a source that always has something leaves room for others, and for timers', async () => {
    const loop = makeLoop(pollUs);
    const [busy, other] = [new EventSource(), new EventSource()];
    busy.poll = () => {
      busy.taken += 1;
      return true;
    };
    loop.addSource(busy);
    loop.addSource(other);
    await delay(20);
    other.signal();
    await expect.poll(() => other.taken).toBe(1);
    loop.removeSource(busy);
    const { taken } = busy;
    await delay(20);
    expect(busy.taken).toBe(taken);
  });
});

test('a source that was removed, or whose loop is closed, is left alone', () =>
  expectNoLeaks(async () => {
    const loop = makeLoop();
    const [removed, kept] = [new EventSource(), new EventSource()];
    loop.addSource(removed);
    loop.addSource(kept);
    await delay(20);
    loop.removeSource(removed);
    loop.removeSource(removed);
    removed.signal();
    kept.signal();
    await expect.poll(() => kept.taken).toBe(1);
    await delay(20);
    loop.close();
    kept.signal();
    loop.wake();
    await delay(20);
    expect([removed.taken, kept.taken]).toEqual([0, 1]);
    for (const fd of open.splice(0)) fd.close();
  }));
