/** The block device over image files: engines, O_DIRECT, sparse files, files that are cut short. */
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ERRNO, FALLOCATE } from '../../native/index.js';
import {
  MockDriver,
  type MockDriverOptions,
  pattern,
  resourceCounts,
} from '../../testing/index.js';
import type { EngineTask } from './backend-engine.js';
import { FileDisk } from './backend-file.js';
import { blk } from './index.js';
import {
  BlkDriver,
  dataOf,
  expectSame,
  makeImage,
  openDisk,
  range,
  requests,
  statusOf,
} from './test-utils.js';
import { BLK_F, BLK_S } from './wire.js';

const { OK, IOERR } = BLK_S;
const MIB = 1024 * 1024;

async function open(
  blkFile: string,
  options: object = {},
  mock: MockDriverOptions = {},
): Promise<BlkDriver> {
  return new BlkDriver(await MockDriver.open(blk, { blkFile, numQueues: 1, ...options }, mock));
}

function syncedBlocks(path: string): number {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  closeSync(fd);
  return statSync(path).blocks;
}

const ENGINES = ['auto', 'threads'] as const;
const KINDS = ENGINES.flatMap((engine) => [
  { engine, direct: false },
  { engine, direct: true },
]);

describe.each(KINDS)('engine $engine, direct $direct', ({ engine, direct }) => {
  const options = { engine, direct };

  test('reads, writes and flushes, aligned and not', async () => {
    const content = pattern(MIB, 1);
    const path = makeImage(content);
    const driver = await open(path, options);
    for (const cut of [{ alignment: 4096 }, { alignment: 64 }, { misalignment: 1 }]) {
      expectSame(await driver.read(0, 4096, cut), content.subarray(0, 4096));
      expectSame(await driver.read(3, 512, cut), content.subarray(1536, 2048));
      expectSame(await driver.read(2047, 512, cut), content.subarray(-512));
      expectSame(await driver.read(8, 300 * 512, cut), content.subarray(4096, 157_696));
    }
    for (const [index, cut] of [{ alignment: 4096 }, { misalignment: 3 }].entries()) {
      for (const [sector, size] of [
        [8, 4096],
        [17, 512],
        [800, 65_536],
      ] as const) {
        const data = pattern(size, 7 + index);
        await driver.write(sector, data, cut);
        content.set(data, sector * 512);
      }
    }
    expect(await driver.status(requests.flush())).toBe(OK);
    expectSame(readFileSync(path), content);
  });

  test('many at once, neighbours and strangers, more than the engine has places for', async () => {
    const content = pattern(4 * MIB, 2);
    const path = makeImage(content);
    const driver = await open(path, options, { queueSize: 1024, packed: true });
    const sectors = Array.from({ length: 700 }, (_, i) =>
      i % 3 === 0 ? i * 8 : 8 * ((i * 7) % 1000),
    );
    for (let round = 0; round < 3; round += 1) {
      const results = driver.mock.batch(
        0,
        sectors.map((sector) => requests.read(sector, 4096)),
      );
      for (const [i, result] of (await Promise.all(results)).entries()) {
        const at = sectors[i]! * 512;
        expect(statusOf(result)).toBe(OK);
        expectSame(dataOf(result), content.subarray(at, at + 4096));
      }
    }
    const writes = Array.from({ length: 400 }, (_, i) =>
      requests.write(i % 2 === 0 ? i : 4000 + i * 3, pattern(512, i)),
    );
    expect(await driver.statuses(writes)).toEqual(writes.map(() => OK));
    const image = readFileSync(path);
    for (let i = 0; i < 400; i += 1) {
      const at = (i % 2 === 0 ? i : 4000 + i * 3) * 512;
      expectSame(image.subarray(at, at + 512), pattern(512, i));
    }
  });

  test('without FLUSH: batches of writes are durable, merged or not', async () => {
    const path = makeImage(new Uint8Array(MIB));
    const features = BLK_F.SEG_MAX | BLK_F.DISCARD | BLK_F.WRITE_ZEROES;
    const driver = await open(path, options, { features });
    for (let round = 0; round < 4; round += 1) {
      const batch = [0, 1, 2, 9, 8, 20].map((sector) =>
        requests.write(sector, pattern(512, sector + round)),
      );
      batch.push(requests.zero(range(100, 1), range(102, 1)), requests.discard(range(200, 8)));
      expect(await driver.statuses(batch)).toEqual(batch.map(() => OK));
      for (const sector of [0, 1, 2, 9, 8, 20]) {
        expectSame(await driver.read(sector, 512), pattern(512, sector + round));
      }
    }
  });

  test('an image that was cut short behind our back is an I/O error, and only there', async () => {
    const content = pattern(64 * 1024, 3);
    const path = makeImage(content);
    const driver = await open(path, options);
    truncateSync(path, 8192);
    const batch = [0, 8, 16, 24].map((sector) => requests.read(sector, 4096));
    expect(await driver.statuses(batch)).toEqual([OK, OK, IOERR, IOERR]);
    expect(await driver.status(requests.read(8, 8192))).toBe(IOERR);
    expectSame(await driver.read(8, 4096), content.subarray(4096, 8192));
    await driver.write(24, pattern(4096));
    expectSame(await driver.read(24, 4096), pattern(4096));
  });

  test('DISCARD and UNMAP give space back, WRITE_ZEROES keeps it', async () => {
    const path = makeImage(pattern(4 * MIB));
    const driver = await open(path, options);
    const full = syncedBlocks(path);
    expect(await driver.status(requests.discard(range(0, 2048)))).toBe(OK);
    expect(syncedBlocks(path)).toBeLessThanOrEqual(full - 2048);
    expect(await driver.status(requests.zero(range(2048, 2048, 1)))).toBe(OK);
    expect(syncedBlocks(path)).toBeLessThanOrEqual(full - 4096);
    expectSame(await driver.read(2048, MIB / 2), new Uint8Array(MIB / 2));
    const before = syncedBlocks(path);
    expect(await driver.status(requests.zero(range(4096, 2048)))).toBe(OK);
    expect(syncedBlocks(path)).toBe(before);
    expectSame(await driver.read(4096, MIB / 2), new Uint8Array(MIB / 2));
    expectSame(await driver.read(6144, 512), pattern(4 * MIB).subarray(3 * MIB, 3 * MIB + 512));
    expect(statSync(path).size).toBe(4 * MIB);
  });

  test('odd ranges are zeroed exactly', async () => {
    const content = pattern(MIB, 4);
    const path = makeImage(content);
    const driver = await open(path, options);
    expect(await driver.status(requests.zero(range(1, 3, 1), range(17, 30)))).toBe(OK);
    content.fill(0, 512, 2048).fill(0, 17 * 512, 47 * 512);
    expectSame(await driver.read(0, MIB / 2), content.subarray(0, MIB / 2));
  });

  test('nothing is left behind', async () => {
    const path = makeImage(pattern(MIB));
    const run = async () => {
      const driver = await MockDriver.open(blk, { blkFile: path, numQueues: 2, ...options });
      const all = [0, 8, 100, 200].flatMap((sector) => [
        requests.write(sector, pattern(1024)),
        requests.read(sector + 1, 4096),
      ]);
      await Promise.all(driver.batch(0, [...all, requests.flush(), requests.zero(range(1, 9))]));
      await driver.close();
    };
    await run();
    const before = resourceCounts();
    for (let round = 0; round < 3; round += 1) await run();
    expect(resourceCounts()).toEqual(before);
  });
});

