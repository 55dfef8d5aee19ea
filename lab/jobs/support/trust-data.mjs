/**
 * Checks of `trust`: what of a session's memory reaches applications. A disk in this process claims
 * more, or less, than it has written, in a memory that is full of the data of other requests; an
 * application reads it past the page cache into a buffer that it knows.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, skip } from './checks.mjs';
import { DirectReader, OWN_BYTE } from './direct-reader.mjs';
import { INDIRECT, OwnDevice } from './own-device.mjs';
import { BLK_S, BLK_T, OwnDisk, SECTOR_SIZE } from './own-disk.mjs';
import { run } from './programs.mjs';
import { waitForNoDevices } from './stand.mjs';
import { KERNEL, modprobe } from './system.mjs';

const KIB = 2 ** 10;
const PAGE = 4096;
/** What the device writes, and what other requests have left. */
const NEW = 0x11;
const SECRET = 0xee;
/** Three pages and a sector. */
const SIZE = 25 * SECTOR_SIZE;
const ALL = SIZE + 1;
/** The module's marks in that: 8 bytes in each sector. */
const MARK_BYTES = (SIZE / SECTOR_SIZE) * 8;
const TOO_MUCH = 2 ** 32 - 1;
const SPREAD_REQUESTS = 32;
const SPREAD_BYTES = 128 * KIB;
const SERIAL_BYTES = 20;
const RNG = 4;
/** Bytes that may be anything but the secret: the rest of a mark of the module's. */
const ANY = null;

/** Where each part of a buffer ends, and what is in it. */
const whole = (byte) => [[SIZE, byte]];
const endOfSectors = (sector, from, byte) =>
  Array.from({ length: SIZE / SECTOR_SIZE }, (_, i) => [
    [i * SECTOR_SIZE + from, sector],
    [(i + 1) * SECTOR_SIZE, byte],
  ]).flat();

/**
 * What a disk does with a read. `written`: parts of the buffers that it writes. `claimed`: the used
 * length. `seen`: the application's buffer afterwards; `bySector`: the same where the device has
 * said that it writes whole sectors (null: it would break its word).
 */
const CASES = [
  { name: 'nothing, claims all', written: [], claimed: ALL, seen: whole(0) },
  { name: 'nothing, claims 4 GiB', written: [], claimed: TOO_MUCH, seen: whole(0) },
  { name: 'nothing, claims nothing', written: [], claimed: 0, seen: whole(OWN_BYTE) },
  {
    ...{ name: 'nothing, EIO, claims all', written: [], claimed: ALL, status: BLK_S.IOERR },
    seen: whole(0),
  },
  {
    ...{ name: 'nothing, EIO, claims the status', written: [], claimed: 1, status: BLK_S.IOERR },
    ...{ seen: [[1, 0], ...whole(OWN_BYTE)], bySector: whole(OWN_BYTE) },
  },
  {
    ...{ name: '1000 bytes, claims them', written: [[0, 1000]], claimed: 1000 },
    ...{ seen: [[1000, NEW], ...whole(OWN_BYTE)], bySector: [[512, NEW], ...whole(OWN_BYTE)] },
  },
  {
    ...{ name: '1000 bytes, claims all', written: [[0, 1000]], claimed: ALL },
    seen: [[512, NEW], ...whole(0)],
  },
  {
    ...{ name: '3 sectors, claims them', written: [[0, 1536]], claimed: 1536 },
    seen: [[1536, NEW], ...whole(OWN_BYTE)],
  },
  {
    ...{ name: '3 sectors, claims all', written: [[0, 1536]], claimed: ALL },
    seen: [[1536, NEW], ...whole(0)],
  },
  {
    ...{ name: 'the last sector, claims all', written: [[SIZE - 512, SIZE]], claimed: ALL },
    seen: [[SIZE - 512, 0], ...whole(NEW)],
  },
  {
    ...{ name: 'all, claims nothing', written: [[0, SIZE]], claimed: 0 },
    seen: whole(NEW),
  },
  {
    ...{ name: 'up to the middle of a mark, claims it', written: [[0, 1020]], claimed: 1020 },
    seen: [[1020, NEW], ...whole(OWN_BYTE)],
    bySector: [[1020, NEW], [1024, ANY], ...whole(OWN_BYTE)],
  },
  {
    ...{ name: 'the end of each sector, claims all', claimed: ALL },
    written: Array.from({ length: SIZE / 512 }, (_, i) => [i * 512 + 496, (i + 1) * 512]),
    ...{ seen: endOfSectors(0, 496, NEW), bySector: null },
  },
  {
    ...{ name: 'all', written: [[0, SIZE]], claimed: ALL },
    seen: whole(NEW),
  },
];

/** A read's buffers as one, without copying. */
function writeParts({ data }, parts) {
  let start = 0;
  for (const bytes of data) {
    for (const [from, to] of parts) {
      bytes.fill(NEW, Math.max(from - start, 0), Math.max(to - start, 0));
    }
    start += bytes.length;
  }
}

const countOf = (bytes, byte) => bytes.reduce((sum, found) => sum + (found === byte ? 1 : 0), 0);

/** The application's buffer is as it should be. */
function mustShow(bytes, parts) {
  let start = 0;
  for (const [end, byte] of parts) {
    if (end <= start) continue;
    const at = byte === ANY ? -1 : bytes.subarray(start, end).findIndex((found) => found !== byte);
    if (at >= 0) {
      const secrets = `${countOf(bytes, SECRET)} bytes are of other requests`;
      throw new Error(`byte ${start + at} is ${bytes[start + at]} instead of ${byte}; ${secrets}`);
    }
    start = end;
  }
}

