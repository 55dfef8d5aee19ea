/**
 * Checks of `trust`: what a back end reaches, in its session and after it. The disk is served by this
 * process, so a back end that was left behind is one that keeps its mapping.
 */

import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Mapping, signalEvent } from '../../../dist/native/index.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { check, skip } from './checks.mjs';
import { OWN_BYTE } from './direct-reader.mjs';
import { runFio, startFio } from './fio.mjs';
import { FixedRegion, READ_FIXED } from './fixed-region.mjs';
import { INDIRECT } from './own-device.mjs';
import { BLK_S, BLK_T, SECTOR_SIZE } from './own-disk.mjs';
import { run, waitFor } from './programs.mjs';
import { folder } from './stand.mjs';
import { withDisk } from './trust-data.mjs';

const KIB = 2 ** 10;
const SIZE = 64 * KIB;
/** What the session's own back end writes, and what one writes that is not asked. */
const NEW = 0x11;
const WRONG = 0x66;
/** As long as nothing may happen. */
const QUIET_MS = 300;
const CALLS = 1000;
const COUNTERS = '/sys/kernel/debug/virtio-loopback';

const fillWith = (request, byte) => {
  for (const bytes of request.data) bytes.fill(byte);
};

/** Keeps reads from being answered; those that have come. */
function hold(disk) {
  const held = [];
  disk.hook = (request) => {
    if (request.type !== BLK_T.IN) return false;
    held.push(request);
    return true;
  };
  return held;
}

function mustRead({ error, bytes }, byte = NEW) {
  if (error !== null) throw new Error(`read: ${error}`);
  const at = bytes.findIndex((found) => found !== byte);
  if (at >= 0) throw new Error(`byte ${at} of a read is ${bytes[at]} instead of ${byte}`);
}

/** The reads wait all the time. */
async function mustWait(reads) {
  const first = await Promise.race([...reads, sleep(QUIET_MS, null)]);
  if (first !== null) throw new Error(`a read ended: ${first.error ?? `byte ${first.bytes[0]}`}`);
}

/** What a back end says of two requests that it has, and how many of them that completes. */
const NONSENSE = {
  'an id beyond the ring': { act: ([{ ring }]) => ring.use(ring.size, 1) },
  'an id of 2^32 - 1': { act: ([{ ring }]) => ring.use(2 ** 32 - 1, 1) },
  'an id and 65536': { act: ([{ ring, head }]) => ring.use(head + 65536, 1) },
  'an id that is not outstanding': {
    act: ([{ ring, head }, other]) =>
      ring.use(
        [0, 1, 2].find((id) => id !== head && id !== other.head),
        1,
      ),
  },
  'an index far ahead': {
    act: ([{ ring }]) => ring.skip(ring.size * 4),
  },
  'the same id twice': {
    act: ([first]) => {
      first.complete(SIZE + 1);
      first.complete(SIZE + 1);
    },
    completed: 1,
  },
};

/** A back end that answers nonsense is not heard any more; its requests go to the next one. */
async function nonsense({ act, completed = 0 }) {
  await withDisk({ isSector: false }, async (disk, reader) => {
    disk.pattern = NEW;
    const held = hold(disk);
    const reads = [reader.read(SIZE), reader.read(SIZE, SIZE)];
    await waitFor(() => held.length === 2, 'two reads');
    for (const request of held) {
      fillWith(request, NEW);
      request.status[0] = BLK_S.OK;
    }
    disk.events = 0;
    act(held.map(({ request }) => request));
    const isBroken = () => {
      disk.look();
      return (disk.events & VLO.EVENT_BROKEN) !== 0;
    };
    await waitFor(isBroken, 'word that the ring is broken');
    // Whatever it says now is too late.
    for (const request of held) {
      fillWith(request, WRONG);
      request.complete();
    }
    // The one that was completed before: by its bytes, which of the two.
    const open = [...reads];
    for (let i = 0; i < completed; i += 1) {
      const { index, result } = await Promise.race(
        open.map(async (read, at) => ({ index: at, result: await read })),
      );
      mustRead(result);
      open.splice(index, 1);
    }
    await mustWait(open);
    disk.hook = () => false;
    const { replayed } = disk.start();
    if (replayed !== open.length) throw new Error(`${replayed} requests were placed again`);
    for (const read of open) mustRead(await read);
  });
}