test.each(ENGINES)(
  'eight queues at once: more reads than places, in one go (%s)',
  async (engine) => {
    const content = pattern(4 * MIB, 6);
    const driver = await open(makeImage(content), { engine, numQueues: 8 });
    const results = Array.from({ length: 8 }, (_, queue) =>
      driver.mock.batch(
        queue,
        Array.from({ length: 60 }, (_, i) => requests.read((i * 131 + queue * 17) % 8000, 512)),
      ),
    );
    for (const [queue, batch] of results.entries()) {
      for (const [i, result] of (await Promise.all(batch)).entries()) {
        const at = ((i * 131 + queue * 17) % 8000) * 512;
        expectSame(dataOf(result), content.subarray(at, at + 512));
      }
    }
  },
);

test('a disk of memory (tmpfs) is served too', async () => {
  const folder = mkdtempSync('/dev/shm/vlo-blk-');
  try {
    writeFileSync(`${folder}/disk.img`, pattern(MIB));
    const driver = await open(`${folder}/disk.img`);
    expectSame(await driver.read(5, 4096), pattern(MIB).subarray(2560, 6656));
    await driver.write(5, pattern(512, 9));
    expectSame(await driver.read(5, 512), pattern(512, 9));
    expect(await driver.status(requests.zero(range(8, 8)))).toBe(OK);
    expectSame(await driver.read(8, 4096), new Uint8Array(4096));
    await driver.mock.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

describe('a file system that lacks an operation', () => {
  /** Makes the engine of a disk refuse the given modes of fallocate. */
  function lacking(path: string, engine: 'auto' | 'threads', modes: readonly number[]): FileDisk {
    let disk: FileDisk | null = null;
    const wake = () => void disk?.poll();
    disk = new FileDisk({
      path,
      readOnly: false,
      direct: false,
      engine,
      wake,
      wrapEngine: (inner, events) => ({
        name: inner.name,
        isBatching: inner.isBatching,
        start(task: EngineTask) {
          const isTransfer = task.kind === 0 || task.kind === 1;
          if (isTransfer || task.kind === 2 || !modes.includes(task.mode)) inner.start(task);
          else
            setImmediate(() => {
              events.onEnd(task, -ERRNO.EOPNOTSUPP!);
              events.wake();
            });
        },
        submit: () => inner.submit(),
        poll: () => inner.poll(),
        close: () => inner.close(),
      }),
    });
    return disk;
  }

  test.each(ENGINES)('zeros are written, a discard is a hint (%s)', async (engine) => {
    const content = pattern(4 * MIB);
    const path = makeImage(content);
    const { punchHole, zeroRange } = FALLOCATE;
    const driver = await openDisk(lacking(path, engine, [punchHole, zeroRange]));
    for (let round = 0; round < 2; round += 1) {
      expect(await driver.status(requests.discard(range(0, 8)))).toBe(OK);
      expect(await driver.status(requests.zero(range(9, 3000), range(4000, 1, 1)))).toBe(OK);
    }
    content.fill(0, 9 * 512, 3009 * 512).fill(0, 4000 * 512, 4001 * 512);
    expectSame(readFileSync(path), content);
  });

  test.each(ENGINES)('without holes a range is zeroed (%s)', async (engine) => {
    const content = pattern(MIB);
    const path = makeImage(content);
    const driver = await openDisk(lacking(path, engine, [FALLOCATE.punchHole]));
    expect(await driver.status(requests.zero(range(0, 8, 1), range(64, 8)))).toBe(OK);
    content.fill(0, 0, 4096).fill(0, 64 * 512, 72 * 512);
    expectSame(readFileSync(path), content);
  });
});
