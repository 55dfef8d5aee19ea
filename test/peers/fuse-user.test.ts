/** The same as an ordinary user, through fusermount3; and where FUSE cannot be used at all. */

import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mustRunScriptInPeers } from './support/fuse.ts';
import { DOWN, FIO, UP, VLO } from './support/hal.ts';
import { describeWithPeers } from './support/peers.ts';
import { Workspace } from './support/process.ts';

const HAL = `
devices:
  disk0: { type: blk, image: disk.img, size: 64MiB }
  rng0: { type: rng }
`;

function workspace(): Workspace {
  const ws = new Workspace();
  writeFileSync(ws.path('hal.yaml'), HAL);
  return ws;
}

/** Lines with a HAL in the run directory of a user, which is in $RUN; then what is left. */
const inDefaultDirectory = (lines: string): string => `
export XDG_RUNTIME_DIR=/sock/xdg
mkdir -m 700 $XDG_RUNTIME_DIR
RUN=$XDG_RUNTIME_DIR/vlo
vlo() { ${VLO} "$@"; }
serve ${VLO} up /sock/hal.yaml 2>/sock/log
within 20 grep -q ': up: ' /sock/log || { cat /sock/log >&2; exit 1; }
${lines}
vlo down
wait $SERVER
echo down
pgrep -af '^vlo: ' || true
grep fuse.vlo /proc/self/mounts || true
ls -A $RUN`;

describeWithPeers('a HAL of an ordinary user', () => {
  test('shows a disk through fusermount3, and leaves nothing', async () => {
    const ws = workspace();
    const out = await mustRunScriptInPeers(
      ws,
      `${UP} ${FIO}
id -u
grep -o 'fuse.vlo .*user_id=[0-9]*' /proc/self/mounts | head -n 1
verified psync $disk --ioengine=psync --rw=randwrite --bsrange=512-64k --blockalign=512 --size=16M
verified mmap $disk --ioengine=mmap --rw=randrw --bs=4k --size=16M
verified libaio $disk --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=4k --size=16M
dd if=/dev/urandom of=/sock/source.raw bs=1M count=64 status=none
qemu-img convert -n -O raw /sock/source.raw $disk
qemu-img compare -f raw -F raw /sock/source.raw $disk
dd if=$RUN/rng0/random bs=4k count=16 iflag=fullblock status=none | wc -c
pkill -KILL -f '^vlo: disk0'
dd if=$disk bs=1M iflag=direct status=none | cmp - /sock/source.raw && echo same
vlo status --json >/sock/status.json
${DOWN}`,
      { uid: 1000, timeoutMs: 90_000 },
    );
    expect(out).toMatch(/^1000$/m);
    expect(out).toContain('user_id=1000');
    expect(out).toContain('Images are identical');
    expect(out).toMatch(/^65536$/m);
    expect(out).toContain('same');
    const { devices } = JSON.parse(readFileSync(ws.path('status.json'), 'utf8'));
    expect(devices).toMatchObject([
      { name: 'disk0', state: 'ready', errors: 0, restarts: 1 },
      { name: 'rng0', state: 'ready', errors: 0, restarts: 0 },
    ]);
  });

  test('goes without FUSE: it says why, and the named pipe still gives bytes', async () => {
    const ws = workspace();
    const out = await mustRunScriptInPeers(
      ws,
      `
# As a user whom nobody lets open /dev/fuse.
mkdir -p /sock/run && chmod 600 /dev/fuse 2>/dev/null || true
${UP}
dd if=$RUN/rng0/random bs=4k count=16 iflag=fullblock status=none | wc -c
stat -c %F $RUN/rng0/random
ls $RUN/disk0 | wc -l
vlo status --json >/sock/status.json
${DOWN}`.replaceAll(VLO, `env PATH=/nowhere ${VLO}`),
      { uid: 1000 },
    );
    expect(out).toMatch(/^65536\nfifo\n0$/m);
    const { devices } = JSON.parse(readFileSync(ws.path('status.json'), 'utf8'));
    expect(devices[0]).toMatchObject({ name: 'disk0', state: 'ready', presentation: null });
    expect(devices[0].note).toMatch(/no FUSE file: fusermount3 is not installed/);
    expect(devices[1]).toMatchObject({ name: 'rng0', presentation: '/sock/run/rng0/random' });
  });

  test('has its run directory in XDG_RUNTIME_DIR', async () => {
    const ws = workspace();
    const script = inDefaultDirectory(`
dd if=/dev/urandom of=/sock/source bs=1M count=64 status=none
dd if=/sock/source of=$RUN/disk0/disk bs=1M oflag=direct conv=notrunc status=none
cmp $RUN/disk0/disk /sock/source && echo same
head -c 100000 $RUN/rng0/random | wc -c
grep -c fuse.vlo /proc/self/mounts`);
    const out = await mustRunScriptInPeers(ws, `${script}\ncmp /sock/source /sock/disk.img`, {
      uid: 1000,
    });
    expect(out).toBe('same\n100000\n2\ndown\nlock\n');
    expect(readFileSync(ws.path('log'), 'utf8')).toContain('disk0: blk ready at /sock/xdg/vlo/');
  });

  test('who may not open /dev/fuse has the socket of the disk, and a named pipe', async () => {
    const ws = workspace();
    const script = inDefaultDirectory(`
dd if=$RUN/rng0/random bs=4k count=16 iflag=fullblock status=none | wc -c
stat -c %F $RUN/rng0/random
ls -A $RUN/disk0
vlo status
image=driver=virtio-blk-vhost-user,path=$RUN/disk0.sock,cache.direct=on
disk() { timeout 20 qemu-io --image-opts $image "$@" >>/sock/qemu-io 2>&1; }
disk -c 'write -P 0x5a 4k 2M' -c 'flush'
[[ $(vlo status) =~ disk0[^\\(]*\\(pid\\ ([0-9]+)\\) ]]
kill -KILL \${BASH_REMATCH[1]}
disk -c 'read -P 0x5a 4k 2M' -c 'read -P 0 0 4k'
vlo status --json >/sock/status.json
grep fuse.vlo /proc/self/mounts || true`);
    writeFileSync(ws.path('user.sh'), script);
    const out = await mustRunScriptInPeers(
      ws,
      `
mknod -m 600 /run/fuse c 10 229 && mount --bind /run/fuse /dev/fuse
chown -R 1000:1000 /sock
export -f within serve
setpriv --reuid 1000 --regid 1000 --clear-groups bash -eu /sock/user.sh`,
    );
    const note = /no FUSE file: fusermount3 could not mount on .* \/dev\/fuse: Permission denied/;
    expect(out).toMatch(/^65536\nfifo\nNAME /);
    expect(out).toMatch(note);
    expect(out).toMatch(/\ndown\nlock\n$/);
    expect(readFileSync(ws.path('log'), 'utf8')).toMatch(note);
    expect(readFileSync(ws.path('qemu-io'), 'utf8')).not.toMatch(/fail|error/i);
    const { devices } = JSON.parse(readFileSync(ws.path('status.json'), 'utf8'));
    expect(devices).toMatchObject([
      { name: 'disk0', presentation: null, restarts: 1, errors: 0 },
      { name: 'rng0', presentation: '/sock/xdg/vlo/rng0/random', state: 'ready' },
    ]);
    for (const device of devices) expect(device.note).toMatch(note);
    const image = readFileSync(ws.path('disk.img'));
    expect(image.subarray(4096, 4096 + 2 ** 21).every((byte) => byte === 0x5a)).toBe(true);
  });
});
