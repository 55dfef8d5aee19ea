/** FUSE over io_uring: a machine-wide switch, which is on for the moment of the mount only. */

import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { spawnScriptInPeers } from './support/fuse.ts';
import { describeWithPeers } from './support/peers.ts';
import { until, Workspace } from './support/process.ts';

const SWITCH = '/sys/module/fuse/parameters/enable_uring';
const IN_USE = 'FUSE over io_uring is in use';

/** Waits for the mount, and for the machine's switch to be set back; then all kinds of load. */
const SCRIPT = `
vlo() { /run/node /run/project/dist/bin/vlo.js "$@" --run-dir /sock/run; }
serve /run/node /run/project/dist/bin/vlo.js up /sock/hal.yaml --run-dir /sock/run 2>/sock/log
within 20 grep -q 'up: 1 devices' /sock/log
disk=/sock/run/disk0/disk
stat -c %s $disk >/sock/mounted
within 20 test -e /sock/go
load() {
  fio --name=$1 --filename=$disk --verify=crc32c --verify_fatal=1 --size=24M \\
    "\${@:2}" >/sock/$1.fio
}
direct='--ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite'
load direct $direct --bsrange=512-256k --blockalign=512
load psync --ioengine=psync --rw=randwrite --bs=4k
load mmap --ioengine=mmap --rw=randrw --bs=4k
dd if=/sock/random of=$disk bs=1009 seek=77 conv=notrunc status=none
dd if=$disk bs=1009 skip=77 count=100 iflag=fullblock status=none |
  head -c 100003 >/sock/random.back
fallocate --punch-hole --offset 1000 --length 70000 $disk
dd if=$disk bs=500 skip=2 count=140 iflag=fullblock status=none | tr -d '\\0' | wc -c
load kills $direct --bs=4k --loops=40 --verify_backlog=64 &
for i in 1 2 3 4 5; do
  # On a busy machine its successor takes a while to be there.
  timeout 20 bash -c "until pkill -KILL -f '^vlo: disk0'; do sleep 0.1; done"
  sleep 0.6
done
wait $!
vlo status
vlo down
wait $SERVER
`;

describeWithPeers('FUSE over io_uring', () => {
  test('carries every kind of request, and survives kills', async () => {
    const ws = new Workspace();
    // A kernel without it takes the classic way: then that is what is tested here.
    const hasRing = existsSync(SWITCH);
    const before = hasRing ? readFileSync(SWITCH, 'latin1') : '';
    const restore = (): void => {
      if (hasRing) writeFileSync(SWITCH, before);
    };
    onTestFinished(restore);
    const random = randomBytes(100_003);
    writeFileSync(ws.path('random'), random);
    writeFileSync(
      ws.path('hal.yaml'),
      'devices:\n  disk0: { type: blk, image: disk.img, size: 64MiB }\n',
    );
    if (hasRing) writeFileSync(SWITCH, 'Y');
    const script = spawnScriptInPeers(ws, SCRIPT);
    await until(
      'the disk is mounted',
      30_000,
      () => existsSync(ws.path('mounted')) || !script.running,
    );
    // The kernel looks at the switch with each entry of the ring, so all have to be in it.
    if (hasRing) {
      const isInUse = () => readFileSync(ws.path('log'), 'utf8').includes(IN_USE);
      await until('the ring is in use', 30_000, () => !script.running || isInUse());
    }
    restore();
    writeFileSync(ws.path('go'), '');
    const { status, stdout, stderr } = await script.result(90_000);
    const log = readFileSync(ws.path('log'), 'utf8');
    expect(status, `${stdout}\n${stderr}\n${log}`).toBe(0);
    expect(log.includes(IN_USE)).toBe(hasRing);
    expect(readFileSync(ws.path('random.back')).equals(random)).toBe(true);
    const [zeros, , device] = stdout.split('\n');
    expect(zeros).toBe('0');
    // NAME TYPE STATE TRANSPORT own (pid N) QUEUES REQUESTS ERRORS RESTARTS …
    const [, , state, , , , , , requests, errors, restarts] = device.split(/\s+/);
    expect(state).toBe('ready');
    expect(Number(requests)).toBeGreaterThan(10_000);
    expect([errors, restarts]).toEqual(['0', '5']);
    for (const name of ['direct', 'psync', 'mmap', 'kills']) {
      expect(readFileSync(ws.path(`${name}.fio`), 'utf8')).toContain('err= 0');
    }
  });
});
