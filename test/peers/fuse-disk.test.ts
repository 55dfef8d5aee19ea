/** A disk as a FUSE file, used by programs that know nothing of it, as root. */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mustRunScriptInPeers } from './support/fuse.ts';
import { DOWN, FIO, UP } from './support/hal.ts';
import { describeWithPeers } from './support/peers.ts';
import { Workspace } from './support/process.ts';

const DISK = 'devices:\n  disk0: { type: blk, image: disk.img, size: 256MiB }\n';

function workspace(hal = DISK): Workspace {
  const ws = new Workspace();
  writeFileSync(ws.path('hal.yaml'), hal);
  return ws;
}

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

/** Lines that put a file system on the disk, load it, and check it. */
function fileSystem(kind: 'ext4' | 'btrfs', loopOptions: string): string {
  const check = { ext4: 'e2fsck -f -n', btrfs: 'btrfs check' }[kind];
  return `
${UP} ${FIO}
mkfs.${kind} -q $disk
attach_loop ${loopOptions} $disk
mkdir /tmp/m && mount $LOOP /tmp/m
verified mixed /tmp/m/mixed --rw=randwrite --bsrange=512-1M --blockalign=512 --size=48M --fsync=16
verified deep /tmp/m/deep --rw=randwrite --bs=4k --ioengine=libaio --direct=1 --iodepth=16 \\
  --size=24M
verified seq /tmp/m/seq --rw=write --bs=1M --size=32M --end_fsync=1
${kind === 'btrfs' ? "btrfs scrub start -B /tmp/m | grep 'no errors found'" : ''}
sha256sum /tmp/m/{mixed,deep,seq} >/sock/sums
umount /tmp/m
mount -o ro $LOOP /tmp/m
sha256sum --check --quiet /sock/sums
umount /tmp/m
${check} $LOOP >/sock/check 2>&1 || { cat /sock/check >&2; exit 1; }
detach_loop
vlo status --json >/sock/status.json
${DOWN}
${check} /sock/disk.img >/sock/behind 2>&1 || { cat /sock/behind >&2; exit 1; }`;
}

