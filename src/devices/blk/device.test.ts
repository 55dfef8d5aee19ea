/** Requests of the block device, over a disk in memory. */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { ERRNO } from '../../native/index.js';
import { cutAt, cutEvery, cutSize, join, pattern, UNWRITTEN } from '../../testing/index.js';
import {
  DISK_DISCARD,
  DISK_FLUSH,
  DISK_READ,
  DISK_WRITE,
  DISK_ZERO,
  DISK_ZERO_UNMAP,
} from './backend.js';
import { MemoryDisk } from './backend-null.js';
import {
  dataOf,
  expectSame,
  header,
  openDisk,
  openMemory,
  range,
  requests,
  statusOf,
} from './test-utils.js';
import { BLK_F, BLK_S, BLK_T, BlkConfig, SECTOR_SIZE } from './wire.js';

const { OK, IOERR, UNSUPP } = BLK_S;
const LAYOUTS = [
  { name: 'split', packed: false },
  { name: 'packed', packed: true },
];

afterEach(() => vi.restoreAllMocks());

/** Counts the operations of a disk by kind. */
function watchKinds(disk: MemoryDisk): number[] {
  const kinds: number[] = [];
  disk.fail = ({ kind }) => {
    kinds.push(kind);
    return 0;
  };
  return kinds;
}

