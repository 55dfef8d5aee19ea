import { expect, test } from 'vitest';
import type { IovecList } from '../native/index.js';
import { ByteBacklog, type ByteEnd, GONE } from './index.js';

/** Takes up to `room` bytes; with null there is nobody. */
function endWith(room: () => number | null) {
  let taken = 0;
  const end: ByteEnd = {
    isOpen: true,
    read: () => 0,
    write: (list: IovecList) => {
      const free = room();
      if (free === null) return GONE;
      const size = Math.min(free, list.size);
      taken += size;
      return size;
    },
    want: () => {},
    close: () => {},
  };
  return { end, taken: () => taken };
}

test('bytes wait until the end takes them; what is too much is lost', () => {
  const backlog = new ByteBacklog(4);
  let room = 0;
  const { end, taken } = endWith(() => {
    const now = room;
    room = 0;
    return now;
  });
  for (let byte = 1; byte <= 6; byte += 1) backlog.pushByte(byte);
  backlog.flush(end);
  expect([taken(), backlog.isEmpty]).toEqual([0, false]);
  room = 3;
  backlog.flush(end);
  expect([taken(), backlog.isEmpty]).toEqual([3, false]);
  // The room of three is there again.
  for (let byte = 7; byte <= 10; byte += 1) backlog.pushByte(byte);
  room = 4;
  backlog.flush(end);
  expect([taken(), backlog.isEmpty]).toEqual([7, true]);
  backlog.free();
});

test('where nobody is, everything is forgotten', () => {
  const backlog = new ByteBacklog(4);
  backlog.pushByte(1);
  backlog.flush(endWith(() => null).end);
  expect(backlog.isEmpty).toBe(true);
  backlog.free();
});