describeWithPeers('a disk as a FUSE file', () => {
  for (const [kind, options] of [
    ['ext4', ''],
    ['ext4', '--direct-io=on'],
    ['btrfs', ''],
    ['btrfs', '--direct-io=on'],
  ] as const) {
    test(`carries ${kind} on a loop device ${options}`, async () => {
      const ws = workspace();
      await mustRunScriptInPeers(ws, fileSystem(kind, options), { timeoutMs: 120_000 });
      const [device] = JSON.parse(readFileSync(ws.path('status.json'), 'utf8')).devices;
      expect(device).toMatchObject({ state: 'ready', errors: 0, restarts: 0, queues: 1 });
      expect(device.bytesWritten).toBeGreaterThan(60 * 2 ** 20);
      expect(readFileSync(ws.path('sums'), 'utf8').split('\n')).toHaveLength(4);
      for (const name of ['check', 'behind']) {
        expect(readFileSync(ws.path(name), 'utf8')).toMatch(/ 15\/\d+ files|no error found/);
      }
    });
  }

  test('is converted to and from by qemu-img, and compared', async () => {
    const ws = workspace();
    const out = await mustRunScriptInPeers(
      ws,
      `${UP}
dd if=/dev/urandom of=/sock/source.raw bs=1M count=200 status=none
truncate -s 256M /sock/source.raw
qemu-img convert -O qcow2 /sock/source.raw /sock/source.qcow2
qemu-img convert -n -O raw /sock/source.qcow2 $disk
qemu-img compare /sock/source.qcow2 $disk -F raw
qemu-img convert -f raw -O qcow2 $disk /sock/back.qcow2
qemu-img compare /sock/back.qcow2 /sock/source.qcow2
${DOWN}`,
      { timeoutMs: 120_000 },
    );
    expect(out.match(/Images are identical/g)).toHaveLength(2);
    // What the device process has put into the image behind it.
    expect(sha256(ws.path('disk.img'))).toBe(sha256(ws.path('source.raw')));
  });

  test('keeps checksums under psync, mmap, libaio and io_uring', async () => {
    const ws = workspace();
    await mustRunScriptInPeers(
      ws,
      `${UP} ${FIO}
verified psync $disk --ioengine=psync --rw=randwrite --bsrange=512-64k --blockalign=512 --size=24M
verified mmap $disk --ioengine=mmap --rw=randrw --bs=4k --size=24M
verified libaio $disk --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=4k --size=24M
verified large $disk --ioengine=libaio --direct=1 --iodepth=8 --rw=write --bs=1M --size=128M
verified uring $disk --ioengine=io_uring --direct=1 --iodepth=16 --rw=randwrite --bs=8k --size=24M
verified jobs $disk --ioengine=psync --rw=randwrite --bs=4k --size=8M --numjobs=4 \\
  --offset_increment=16M --group_reporting
${DOWN}`,
      { timeoutMs: 120_000 },
    );
    for (const name of ['psync', 'mmap', 'libaio', 'large', 'uring', 'jobs']) {
      expect(readFileSync(ws.path(`${name}.fio`), 'utf8'), name).toContain('err= 0');
    }
  });

  test('behaves as a block device does at its edges', async () => {
    const ws = workspace('devices:\n  disk0: { type: blk, image: disk.img, size: 1MiB }\n');
    const out = await mustRunScriptInPeers(
      ws,
      `${UP}
stat -c 'stat %s %a %F' $disk
try() { "$@" 2>&1 | grep -v records || true; }
tr '\\0' 'A' </dev/zero | head -c 1048576 >/sock/model
dd if=/sock/model of=$disk bs=64k status=none
stat -c 'after O_TRUNC %s' $disk
try dd if=/sock/model of=$disk bs=4k seek=256 conv=notrunc
try truncate -s 2M $disk
try dd if=/sock/model of=$disk bs=100 count=1 oflag=direct conv=notrunc
for f in /sock/model $disk; do
  printf 'unaligned bytes' | dd of=$f bs=1 seek=4090 conv=notrunc status=none
  head -c 7000 /dev/zero | tr '\\0' 'B' | dd of=$f bs=7 seek=1001 conv=notrunc status=none
  fallocate --punch-hole --offset 70000 --length 10001 $f
  fallocate --zero-range --offset 131072 --length 65536 $f
  sync $f
done
cmp /sock/model $disk && echo same
for try in touch mkdir rmdir; do $try $RUN/disk0/x 2>&1 || true; done
rm -f $disk 2>&1 || true
ls -A $RUN/disk0 | xargs echo only
chmod 640 $disk && chown 1000:1000 $disk && stat -c 'owner %u:%g %a' $disk
${DOWN}
cmp /sock/model /sock/disk.img && echo 'same behind'`,
    );
    expect(out).toContain('stat 1048576 600 regular file');
    expect(out).toContain('after O_TRUNC 1048576');
    expect(out).toContain('No space left on device');
    expect(out).toMatch(/truncate: .*Invalid argument/);
    expect(out).toMatch(/dd: .*Invalid argument/);
    expect(out).toContain('same\n');
    expect(out).toContain('only disk\n');
    expect(out).toContain('same behind');
    expect(out.match(/Operation not permitted|No such file/g)?.length).toBeGreaterThanOrEqual(4);
    expect(out).toContain('owner 1000:1000 640');
  });

  test('is read-only where that is asked for', async () => {
    const ws = workspace(
      'devices:\n  disk0: { type: blk, image: disk.img, size: 1MiB, read-only: true }\n',
    );
    const out = await mustRunScriptInPeers(
      ws,
      `
dd if=/dev/urandom of=/sock/disk.img bs=1M count=1 status=none
cp /sock/disk.img /tmp/model
${UP}
stat -c 'mode %a' $disk
cmp /tmp/model $disk && echo same
dd if=/dev/zero of=$disk bs=4k count=1 conv=notrunc 2>&1 || true
fallocate --punch-hole --offset 0 --length 4096 $disk 2>&1 || true
${DOWN}
cmp /tmp/model /sock/disk.img && echo 'same behind'`,
    );
    expect(out).toContain('mode 400');
    expect(out).toContain('same\n');
    expect(out.match(/Read-only file system/g)).toHaveLength(2);
    expect(out).toContain('same behind');
  });

  test('an entropy source is a file without an end', async () => {
    const ws = workspace('devices:\n  rng0: { type: rng }\n');
    const out = await mustRunScriptInPeers(
      ws,
      `${UP}
random=$RUN/rng0/random
for i in 1 2; do dd if=$random of=/sock/random$i bs=64k count=16 iflag=fullblock status=none; done
head -c 1 $random | wc -c
bash -c "echo x >$random" 2>&1 || true
${DOWN}`,
    );
    expect(out).toMatch(/^1$/m);
    expect(out).toContain('Permission denied');
    const [first, second] = [1, 2].map((i) => readFileSync(ws.path(`random${i}`)));
    expect([first.length, second.length]).toEqual([2 ** 20, 2 ** 20]);
    expect(first.equals(second)).toBe(false);
    const counts = new Array(256).fill(0);
    for (const byte of first) counts[byte] += 1;
    // 4096 of each on average, with a standard deviation of 64.
    expect(Math.min(...counts)).toBeGreaterThan(4096 - 8 * 64);
    expect(Math.max(...counts)).toBeLessThan(4096 + 8 * 64);
  });
});