describe.each(LAYOUTS)('$name ring', ({ packed }) => {
  test('reads and writes', async () => {
    const { disk, driver } = await openMemory({ packed });
    disk.bytes.set(pattern(disk.size));
    expectSame(await driver.read(3, 1024), pattern(disk.size).subarray(1536, 2560));
    await driver.write(127, pattern(512, 2));
    expectSame(disk.bytes.subarray(-512), pattern(512, 2));
    expectSame(await driver.read(0, 0), new Uint8Array(0));
    await driver.write(128, new Uint8Array(0));
  });

  test.each([true, false])(
    'header and status cut anywhere (indirect tables: %s)',
    async (indirect) => {
      const { disk, driver } = await openMemory({ packed, indirect });
      disk.bytes.set(pattern(disk.size));
      for (let at = 1; at < 16; at += 1) {
        const misalignment = at % 4;
        const data = pattern(512, at);
        const write = join(header(BLK_T.OUT, at), data);
        const readable = cutAt(write, at, 16 + at, 300);
        expect(await driver.status({ readable, writable: [1], misalignment })).toBe(OK);
        expectSame(disk.bytes.subarray(at * 512, at * 512 + 512), data);
        const writable = cutSize(513, at, 512 - at, 512);
        const head = cutAt(header(BLK_T.IN, at), at);
        const result = await driver.mock.request(0, { readable: head, writable, misalignment });
        expect([result.length, statusOf(result)]).toEqual([513, OK]);
        expect(dataOf(result)).toEqual(data);
      }
    },
  );

  test('the header in one segment with the data, the status with the data read', async () => {
    const { disk, driver } = await openMemory({ packed });
    const data = pattern(1536, 3);
    const readable = [join(header(BLK_T.OUT, 2), data)];
    expect(await driver.status({ readable, writable: [1], misalignment: 1 })).toBe(OK);
    expectSame(disk.bytes.subarray(1024, 2560), data);
    const whole = { readable: [header(BLK_T.IN, 2)], writable: [1537], misalignment: 3 };
    const result = await driver.mock.request(0, whole);
    expect([dataOf(result), statusOf(result)]).toEqual([data, OK]);
  });

  test('a header byte by byte, and many segments', async () => {
    const { disk, driver } = await openMemory({ packed, queueSize: 64 });
    const data = pattern(2048, 5);
    const readable = [...cutEvery(header(BLK_T.OUT, 4), 1), ...cutEvery(data, 96)];
    expect(await driver.status({ readable, writable: [1], misalignment: 1 })).toBe(OK);
    expectSame(disk.bytes.subarray(2048, 4096), data);
  });

  test('what lies outside, or is no whole number of sectors, is an I/O error', async () => {
    const { disk, driver } = await openMemory({ packed });
    disk.bytes.set(pattern(disk.size));
    const huge = [2 ** 53, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 2n, 2 ** 32];
    for (const sector of [128, 127.0 + 2, ...huge]) {
      expect(await driver.status(requests.read(sector, 512))).toBe(IOERR);
      expect(await driver.status(requests.write(sector, new Uint8Array(512)))).toBe(IOERR);
    }
    expect(await driver.status(requests.read(127, 1024))).toBe(IOERR);
    expect(await driver.status(requests.write(127, new Uint8Array(1024)))).toBe(IOERR);
    for (const size of [1, 511, 513, 1023]) {
      expect(await driver.status(requests.read(0, size))).toBe(IOERR);
      expect(await driver.status(requests.write(0, new Uint8Array(size)))).toBe(IOERR);
    }
    expectSame(disk.bytes, pattern(disk.size));
  });

  test('an I/O error says that no data was read', async () => {
    const { driver } = await openMemory({ packed });
    const result = await driver.mock.request(0, requests.read(1000, 512));
    expect(result.length).toBe(0);
    expect(dataOf(result)).toEqual(new Uint8Array(512).fill(UNWRITTEN));
  });

  test('a header that is cut short is an I/O error', async () => {
    const { driver } = await openMemory({ packed });
    for (let size = 1; size < 16; size += 1) {
      const readable = [header(BLK_T.IN).subarray(0, size)];
      expect(await driver.status({ readable, writable: [512, 1] })).toBe(IOERR);
    }
    expect(await driver.status({ writable: [1] })).toBe(IOERR);
  });

  test('without room for a status the queue stops, and is good after a reset', async () => {
    const { driver } = await openMemory({ packed });
    const result = await driver.mock.request(0, { readable: [header(BLK_T.FLUSH)] });
    expect(result.length).toBe(0);
    const { fault } = await driver.mock.nextFault();
    expect(fault?.reason).toBe('request');
    expect(driver.mock.device.statistics.faults).toBe(1);
    expect(driver.mock.log).toHaveLength(1);
    await driver.mock.restartQueue(0);
    expect(await driver.status(requests.flush())).toBe(OK);
  });

  test('a read-only disk', async () => {
    const { disk, driver } = await openMemory({ packed }, { isReadOnly: true });
    expect(driver.mock.deviceFeatures & BLK_F.RO).toBe(BLK_F.RO);
    expect(driver.mock.deviceFeatures & (BLK_F.DISCARD | BLK_F.WRITE_ZEROES)).toBe(0n);
    expect(await driver.status(requests.write(0, pattern(512)))).toBe(IOERR);
    expect(await driver.status(requests.discard(range(0, 1)))).toBe(IOERR);
    expect(await driver.status(requests.zero(range(0, 1)))).toBe(IOERR);
    expect(await driver.status(requests.flush())).toBe(OK);
    expectSame(await driver.read(0, 512), new Uint8Array(512));
    expect(disk.bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('unknown types are not supported', async () => {
    const { driver } = await openMemory({ packed });
    for (const type of [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 26, 255, 0x80000000, 0xffffffff]) {
      const { buffer } = await driver.mock.request(0, {
        readable: [header(type), pattern(512)],
        writable: [512, 1],
      });
      expect(buffer.at(-1)).toBe(UNSUPP);
    }
  });

  test('GET_ID', async () => {
    const { driver } = await openMemory({ packed });
    const id = new Uint8Array(20);
    id.set(new TextEncoder().encode('serial'));
    for (const size of [0, 1, 6, 19, 20, 21, 64]) {
      const result = await driver.mock.request(0, requests.id(size));
      expect(statusOf(result)).toBe(OK);
      const filled = Math.min(size, 20);
      expect(dataOf(result).subarray(0, filled)).toEqual(id.subarray(0, filled));
      // The used length is what was written in one piece from the start.
      expect(result.length).toBe(size <= 20 ? size + 1 : 20);
    }
  });

  test.each([false, true])('completions out of order (IN_ORDER: %s)', async (inOrder) => {
    const { disk, driver } = await openMemory({ packed, inOrder });
    disk.bytes.set(pattern(disk.size));
    disk.isHeld = true;
    const order: number[] = [];
    const batch = [0, 1, 2, 3].map((sector) => requests.read(sector, 512));
    const results = driver.mock.batch(0, batch).map(async (promise, sector) => {
      const result = await promise;
      order.push(sector);
      expect(dataOf(result)).toEqual(disk.bytes.subarray(sector * 512, sector * 512 + 512));
    });
    while (driver.mock.counters(0).popped < 4) await new Promise(setImmediate);
    disk.release();
    await Promise.all(results);
    expect(order).toEqual(inOrder ? [0, 1, 2, 3] : [3, 2, 1, 0]);
  });

  test('an error of the disk is an answer to its request only', async () => {
    const { disk, driver } = await openMemory({ packed });
    disk.fail = ({ offset }) => (offset === 512 ? -ERRNO.EIO! : 0);
    const batch = [0, 1, 2].map((sector) => requests.read(sector, 512));
    expect(await driver.statuses(batch)).toEqual([OK, IOERR, OK]);
    disk.fail = ({ kind }) => (kind === DISK_FLUSH ? -ERRNO.ENOSPC! : 0);
    expect(await driver.status(requests.flush())).toBe(IOERR);
    expect(await driver.status(requests.write(0, pattern(512)))).toBe(OK);
  });
});

describe('DISCARD and WRITE_ZEROES', () => {
  test('reach the disk segment by segment, in one request', async () => {
    const { disk, driver } = await openMemory();
    const seen: number[][] = [];
    disk.fail = ({ kind, offset, size }) => {
      seen.push([kind, offset, size]);
      return 0;
    };
    expect(await driver.status(requests.discard(range(2, 3), range(10, 1)))).toBe(OK);
    expect(await driver.status(requests.zero(range(4, 2), range(8, 1, 1)))).toBe(OK);
    expect(seen).toEqual([
      [DISK_DISCARD, 1024, 1536],
      [DISK_DISCARD, 5120, 512],
      [DISK_ZERO, 2048, 1024],
      [DISK_ZERO_UNMAP, 4096, 512],
    ]);
  });

  test('zeroes what was asked for and nothing else', async () => {
    const { disk, driver } = await openMemory();
    disk.bytes.fill(0xff);
    expect(await driver.status(requests.zero(range(1, 1), range(3, 2, 1)))).toBe(OK);
    const expected = new Uint8Array(disk.size).fill(0xff).fill(0, 512, 1024).fill(0, 1536, 2560);
    expectSame(disk.bytes, expected);
  });

  test('segments may be cut anywhere', async () => {
    const { disk, driver } = await openMemory();
    const payload = join(range(1, 1), range(3, 2));
    for (const at of [1, 8, 15, 16, 17, 31]) {
      disk.bytes.fill(0xff);
      const readable = [header(BLK_T.WRITE_ZEROES), ...cutAt(payload, at)];
      expect(await driver.status({ readable, writable: [1], misalignment: 1 })).toBe(OK);
      expect(disk.bytes.indexOf(0)).toBe(512);
    }
  });

  test.each(['discard', 'zero'] as const)('limits of %s', async (kind) => {
    const { disk, driver } = await openMemory();
    const kinds = watchKinds(disk);
    const send = (...ranges: Uint8Array[]) => driver.status(requests[kind](...ranges));
    const { maxDiscardSectors, maxDiscardSeg, ...limits } = driver.mock.config(BlkConfig);
    expect(limits.maxWriteZeroesSectors).toBe(maxDiscardSectors);
    const many = (count: number) => Array.from({ length: count }, () => range(0, 1));
    for (const bad of [
      [],
      [range(0, 1).subarray(0, 15)],
      [range(0, 1), range(0, 1).subarray(0, 1)],
      [range(127, 2)],
      [range(128, 1)],
      [range(0, maxDiscardSectors + 1)],
      [range(2n ** 63n, 1)],
      [range(2n ** 64n - 1n, 2)],
      [range(0, 0xffffffff)],
      many(maxDiscardSeg + 1),
      [range(0, 1), range(1000, 1)],
    ]) {
      expect(await send(...bad)).toBe(IOERR);
    }
    expect(kinds).toEqual([]);
    expect(await send(...many(maxDiscardSeg))).toBe(OK);
    expect(kinds).toHaveLength(maxDiscardSeg);
    expect(await send(range(128, 0))).toBe(OK);
    expect(await send(range(0, 0), range(0, 1), range(1, 0))).toBe(OK);
  });

  test('unknown flags, and UNMAP in a discard, are not supported', async () => {
    const { disk, driver } = await openMemory();
    const kinds = watchKinds(disk);
    for (const flags of [1, 2, 3, 0x80000000]) {
      expect(await driver.status(requests.discard(range(0, 1), range(1, 1, flags)))).toBe(UNSUPP);
    }
    for (const flags of [2, 3, 0x80000000, 0xffffffff]) {
      expect(await driver.status(requests.zero(range(0, 1), range(1, 1, flags)))).toBe(UNSUPP);
    }
    expect(kinds).toEqual([]);
  });

  test('one failed segment fails the request, once', async () => {
    const { disk, driver } = await openMemory();
    disk.fail = ({ offset }) => (offset === 512 ? -ERRNO.EIO! : 0);
    const three = [range(0, 1), range(1, 1), range(2, 1)];
    expect(await driver.status(requests.discard(...three))).toBe(IOERR);
    expect(await driver.status(requests.zero(...three.toReversed()))).toBe(IOERR);
    expect(await driver.status(requests.zero(range(2, 1)))).toBe(OK);
  });
});

describe('durability', () => {
  const all =
    BLK_F.SIZE_MAX |
    BLK_F.SEG_MAX |
    BLK_F.BLK_SIZE |
    BLK_F.TOPOLOGY |
    BLK_F.MQ |
    BLK_F.WRITE_ZEROES;
  const at = BlkConfig.offsets.writeback;

  async function opened(features: bigint) {
    const { disk, driver } = await openMemory({ features });
    return { driver, kinds: watchKinds(disk) };
  }

  test('with FLUSH writes are volatile until a flush', async () => {
    const { driver, kinds } = await opened(all | BLK_F.FLUSH);
    await driver.write(0, pattern(512));
    expect(await driver.status(requests.flush())).toBe(OK);
    expect(kinds).toEqual([DISK_WRITE, DISK_FLUSH]);
  });

  test('without FLUSH each write is durable when it completes', async () => {
    const { driver, kinds } = await opened(all);
    await driver.write(0, pattern(512));
    expect(await driver.status(requests.zero(range(1, 1), range(3, 1)))).toBe(OK);
    await driver.read(0, 512);
    expect(kinds).toEqual([DISK_WRITE, DISK_FLUSH, DISK_ZERO, DISK_ZERO, DISK_FLUSH, DISK_READ]);
  });

  test('without FLUSH still after a reset and a new negotiation', async () => {
    const { driver, kinds } = await opened(all);
    await driver.mock.negotiate(all);
    await driver.write(0, pattern(512));
    expect(kinds).toEqual([DISK_WRITE, DISK_FLUSH]);
    await driver.mock.negotiate(all | BLK_F.FLUSH);
    await driver.write(0, pattern(512));
    expect(kinds).toEqual([DISK_WRITE, DISK_FLUSH, DISK_WRITE]);
  });

  test('CONFIG_WCE without FLUSH starts as write-through, and may choose otherwise', async () => {
    const { driver, kinds } = await opened(all | BLK_F.CONFIG_WCE);
    expect(driver.mock.config(BlkConfig).writeback).toBe(0);
    await driver.write(0, pattern(512));
    driver.mock.writeConfig(at, Uint8Array.of(1));
    await driver.write(0, pattern(512));
    expect(kinds).toEqual([DISK_WRITE, DISK_FLUSH, DISK_WRITE]);
  });

  test('CONFIG_WCE turns the cache off and on', async () => {
    const { driver, kinds } = await opened(all | BLK_F.CONFIG_WCE | BLK_F.FLUSH);
    expect(driver.mock.config(BlkConfig).writeback).toBe(1);
    driver.mock.writeConfig(at, Uint8Array.of(0));
    expect(driver.mock.config(BlkConfig).writeback).toBe(0);
    await driver.statuses([0, 1, 2].map((sector) => requests.write(sector, pattern(512))));
    expect(kinds.filter((kind) => kind === DISK_FLUSH)).toHaveLength(3);
    // QEMU writes the whole space back.
    const space = driver.mock.readConfig();
    space[at] = 1;
    driver.mock.writeConfig(0, space);
    kinds.length = 0;
    await driver.write(0, pattern(512));
    expect(kinds).toEqual([DISK_WRITE]);
  });

  test('without CONFIG_WCE the field is read-only', async () => {
    const { driver, kinds } = await opened(all | BLK_F.FLUSH);
    driver.mock.writeConfig(at, Uint8Array.of(0));
    await driver.write(0, pattern(512));
    expect(kinds).toEqual([DISK_WRITE]);
  });

  test('a flush that fails fails the write', async () => {
    const { disk, driver } = await openMemory({ features: all });
    disk.fail = ({ kind }) => (kind === DISK_FLUSH ? -ERRNO.EIO! : 0);
    expect(await driver.status(requests.write(0, pattern(512)))).toBe(IOERR);
  });
});

describe('config space', () => {
  test('its bytes, field by field as the specification lays them out', async () => {
    const { driver } = await openMemory({}, { size: 0x30000, queueCount: 3 });
    const expected = [
      '8001000000000000', // capacity: 384 sectors
      '00000040', // size_max: 1 GiB
      'fe000000', // seg_max: 254
      '00000000', // geometry
      '00020000', // blk_size: 512
      '00000100' + '00000000', // topology: exponent 0, offset 0, minimum 1; optimum not known
      '01' + '00' + '0300', // writeback, unused, num_queues
      '00002000' + '40000000' + '01000000', // discard: 2^21 sectors, 64 segments, alignment 1
      '00002000' + '40000000' + '01' + '000000', // write zeroes; may unmap
    ].join('');
    expect(Buffer.from(driver.mock.readConfig()).toString('hex')).toBe(expected);
    expect(driver.mock.queueCount).toBe(3);
  });

  test('block size and topology of a disk with 4 KiB blocks', async () => {
    const disk = new MemoryDisk(64 * 1024);
    Object.assign(disk, { blockSize: 4096, physicalBlockSize: 16384 });
    const driver = await openDisk(disk);
    expect(driver.mock.config(BlkConfig)).toMatchObject({
      capacity: 128,
      blkSize: 4096,
      physicalBlockExp: 2,
      minIoSize: 4,
      discardSectorAlignment: 32,
    });
    expect(await driver.status(requests.read(0, 512))).toBe(IOERR);
    expect(await driver.status(requests.read(1, 4096))).toBe(IOERR);
    expect(await driver.status(requests.zero(range(8, 4)))).toBe(IOERR);
    expect(await driver.status(requests.read(8, 4096))).toBe(OK);
    expect(await driver.status(requests.zero(range(8, 8)))).toBe(OK);
  });
});

test('several queues serve the same disk', async () => {
  const { driver } = await openMemory({}, { queueCount: 4 });
  for (let index = 0; index < 4; index += 1) {
    expect(await driver.status(requests.write(index, pattern(SECTOR_SIZE, index)), index)).toBe(OK);
  }
  for (let sector = 0; sector < 4; sector += 1) {
    expectSame(await driver.read(sector, SECTOR_SIZE), pattern(SECTOR_SIZE, sector));
  }
});

test('a queue that stops waits for the disk', async () => {
  const { disk, driver } = await openMemory();
  disk.isHeld = true;
  const result = driver.mock.request(0, requests.read(0, 512));
  while (driver.mock.counters(0).popped < 1) await new Promise(setImmediate);
  let isStopped = false;
  const stop = driver.mock.stopQueue(0).then(() => {
    isStopped = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(isStopped).toBe(false);
  disk.release();
  await stop;
  expect(statusOf(await result)).toBe(OK);
});
