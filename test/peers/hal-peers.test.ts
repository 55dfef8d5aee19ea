/** Back ends of others under our driver and HAL; and a HAL that is killed. */

import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mustRunScriptInPeers } from './support/fuse.ts';
import { DOWN, FIO, UP, VLO } from './support/hal.ts';
import { describeWithPeers } from './support/peers.ts';
import { Workspace } from './support/process.ts';

/** qemu-storage-daemon's vhost-user-blk on /sock/q.img. */
const qsd = (socket: string): string[] => [
  'qemu-storage-daemon',
  '--blockdev',
  'driver=file,filename=/sock/q.img,node-name=f0,discard=unmap,locking=off',
  '--blockdev',
  'driver=raw,file=f0,node-name=d0,discard=unmap',
  '--export',
  `type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=${socket},writable=on`,
];

const LOAD = `
mkfs.ext4 -q $disk
attach_loop $disk
mkdir /tmp/m && mount $LOOP /tmp/m
verified mixed /tmp/m/mixed --rw=randwrite --bsrange=512-1M --blockalign=512 --size=24M --fsync=16
umount /tmp/m
e2fsck -f -n $LOOP >/sock/check
detach_loop
verified raw $disk --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bsrange=4k-1M \\
  --size=64M
`;

const status = (ws: Workspace) => JSON.parse(readFileSync(ws.path('status.json'), 'utf8')).devices;

describeWithPeers("qemu-storage-daemon's disk behind our driver", () => {
  test('is shown as a file by a HAL, and by vlo attach', async () => {
    const ws = new Workspace();
    ws.sparse('q.img', 64 * 2 ** 20);
    writeFileSync(ws.path('hal.yaml'), 'devices:\n  disk0: { type: blk, backend: /sock/q.sock }\n');
    const out = await mustRunScriptInPeers(
      ws,
      `${qsd('/sock/q.sock').join(' ')} &
QSD=$!
within 10 test -S /sock/q.sock
${UP} ${FIO} ${LOAD}
vlo status --json >/sock/status.json
${DOWN}
serve ${VLO} attach blk --backend /sock/q.sock --name q --run-dir /sock/other 2>/sock/attach.log
within 10 grep -q 'ready at' /sock/attach.log
cmp /sock/other/q/disk /sock/q.img && echo same
kill -KILL $SERVER
wait $SERVER || true
serve ${VLO} attach blk --backend /sock/q.sock --name q --run-dir /sock/other 2>/sock/attach.log
within 10 grep -q 'ready at' /sock/attach.log
grep -o "left by a 'vlo attach'" /sock/attach.log
cmp /sock/other/q/disk /sock/q.img && echo again
kill $SERVER
wait $SERVER
ls /sock/other | wc -l
kill $QSD`,
      { timeoutMs: 120_000 },
    );
    expect(out).toContain("same\nleft by a 'vlo attach'\nagain\n");
    expect(out.trim().split('\n').at(-1)).toBe('0');
    expect(status(ws)[0]).toMatchObject({
      ...{ state: 'ready', errors: 0, restarts: 0 },
      backEnd: { kind: 'backend', socket: '/sock/q.sock', process: null },
    });
  });

  test('is run by the HAL, and started again when it is killed', async () => {
    const ws = new Workspace();
    ws.sparse('q.img', 64 * 2 ** 20);
    const command = JSON.stringify(qsd('{socket}'));
    writeFileSync(ws.path('hal.yaml'), `devices:\n  disk0: { type: blk, command: ${command} }\n`);
    await mustRunScriptInPeers(
      ws,
      `${UP} ${FIO}
verified before $disk --ioengine=psync --rw=randwrite --bs=4k --size=8M
pkill -KILL qemu-storage
verified after $disk --ioengine=psync --rw=randwrite --bs=4k --size=8M --offset=8M
vlo status --json >/sock/status.json
${DOWN}
if pgrep qemu-storage; then exit 1; fi`,
      { timeoutMs: 90_000 },
    );
    expect(status(ws)[0]).toMatchObject({
      ...{ state: 'ready', errors: 0, restarts: 1 },
      backEnd: { kind: 'command' },
    });
  });
});

describeWithPeers('a HAL that is killed', () => {
  test('is cleaned up by the next, and what was written is there', async () => {
    const ws = new Workspace();
    ws.sparse('q.img', 16 * 2 ** 20);
    const command = JSON.stringify(qsd('{socket}'));
    writeFileSync(
      ws.path('hal.yaml'),
      `devices:
  disk0: { type: blk, image: disk.img, size: 16MiB }
  disk1: { type: blk, command: ${command} }
`,
    );
    const out = await mustRunScriptInPeers(
      ws,
      `${UP}
dd if=/dev/urandom of=/sock/source bs=1M count=16 status=none
cp /sock/source $disk
left=$(pgrep qemu-storage)
kill -KILL $SERVER
wait $SERVER || true
within 10 eval "! pgrep -f '^vlo: disk0'"
cat $disk 2>&1 >/dev/null || true
is_mounted $RUN/disk0
${UP}
cmp $disk /sock/source && echo same
[ "$(pgrep qemu-storage)" != "$left" ] && echo replaced
grep -c 'left by a HAL that was killed' /sock/log
grep -c ' fuse.vlo ' /proc/self/mounts
${DOWN}
if pgrep qemu-storage; then exit 1; fi`,
      { timeoutMs: 60_000 },
    );
    expect(out).toMatch(/Transport endpoint is not connected|Software caused connection abort/);
    expect(out).toContain('same\nreplaced\n3\n2\n');
  });
});
