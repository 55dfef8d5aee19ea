/** Images that cannot be served are refused, with what to do about them. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { DeviceProcess } from '../../kit/index.js';
import { openFdCount } from '../../native/index.js';
import { blk } from './index.js';
import { makeFolder, makeImage } from './test-utils.js';

const attempt = (blkFile: string, options: object = {}) =>
  DeviceProcess.open(blk, { blkFile, ...options });

/** Root may open everything: becomes nobody for a while. */
async function withoutPrivileges(run: () => Promise<void>): Promise<void> {
  const isRoot = process.getuid!() === 0;
  if (isRoot) process.seteuid!('nobody');
  try {
    await run();
  } finally {
    if (isRoot) process.seteuid!(0);
  }
}

describe('images that are refused', () => {
  test('a missing one', async () => {
    await expect(attempt('/nowhere/disk.img')).rejects.toMatchObject({
      code: 'VLO_IMAGE_MISSING',
      exitStatus: 1,
      message: expect.stringContaining('truncate -s 64M'),
    });
  });

  test.each([true, false])('a folder (read-only: %s)', async (readOnly) => {
    const folder = join(makeFolder(), 'folder');
    mkdirSync(folder);
    await expect(attempt(folder, { readOnly })).rejects.toMatchObject({ code: 'VLO_IMAGE_TYPE' });
  });

  test.each([true, false])('a pipe (read-only: %s), without waiting for it', async (readOnly) => {
    const path = join(makeFolder(), 'pipe');
    execFileSync('mkfifo', [path]);
    await expect(attempt(path, { readOnly })).rejects.toMatchObject({ code: 'VLO_IMAGE_TYPE' });
  });

  test('a character device', async () => {
    await expect(attempt('/dev/null')).rejects.toMatchObject({ code: 'VLO_IMAGE_TYPE' });
  });

  test.each([
    [0, 512],
    [1, 512],
    [511, 512],
    [513, 1024],
    [65_537, 66_048],
  ])('%i bytes; the message says how to mend it', async (size, mended) => {
    const path = makeImage(new Uint8Array(size));
    await expect(attempt(path)).rejects.toMatchObject({
      code: 'VLO_IMAGE_SIZE',
      exitStatus: 2,
      message: expect.stringContaining(`truncate -s ${mended} '${path}'`),
    });
    expect(statSync(path).size).toBe(size);
  });

  test('one without permission', async () => {
    const path = makeImage(new Uint8Array(512));
    chmodSync(path, 0);
    await withoutPrivileges(() =>
      expect(attempt(path)).rejects.toMatchObject({ code: 'VLO_IMAGE_ACCESS', exitStatus: 1 }),
    );
  });

  test('a read-only file, which may be served read-only', async () => {
    const path = makeImage(new Uint8Array(512));
    chmodSync(path, 0o444);
    await withoutPrivileges(async () => {
      await expect(attempt(path)).rejects.toMatchObject({
        code: 'VLO_IMAGE_ACCESS',
        message: expect.stringContaining('--read-only'),
      });
      await (await attempt(path, { readOnly: true })).close();
    });
  });

  test('no descriptor is left open', async () => {
    const folder = makeFolder();
    writeFileSync(join(folder, 'odd.img'), 'odd');
    const before = openFdCount();
    for (const path of [folder, join(folder, 'odd.img'), '/dev/null', '/nowhere']) {
      await expect(attempt(path)).rejects.toThrow();
      await expect(attempt(path, { readOnly: true })).rejects.toThrow();
    }
    expect(openFdCount()).toBe(before);
  });
});

describe('options', () => {
  const path = '/tmp/unused.img';
  test.each([
    [{}, '--blk-file is required'],
    [{ blkFile: path, numQueues: 0 }, '--num-queues: at least 1 queue is needed'],
    [{ blkFile: path, numQueues: 257 }, '--num-queues: at most 256 queues are possible'],
    [{ blkFile: path, numQueues: 1.5 }, '--num-queues: a whole number is needed'],
    [{ blkFile: path, serial: 'ä'.repeat(11) }, '--serial: at most 20 bytes are possible'],
    [{ blkFile: path, engine: 'steam' }, "--engine: 'auto' or 'threads' is needed"],
    [{ blkFile: path, size: 1 }, "there is no option 'size'"],
  ])('%o is refused', async (options, message) => {
    await expect(DeviceProcess.open(blk, options)).rejects.toMatchObject({
      code: 'VLO_OPTION_INVALID',
      message: `blk: ${message}`,
    });
  });
});
