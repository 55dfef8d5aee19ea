import { closeSync, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import {
  armTimerFd,
  consumeEvent,
  createEventFd,
  createTimerFd,
  signalEvent,
  waitReadable,
} from './eventfd.js';
import { Fd, openFdCount } from './fd.js';
import { expectNoLeaks } from './test-utils.js';
import { Watch } from './watch.js';

test('an event counts, and is consumed as a whole', () =>
  expectNoLeaks(() => {
    const event = createEventFd();
    expect(consumeEvent(event.number)).toBe(0);
    for (let i = 0; i < 3; i += 1) signalEvent(event.number);
    expect(waitReadable([event.number], 0)).toBe(0);
    expect(consumeEvent(event.number)).toBe(3);
    expect(consumeEvent(event.number)).toBe(0);
    event.close();
  }));

test('a descriptor that is no event does no harm', () => {
  const fd = openSync('/dev/null', 'r');
  signalEvent(fd);
  expect(consumeEvent(fd)).toBe(-1);
  closeSync(fd);
  expect(consumeEvent(1_000_000)).toBe(-1);
});

test('waitReadable tells which, and gives up in time', () =>
  expectNoLeaks(() => {
    const [first, second] = [createEventFd(), createEventFd()];
    const start = performance.now();
    expect(waitReadable([first.number, second.number], 30)).toBe(-1);
    expect(performance.now() - start).toBeGreaterThan(25);
    signalEvent(second.number);
    expect(waitReadable([first.number, second.number], 1000)).toBe(1);
    first.close();
    second.close();
  }));

test('a timer expires once, or again and again, or not at all', () =>
  expectNoLeaks(() => {
    const timer = createTimerFd();
    armTimerFd(timer.number, 5e6);
    expect(consumeEvent(timer.number)).toBe(0);
    expect(waitReadable([timer.number], 2000)).toBe(0);
    expect(consumeEvent(timer.number)).toBe(1);
    expect(waitReadable([timer.number], 20)).toBe(-1);
    armTimerFd(timer.number, 1, 1e6);
    const end = performance.now() + 10;
    while (performance.now() < end);
    expect(consumeEvent(timer.number)).toBeGreaterThanOrEqual(5);
    armTimerFd(timer.number, 0);
    expect(waitReadable([timer.number], 20)).toBe(-1);
    armTimerFd(timer.number, 1.5e9); // Seconds and nanoseconds.
    expect(waitReadable([timer.number], 20)).toBe(-1);
    timer.close();
    expect(() => armTimerFd(-1, 1)).toThrow(expect.objectContaining({ errno: 'EBADF' }));
  }));

test('a descriptor has one owner', () => {
  const count = openFdCount();
  const event = createEventFd();
  const twin = event.duplicate();
  expect(openFdCount()).toBe(count + 2);
  signalEvent(twin.number);
  expect(consumeEvent(event.number)).toBe(1);
  event.close();
  event.close();
  expect(event.isOpen).toBe(false);
  expect(() => event.number).toThrow('bug');
  const raw = twin.take();
  twin.close();
  expect(openFdCount()).toBe(count + 1);
  closeSync(raw);
  expect(() => new Fd(-1)).toThrow('bug');
  expect(openFdCount()).toBe(count);
});

test('a promise settled in a watch goes on in the same turn of the loop', () =>
  expectNoLeaks(async () => {
    const event = createEventFd();
    for (let i = 0; i < 20; i += 1) {
      let settledAt = 0;
      const settled = new Promise<void>((resolve) => {
        const watch = new Watch(event.number, () => {
          consumeEvent(event.number);
          watch.close();
          settledAt = performance.now();
          resolve();
        });
      });
      signalEvent(event.number);
      await settled;
      expect(performance.now() - settledAt).toBeLessThan(40);
    }
    event.close();
  }));

test('a watch pauses, resumes, and ends', () =>
  expectNoLeaks(async () => {
    const event = createEventFd();
    let calls = 0;
    const watch = new Watch(event.number, () => {
      calls += 1;
      consumeEvent(event.number);
    });
    const turn = () => new Promise((resolve) => setTimeout(resolve, 10));
    signalEvent(event.number);
    await turn();
    expect(calls).toBe(1);
    watch.pause();
    signalEvent(event.number);
    await turn();
    expect(calls).toBe(1);
    watch.resume();
    await turn();
    expect(calls).toBe(2);
    watch.setWritable(true); // An event descriptor can always be written.
    await turn();
    expect(calls).toBeGreaterThan(2);
    watch.setWritable(false);
    await turn();
    const before = calls;
    await turn();
    expect(calls).toBe(before);
    watch.close();
    watch.close();
    watch.pause();
    watch.resume();
    signalEvent(event.number);
    await turn();
    expect(calls).toBe(before);
    event.close();
  }));