/** Marks of the module's are random bytes: a single one means nothing. */
const RUN_BYTES = 64;
const holds = ({ buffer, byteOffset, length }, byte) =>
  Buffer.from(buffer, byteOffset, length).includes(Buffer.alloc(RUN_BYTES, byte));
const isZero = (bytes) => bytes.every((byte) => byte === 0);

/** A session begins with memory in which nothing is. */
async function emptyMemory() {
  return withDisk({ isSector: true }, async (disk, reader) => {
    disk.pattern = WRONG;
    for (let i = 0; i < 16; i += 1) await reader.read(SIZE, i * SIZE);
    if (isZero(disk.session.buffers)) throw new Error('the requests left nothing');
    disk.pause();
    disk.start();
    if (!isZero(disk.session.buffers)) throw new Error('the new memory is not zero');
    return `${disk.session.size} bytes`;
  });
}

/** Everything that a predecessor can do to its memory. */
function rage({ mapping, rings, size }, call) {
  for (let pass = 0; pass < 3; pass += 1) {
    mapping.bytes(0, size).fill(WRONG);
    for (const ring of rings) {
      for (let head = 0; head < ring.size; head += 1) ring.use(head, SIZE + 1);
    }
    for (let i = 0; i < CALLS; i += 1) signalEvent(call.number);
  }
}

/** A back end keeps memory, file and eventfd of its session, while the next one has a request. */
async function predecessor(isSector) {
  await withDisk({ isSector }, async (disk, reader) => {
    const held = hold(disk);
    const read = reader.read(SIZE);
    await waitFor(() => held.length === 1, 'a read');
    const { fd, size } = disk.file.must('GET_MEMORY', { index: 0, fd: -1 });
    const old = disk.session;
    disk.start();
    await waitFor(() => held.length === 2, 'the read again');
    rage(old, disk.calls[0]);
    const again = Mapping.shared(fd, size);
    closeSync(fd);
    rage({ mapping: again, rings: old.rings, size }, disk.calls[0]);
    again.retire();
    if (holds(disk.session.buffers, WRONG)) throw new Error('it wrote into the new memory');
    await mustWait([read]);
    const [first, second] = held;
    fillWith(first, WRONG);
    fillWith(second, NEW);
    disk.hook = () => false;
    second.complete();
    mustRead(await read);
    disk.look();
    if ((disk.events & VLO.EVENT_BROKEN) !== 0) throw new Error('the new session was broken');
  });
}

/** Buffers that the kernel pins for as long as the back end likes: I/O works, and ends with it. */
async function fixedBuffers() {
  const path = join(folder('fixed'), 'file');
  writeFileSync(path, Buffer.alloc(SIZE, NEW));
  const fd = openSync(path, 'r');
  const regions = [];
  const pin = ({ mapping, size }) => {
    const region = new FixedRegion(mapping.address, size);
    if (region.error !== null) throw new Error(`io_uring does not pin it: ${region.error}`);
    regions.push(region);
    return region;
  };
  /** Has the kernel read the file into the buffers of a request. */
  const fill = (region, session, { data }) => {
    let offset = 0;
    for (const bytes of data) {
      const address = session.mapping.address + bytes.byteOffset;
      const segment = { address, size: bytes.length };
      if (!region.transfer(READ_FIXED, fd, segment, offset)) throw new Error('READ_FIXED');
      offset += bytes.length;
    }
  };
  try {
    return await withDisk({ isSector: true }, async (disk, reader) => {
      const old = { session: disk.session, region: pin(disk.session) };
      const held = hold(disk);
      const read = reader.read(SIZE);
      await waitFor(() => held.length === 1, 'a read');
      fill(old.region, old.session, held[0]);
      held[0].complete();
      mustRead(await read);
      // The memory of the last session is pinned; the next read is the next session's.
      const next = reader.read(SIZE);
      await waitFor(() => held.length === 2, 'another read');
      disk.start();
      await waitFor(() => held.length === 3, 'the read again');
      fill(old.region, old.session, held[1]);
      held[1].complete();
      if (holds(disk.session.buffers, NEW)) throw new Error('pinned memory is used again');
      await mustWait([next]);
      fill(pin(disk.session), disk.session, held[2]);
      held[2].complete();
      mustRead(await next);
      return `${old.session.size} bytes pinned, of two sessions`;
    });
  } finally {
    for (const region of regions) region.close();
    closeSync(fd);
  }
}

