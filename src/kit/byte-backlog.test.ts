import { expect, test } from 'vitest';
import { type IovecList, NativeBuffer } from '../native/index.js';
import { ByteBacklog, type ByteEnd, GONE } from './index.js';
import { device, drive } from './test-utils.js';

/** Takes up to `room` bytes; with null there is nobody. */
class SlowEnd implements ByteEnd {
  readonly isOpen = true;
  room: number | null = 0;
  readonly taken: number[] = [];
  private readonly copy = new NativeBuffer(16);

  read(): number {
    return 0;
  }

  write(list: IovecList): number {
    if (this.room === null) return GONE;
    const size = list.copyTo(this.copy.address, Math.min(this.room, list.size));
    this.taken.push(...this.copy.bytes.subarray(0, size));
    this.room -= size;
    return size;
  }

  want(): void {}

  close(): void {
    this.copy.free();
  }
}

test('bytes wait until the end takes them; what is too much is lost', () => {
  const backlog = new ByteBacklog(4);
  const end = new SlowEnd();
  for (let byte = 1; byte <= 6; byte += 1) backlog.pushByte(byte);
  backlog.flush(end);
  expect([end.taken, backlog.isEmpty]).toEqual([[], false]);
  end.room = 3;
  backlog.flush(end);
  expect([end.taken, backlog.isEmpty]).toEqual([[1, 2, 3], false]);
  // The room of three is there again.
  for (let byte = 7; byte <= 10; byte += 1) backlog.pushByte(byte);
  end.room = 16;
  backlog.flush(end);
  expect([end.taken, backlog.isEmpty]).toEqual([[1, 2, 3, 4, 7, 8, 9], true]);
  end.close();
  backlog.free();
});

test('of a request as much is taken as there is room for', async () => {
  const backlog = new ByteBacklog(6);
  const sizes: number[] = [];
  const driver = await drive(device(({ reader }) => void sizes.push(backlog.push(reader))));
  const end = new SlowEnd();
  await driver.request(0, { readable: [Uint8Array.of(1, 2), Uint8Array.of(3, 4)] });
  end.room = 3;
  backlog.flush(end);
  await driver.request(0, { readable: [Uint8Array.of(5, 6, 7, 8, 9, 10)] });
  expect(sizes).toEqual([4, 5]);
  end.room = 16;
  backlog.flush(end);
  expect(end.taken).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  end.close();
  backlog.free();
});

test('where nobody is, everything is forgotten', () => {
  const backlog = new ByteBacklog(4);
  backlog.pushByte(1);
  const end = new SlowEnd();
  end.room = null;
  backlog.flush(end);
  expect(backlog.isEmpty).toBe(true);
  end.close();
  backlog.free();
});
