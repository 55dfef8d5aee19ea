/** Our block back end under the Linux kernel's own virtio_blk, in User-Mode Linux. */

import { createHash } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { startBlk } from './support/backend.ts';
import { describeWithPeers } from './support/peers.ts';
import { run, Workspace } from './support/process.ts';
import { runUml } from './support/uml.ts';

const MiB = 1024 * 1024;
const DISK = [{ socket: 'blk.sock', virtioId: 2 }];

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

/** Bytes that the file takes on the host. */
const allocated = (path: string): number => statSync(path).blocks * 512;

/** Runs a script that has to succeed, with no I/O error in the kernel's messages. */
async function uml(ws: Workspace, script: string): Promise<string> {
  const whole = `set -euo pipefail\n${script}\nbusybox dmesg | grep -i 'i/o error' && exit 99; true`;
  const { status, console } = await runUml(ws, DISK, whole);
  expect(status, console).toBe(0);
  return console;
}

async function cleanFileSystem(ws: Workspace, image: string): Promise<void> {
  const fsck = await run('e2fsck', ['-fn', ws.path(image)]);
  expect(fsck.status, fsck.stdout + fsck.stderr).toBe(0);
}

describeWithPeers('virtio_blk in User-Mode Linux', () => {
  test('ext4: make it, copy a tree, check it, and find every file on the host', async () => {
    const ws = new Workspace();
    const image = ws.path(ws.sparse('disk.img', 256 * MiB));
    const backend = await startBlk(ws, { image: 'disk.img' });
    const said = await uml(
      ws,
      `test "$(cat /sys/block/vda/size)" = ${(256 * MiB) / 512}
       mkfs.ext4 -q /dev/vda
       mkdir /mnt/disk; mount -t ext4 /dev/vda /mnt/disk
       cp -r /usr/lib/x86_64-linux-gnu/nbdkit /usr/bin /mnt/disk/
       mkdir /mnt/disk/many; for i in $(seq 300); do echo "file $i" >/mnt/disk/many/$i; done
       umount /mnt/disk
       mount -t ext4 -o ro /dev/vda /mnt/disk
       cd /mnt/disk; find . -type f | sort | xargs -d '\\n' sha256sum >/sock/sums; cd /
       umount /mnt/disk
       e2fsck -fn /dev/vda
       echo "DISK $(sha256sum </dev/vda)"`,
    );
    await cleanFileSystem(ws, 'disk.img');
    expect(/^DISK (\w+)/m.exec(said)?.[1]).toBe(sha256(image));
    // debugfs reads the image without mounting it: the host's view of the same files.
    await run('debugfs', ['-R', `rdump / ${ws.path('')}`, image]);
    const sums = readFileSync(ws.path('sums'), 'utf8').trim().split('\n');
    expect(sums.length).toBeGreaterThan(400);
    for (const line of sums) {
      const [sum, name] = line.split('  ');
      expect(sha256(ws.path(name)), name).toBe(sum);
    }
    await backend.stop();
  });

  test('fstrim and blkdiscard give blocks of the sparse file back', async () => {
    const ws = new Workspace();
    const image = ws.path(ws.sparse('disk.img', 128 * MiB));
    await startBlk(ws, { image: 'disk.img' });
    const mount = 'mkdir -p /mnt/disk; mount -t ext4 /dev/vda /mnt/disk';
    await uml(
      ws,
      `mkfs.ext4 -q /dev/vda; ${mount}
       head -c ${48 * MiB} /dev/urandom >/mnt/disk/big; echo kept >/mnt/disk/small; umount /mnt/disk`,
    );
    const full = allocated(image);
    expect(full).toBeGreaterThan(48 * MiB);
    await uml(ws, `${mount}; rm /mnt/disk/big; sync; fstrim /mnt/disk; umount /mnt/disk`);
    expect(full - allocated(image)).toBeGreaterThan(40 * MiB);
    await cleanFileSystem(ws, 'disk.img');
    await uml(
      ws,
      `${mount}; test "$(cat /mnt/disk/small)" = kept; umount /mnt/disk
       blkdiscard -z -o ${64 * MiB} -l ${4 * MiB} /dev/vda
       cmp -n ${4 * MiB} -i ${64 * MiB}:0 /dev/vda /dev/zero
       blkdiscard /dev/vda`,
    );
    expect(allocated(image)).toBeLessThan(1 * MiB);
  });

  test('a read-only disk cannot be written, and its image stays as it is', async () => {
    const ws = new Workspace();
    const image = ws.path('disk.img');
    writeFileSync(image, Buffer.alloc(8 * MiB, 'virtio'));
    const before = sha256(image);
    await startBlk(ws, { image: 'disk.img', readOnly: true });
    const said = await uml(
      ws,
      `test "$(cat /sys/block/vda/ro)" = 1
       if dd if=/dev/zero of=/dev/vda bs=4096 count=1 oflag=direct 2>/tmp/said; then exit 3; fi
       cat /tmp/said
       if mkfs.ext4 -q -F /dev/vda 2>/dev/null; then exit 4; fi
       echo "DISK $(sha256sum </dev/vda)"`,
    );
    expect(said).toMatch(/not permitted|Read-only|Input\/output/);
    expect(/^DISK (\w+)/m.exec(said)?.[1]).toBe(before);
    expect(sha256(image)).toBe(before);
  });

  test('direct and buffered I/O at many sizes and offsets', async () => {
    const ws = new Workspace();
    writeFileSync(ws.path('disk.img'), Buffer.alloc(32 * MiB, 1));
    await startBlk(ws, { image: 'disk.img' });
    await uml(
      ws,
      `head -c ${32 * MiB} /dev/urandom >/tmp/model
       for bs in 512 1536 4096 61440 65536 1048576 3145728; do
         at=$((RANDOM % 8)); n=$((4194304 / bs)); if [ $n -gt 64 ]; then n=64; fi
         for to in /dev/vda /tmp/model; do
           flag=direct; if [ $to = /tmp/model ]; then flag=; fi
           dd if=/bin/bash of=$to bs=$bs count=1 seek=$at conv=notrunc,sync \\
             \${flag:+oflag=$flag} status=none
           dd if=/tmp/model of=$to bs=$bs count=$n seek=$((at + n)) conv=notrunc \\
             \${flag:+oflag=$flag} status=none || true
         done
       done
       dd if=/tmp/model of=/dev/vda bs=4M conv=notrunc,fsync status=none
       echo 3 >/proc/sys/vm/drop_caches
       cmp /tmp/model /dev/vda
       cp /tmp/model /sock/model`,
    );
    expect(sha256(ws.path('disk.img'))).toBe(sha256(ws.path('model')));
  });
});