/** No buffer, and no table, is on a page of a ring, or in another request's place. */
async function placesOfData(features) {
  const options = { isSector: false, features, ringFeatures: features };
  return withDisk(options, async (disk, reader) => {
    const start = disk.session.buffers.byteOffset;
    const outstanding = new Set();
    let lowest = Infinity;
    let tables = 0;
    disk.hook = (request) => {
      const { readable, writable, table } = request.request;
      tables += table === null ? 0 : 1;
      const parts = [...readable, ...writable, ...(table === null ? [] : [table])].map(
        ({ byteOffset: from, length }) => ({ from, to: from + length }),
      );
      for (const { from, to } of parts) {
        lowest = Math.min(lowest, from);
        for (const other of outstanding) {
          const meets = other.parts.some((part) => part.from < to && from < part.to);
          if (meets) throw new Error('two requests share memory');
        }
      }
      outstanding.add({ request, parts });
      return true;
    };
    // Several at a time, small and large, so that frames and pages are in use. Without indirect
    // tables the ring has room for three of 64 KiB.
    const sizes = [1, 8, 9, 64, 127, 128].map((sectors) => sectors * SECTOR_SIZE);
    for (const size of sizes) {
      const reads = [0, 1, 2].map((place) => reader.read(size, place * 256 * SECTOR_SIZE));
      await waitFor(() => outstanding.size === 3, 'three reads');
      for (const entry of outstanding) entry.request.complete();
      outstanding.clear();
      await Promise.all(reads);
    }
    if (lowest < start) throw new Error(`data at ${lowest}, rings up to ${start}`);
    if (tables > 0 !== (features !== 0n)) throw new Error(`${tables} indirect tables`);
    return `rings up to ${start}, data from ${lowest} on, ${tables} tables`;
  });
}

function counterOf(name, counter) {
  const path = join(COUNTERS, name);
  if (!existsSync(path)) skip('this kernel has no debugfs');
  return Number(new RegExp(`${counter} (\\d+)`).exec(readFileSync(path, 'utf8'))[1]);
}

/** More data than the memory holds: requests wait for room, and none fails. */
async function fullPool() {
  if (!existsSync(COUNTERS)) {
    await run(['mount', '-t', 'debugfs', 'debugfs', '/sys/kernel/debug'], { status: null });
  }
  const options = { features: INDIRECT, ringFeatures: INDIRECT, poolSize: VLO.POOL_SIZE_MIN };
  return withDisk(options, async (disk) => {
    disk.pattern = NEW;
    // Two that lie side by side would become one, for which the memory is too small.
    const queue = join('/sys/block', basename(disk.node), 'queue');
    writeFileSync(join(queue, 'max_sectors_kb'), '200');
    const { requests } = await runFio({
      ...{ name: 'full', filename: disk.node, rw: 'randread', bs: '200k', iodepth: 16 },
      ...{ ioengine: 'libaio', io_size: '16m', numjobs: 2 },
    });
    const starved = counterOf(disk.what.name, 'starved');
    if (starved === 0) throw new Error('the memory was never full');
    return `${requests} requests, ${starved} times full`;
  });
}

/** How long a dying back end waits for a request, and for those that come with it. */
const DYING_MS = 200;
const BURST_MS = 5;

/** A disk in memory, served by sessions that are lost with all that they have taken. */
class LossyDisk {
  lost = 0;

  constructor(disk, sectors) {
    this.disk = disk;
    this.bytes = new Uint8Array(sectors * SECTOR_SIZE);
    disk.hook = (request) => this.serve(request);
  }