/** Fills the session's memory: first by requests, then what these have left free. */
async function spreadSecret(disk, reader) {
  for (let i = 0; i < SPREAD_REQUESTS; i += 1) {
    await reader.write(SPREAD_BYTES, SECRET, (i % 8) * SPREAD_BYTES);
  }
  const { buffers } = disk.session;
  let pages = 0;
  for (let at = 0; at < buffers.length; at += PAGE) {
    if (buffers[at] === SECRET && buffers[at + PAGE - 1] === SECRET) pages += 1;
  }
  if (pages < SPREAD_BYTES / PAGE) throw new Error(`requests left data in ${pages} pages only`);
  buffers.fill(SECRET);
  return `${pages} of ${buffers.length / PAGE} pages`;
}

/** How a disk is set up. */
const KINDS = {
  bytes: { isSector: false },
  sectors: { isSector: true },
  'bytes, indirect': { isSector: false, features: INDIRECT, ringFeatures: INDIRECT },
};

async function readCase(disk, reader, { written, claimed, status = BLK_S.OK, seen, bySector }) {
  const { isSector } = disk;
  const expected = isSector && bySector !== undefined ? bySector : seen;
  disk.session.buffers.fill(SECRET);
  let before = -1;
  disk.hook = (request) => {
    if (request.type !== BLK_T.IN || request.size !== SIZE) return false;
    before = request.data.reduce((sum, bytes) => sum + countOf(bytes, SECRET), 0);
    writeParts(request, written);
    request.complete({ status, claimed });
    return true;
  };
  const { error, length, bytes } = await reader.read(SIZE);
  disk.hook = () => false;
  if (before < 0) throw new Error('the disk got no read of that size');
  // Sectors are not cleared: what comes back shows whether the module looks at what was written.
  // Marks are random, and may have such bytes too.
  if (isSector !== before > MARK_BYTES) throw new Error(`${before} bytes of others were there`);
  const wanted = status === BLK_S.OK ? null : 'EIO';
  if (error !== wanted) throw new Error(`read: ${error ?? 'no error'}`);
  if (wanted === null && length !== SIZE) throw new Error(`${length} bytes were read`);
  mustShow(bytes, expected);
}

/** A disk of a kind, and an application, for the time of an action. */
export async function withDisk(options, action) {
  const disk = new OwnDisk({ name: 'trusted', ...options });
  let reader;
  try {
    await disk.up();
    reader = await DirectReader.open(disk.node);
    // The driver looks for partitions on its own.
    await reader.read(SECTOR_SIZE);
    return await action(disk, reader);
  } finally {
    // First the disk: a read that still waits ends with it.
    disk.close();
    await reader?.close();
    await waitForNoDevices();
  }
}

async function allCases(options) {
  const failures = [];
  const spread = await withDisk(options, async (disk, reader) => {
    const pages = await spreadSecret(disk, reader);
    for (const item of CASES) {
      if (options.isSector && item.bySector === null) continue;
      try {
        await readCase(disk, reader, item);
      } catch (error) {
        failures.push(`${item.name}: ${error.message}`);
      }
    }
    return pages;
  });
  if (failures.length > 0) throw new Error(failures.join('; '));
  return `${CASES.length} ways; requests had left data in ${spread}`;
}

/** A small buffer, which is copied back as a whole: the serial number. */
async function smallBuffer() {
  await withDisk({ isSector: false }, async (disk, reader) => {
    await spreadSecret(disk, reader);
    for (const [written, claimed] of [
      [3, SERIAL_BYTES + 1],
      [3, TOO_MUCH],
      [0, SERIAL_BYTES + 1],
    ]) {
      disk.hook = (request) => {
        if (request.type !== BLK_T.GET_ID) return false;
        request.data[0].fill('s'.charCodeAt(0), 0, written);
        request.complete({ claimed });
        return true;
      };
      const path = join('/sys/block', disk.node.replace('/dev/', ''), 'serial');
      // In a process of its own: the disk is served in this one.
      const { stdout } = await run(['cat', path]);
      if (stdout !== 's'.repeat(written)) throw new Error(`${written} written: '${stdout}'`);
    }
  });
}

/** A driver is never told of more than there is room for. */
async function lengthOfRng() {
  if (KERNEL.startsWith('5.10')) skip('its virtio_rng crashes at times when its device goes');
  await modprobe('virtio_rng');
  const own = new OwnDevice({ id: RNG, name: 'rng', stopMs: 100 });
  try {
    await own.driven();
    own.start();
    let claims = 0;
    own.serve((request) => {
      for (const bytes of request.writable) bytes.fill(NEW);
      claims += 1;
      request.complete(TOO_MUCH);
    });
    const { stdout } = await run(['sh', '-c', 'head -c 256 /dev/hwrng | od -An -v -tu1']);
    const bytes = stdout.trim().split(/\s+/).map(Number);
    if (bytes.length !== 256 || bytes.some((byte) => byte !== NEW)) throw new Error(stdout);
    const current = readFileSync('/sys/class/misc/hw_random/rng_current', 'utf8').trim();
    return `${claims} claims of 4 GiB to ${current}`;
  } finally {
    own.close();
    await waitForNoDevices();
    await run(['rmmod', 'virtio_rng']);
  }
}

export async function checkData() {
  await modprobe('virtio_blk');
  for (const [name, options] of Object.entries(KINDS)) {
    await check(`data: no bytes of other requests (${name})`, () => allCases(options));
  }
  await check('data: nor in a small buffer', smallBuffer);
  await check('data: a claim of 4 GiB to a driver that trusts lengths', lengthOfRng);
}