  serve(request) {
    const { type, sector } = request;
    // The back end dies before it has dealt with this one.
    if (request.request.ring.session !== this.disk.session) return true;
    if (this.isDying) {
      this.lost += 1;
      return true;
    }
    let at = sector * SECTOR_SIZE;
    if (type === BLK_T.IN) {
      for (const bytes of request.data) {
        bytes.set(this.bytes.subarray(at, at + bytes.length));
        at += bytes.length;
      }
    } else if (type === BLK_T.OUT) {
      this.bytes.set(request.request.bytes.subarray(16), at);
    }
    request.complete();
    return true;
  }

  /** The back end takes requests, and answers none of them; then comes the next one. */
  async die(flags) {
    const before = this.lost;
    this.isDying = true;
    for (let ms = 0; ms < DYING_MS && this.lost === before; ms += 1) await sleep(1);
    await sleep(BURST_MS);
    this.isDying = false;
    return this.disk.start({ flags });
  }
}

const BURST_SECTORS = 32768;
const DEATHS = 20;
const DEATHS_MIN = 3;
const BETWEEN_DEATHS_MS = 60;
const FIO_BURSTS = {
  ...{ name: 'bursts', rw: 'randwrite', bsrange: '4k-64k', size: '2m', offset_increment: '2m' },
  ...{ numjobs: 6, iodepth: 16, ioengine: 'libaio', thinktime: 5000, thinktime_blocks: 24 },
  loops: 3,
};

const FIO_FAILING = { continue_on_error: 'io', time_based: 1, runtime: 10 };

/** Back ends die under bursts of many jobs. With VLO_S_FAIL requests fail; the disk stays. */
async function bursts(flags) {
  const options = { sectors: BURST_SECTORS, features: INDIRECT, ringFeatures: INDIRECT };
  return withDisk(options, async (disk, reader) => {
    const lossy = new LossyDisk(disk, BURST_SECTORS);
    const isFailing = (flags & VLO.S_FAIL) !== 0;
    const words = isFailing ? FIO_FAILING : { verify: 'crc32c' };
    const fio = startFio({ ...FIO_BURSTS, filename: disk.node, ...words });
    let [replayed, failed, deaths] = [0, 0, 0];
    while (!fio.isOver && deaths < DEATHS) {
      await sleep(BETWEEN_DEATHS_MS);
      const answer = await lossy.die(flags);
      replayed += answer.replayed;
      failed += answer.failed;
      deaths += 1;
    }
    const { status, errors, requests, text } = await fio.result();
    disk.look();
    if ((disk.events & VLO.EVENT_BROKEN) !== 0) throw new Error('a session was broken');
    const isGood = errors.every((name) => name === 'ok' || (isFailing && name === 'EIO'));
    if (!isGood || (!isFailing && status !== 0)) {
      throw new Error(`fio: ${status}, ${errors.join(', ')} ${text.trim().split('\n').at(-1)}`);
    }
    if (lossy.lost === 0 || (isFailing ? failed : replayed) === 0) {
      throw new Error('no back end died with requests');
    }
    if (deaths < DEATHS_MIN) {
      throw new Error(`fio ended after ${deaths} deaths`);
    }
    const after = await reader.read(SIZE);
    if (after.error !== null || after.bytes.every((byte) => byte === OWN_BYTE)) {
      throw new Error(`the disk is lost: ${after.error}`);
    }
    return `${deaths} deaths, ${requests} requests, ${replayed} placed again, ${failed} failed`;
  });
}

export async function checkSession() {
  await check('session: its memory is zero', emptyMemory);
  await check('session: rings and data share no page', () => placesOfData(0n));
  await check('session: nor with indirect tables', () => placesOfData(INDIRECT));
  for (const [name, kind] of Object.entries(NONSENSE)) {
    await check(`session: a back end that completes ${name}`, () => nonsense(kind));
  }
  await check('session: a predecessor reaches nothing (bytes)', () => predecessor(false));
  await check('session: a predecessor reaches nothing (sectors)', () => predecessor(true));
  await check('session: memory pinned by io_uring', fixedBuffers);
  await check('session: a full pool fails no request', fullPool);
  await check('session: back ends die under bursts', () => bursts(0));
  await check('session: and their requests fail', () => bursts(VLO.S_FAIL));
}
