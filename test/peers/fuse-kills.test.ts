/** What serves a FUSE disk is killed under verified load: no error, and no byte goes astray. */

import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mustRunScriptInPeers } from './support/fuse.ts';
import { DOWN, UP } from './support/hal.ts';
import { describeWithPeers } from './support/peers.ts';
import { Workspace } from './support/process.ts';

const KILLS = 100;
const COMMAND_KILLS = 20;
const RESTART = 'restart: { limit: 1000, within: 60s }';

/**
 * Kills the process behind the first device so many times, each time when it is ready again and has
 * worked for a while; writes how long each recovery took, in ms. $1 run directory, $2 how often.
 */
const KILLER = `
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const [runDir, kills] = process.argv.slice(2);
const device = () => JSON.parse(readFileSync(runDir + '/status.json', 'utf8')).devices[0];
async function until(what, check) {
  const end = Date.now() + 20_000;
  while (!check(device())) {
    if (Date.now() > end) throw new Error('not ' + what + ': ' + JSON.stringify(device()));
    await sleep(1);
  }
}
const times = [];
for (let i = 1; i <= Number(kills); i += 1) {
  await sleep(50 + 250 * Math.random());
  const { pid } = device().backEnd.process;
  const start = performance.now();
  process.kill(pid, 'SIGKILL');
  await until('waiting', ({ state }) => state === 'waiting');
  await until('ready', ({ state, restarts }) => state === 'ready' && restarts === i);
  times.push(performance.now() - start);
}
console.log(JSON.stringify(times));
`;

/**
 * A part of the disk is filled, and then written at random and verified until \`quiet\`. That ends
 * fio in order, with its report; \`all_there\` reads the whole part.
 */
const LOAD = `
CHECKED='--verify=crc32c --verify_interval=4k --verify_fatal=1'
load() { # name [option]...
  fio --name=fill --filename=$disk $CHECKED --do_verify=0 --rw=write --bs=64k "\${@:3}" >/sock/fill
  fio --name=$1 --filename=$disk $CHECKED --verify_backlog=128 --rw=randwrite \\
    --time_based --runtime=600 $2 "\${@:3}" >/sock/$1.fio 2>&1 &
}
quiet() { # pid...: fio says by its status that it was asked to end
  kill -INT "$@"
  for pid in "$@"; do wait $pid || [ $? = 128 ]; done
}
all_there() { # name [option]...
  fio --name=$1 --filename=$disk $CHECKED --rw=read --bs=64k "\${@:2}" >/sock/$1.fio ||
    { cat /sock/$1.fio >&2; return 1; }
}
DIRECT='--ioengine=libaio --direct=1 --iodepth=16 --bs=4k'
BUFFERED='--ioengine=psync --bsrange=4k-64k --fsync=32'
FIRST='--size=16M'
SECOND='--offset=32M --size=16M'
`;

/** Kills under load, from a part with direct and one with buffered I/O. */
const killed = (kills: number): string => `
${UP} ${LOAD}
load direct "$DIRECT" $FIRST
direct=$!
load buffered "$BUFFERED" $SECOND
buffered=$!
/run/node /sock/killer.mjs $RUN ${kills} >/sock/times.json
quiet $direct $buffered
vlo status --json >/sock/status.json
all_there first --direct=1 $FIRST
all_there second --direct=1 $SECOND
${DOWN}`;

function workspace(devices: string): Workspace {
  const ws = new Workspace();
  writeFileSync(ws.path('hal.yaml'), `devices:\n${devices}`);
  writeFileSync(ws.path('killer.mjs'), KILLER);
  return ws;
}

function expectNoError(ws: Workspace, kills: number): void {
  const [device] = JSON.parse(readFileSync(ws.path('status.json'), 'utf8')).devices;
  expect(device).toMatchObject({ state: 'ready', errors: 0, restarts: kills });
  for (const name of ['direct', 'buffered', 'first', 'second']) {
    const report = readFileSync(ws.path(`${name}.fio`), 'utf8');
    expect(report).toContain('err= 0');
    expect(report).toMatch(/read: IOPS/);
  }
  const times: number[] = JSON.parse(readFileSync(ws.path('times.json'), 'utf8'));
  const average = times.reduce((sum, ms) => sum + ms, 0) / times.length;
  console.info(
    `${kills} kills, ${device.requests} requests; a recovery took ${average.toFixed(0)} ms on ` +
      `average, ${Math.max(...times).toFixed(0)} ms at most`,
  );
}

describeWithPeers('the process behind a FUSE disk', () => {
  test(`of ours is killed ${KILLS} times under verified load, and nobody notices`, async () => {
    const ws = workspace(`  disk0: { type: blk, image: disk.img, size: 64MiB, ${RESTART} }\n`);
    await mustRunScriptInPeers(ws, killed(KILLS), { timeoutMs: 120_000 });
    expectNoError(ws, KILLS);
  });

  test(`of qemu is killed ${COMMAND_KILLS} times under verified load`, async () => {
    const command = JSON.stringify([
      'qemu-storage-daemon',
      ...['--object', 'iothread,id=io0', '--blockdev'],
      'driver=file,filename=/sock/q.img,node-name=f0,discard=unmap,locking=off',
      ...['--blockdev', 'driver=raw,file=f0,node-name=d0,discard=unmap', '--export'],
      'type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={socket},' +
        'writable=on,iothread=io0',
    ]);
    const ws = workspace(`  disk0: { type: blk, command: ${command}, ${RESTART} }\n`);
    ws.sparse('q.img', 64 * 2 ** 20);
    await mustRunScriptInPeers(ws, killed(COMMAND_KILLS), { timeoutMs: 90_000 });
    expectNoError(ws, COMMAND_KILLS);
  });
});

/** Writes /sock/source to the file $1, block by block until it fails, and says how far it came. */
const WRITER = `
import { openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';

const source = readFileSync('/sock/source');
const fd = openSync(process.argv[2], 'r+');
let at = 0;
try {
  for (; at < source.length; at += 4096) {
    writeSync(fd, source, at, 4096, at);
    if (at === 1000 * 4096) writeFileSync('/sock/started', '');
  }
} catch (error) {
  console.log(error.code);
}
console.log(at);
`;

/** Whatever is there after \`vlo down\` is written, so that nothing is. */
const LEFT = `
grep fuse.vlo /proc/self/mounts || true
pgrep -af '^vlo: ' || true
`;

const TWO = '  disk0: { type: blk, image: disk.img, size: 64MiB }\n  rng0: { type: rng }\n';

describeWithPeers('a HAL that is killed while its disk is written', () => {
  for (const uid of [0, 1000]) {
    test(`as uid ${uid}: all that was acknowledged is there when the next one is up`, async () => {
      const ws = workspace(TWO);
      writeFileSync(ws.path('writer.mjs'), WRITER);
      const out = await mustRunScriptInPeers(
        ws,
        `
dd if=/dev/urandom of=/sock/source bs=1M count=64 status=none
${UP}
/run/node /sock/writer.mjs $disk >/sock/written &
writer=$!
within 20 test -e /sock/started
kill -KILL $SERVER
wait $SERVER || true
wait $writer
cat /sock/written
stat $disk 2>&1 || true
${UP}
cat /sock/log
cmp -n $(tail -n 1 /sock/written) $disk /sock/source && echo kept
dd if=/sock/source of=$disk bs=1M conv=notrunc status=none
cmp $disk /sock/source && echo works
dd if=$RUN/rng0/random bs=4k count=16 iflag=fullblock status=none | wc -c
${DOWN} echo down ${LEFT}`,
        { uid },
      );
      expect(out).toMatch(/^(ECONNABORTED|ENOTCONN)\n\d{7,8}\n/);
      expect(out).toContain('Transport endpoint is not connected');
      for (const name of ['disk0', 'rng0']) {
        expect(out).toContain(`removing the mount '/sock/run/${name}', left by a HAL`);
      }
      expect(out).toMatch(/kept\nworks\n65536\ndown\n$/);
    });
  }

  test('the file system on it recovers', async () => {
    const ws = workspace(TWO);
    const out = await mustRunScriptInPeers(
      ws,
      `${UP}
mkfs.ext4 -q $disk
attach_loop $disk
mkdir /tmp/m && mount $LOOP /tmp/m
seq 100000 >/tmp/m/kept && sync /tmp/m/kept
fio --name=a --filename=/tmp/m/a --rw=randwrite --bs=4k --size=16M --fsync=4 >/sock/a.fio 2>&1 &
fio=$!
grown() { [ $(stat -c %s /tmp/m/a 2>/dev/null || echo 0) -gt 0 ]; }
within 20 grown
sleep 0.2
kill -KILL $SERVER
wait $SERVER || true
wait $fio && echo 'fio has not noticed'
umount /tmp/m
detach_loop
${UP}
e2fsck -f -p $disk >/sock/recovered 2>&1 || [ $? = 1 ]
attach_loop $disk
mount $LOOP /tmp/m
seq 100000 | cmp - /tmp/m/kept && echo kept
umount /tmp/m
detach_loop
${DOWN} echo down ${LEFT}
e2fsck -f -n /sock/disk.img >/sock/check 2>&1 && echo clean`,
    );
    expect(out).toBe('kept\ndown\nclean\n');
    expect(readFileSync(ws.path('a.fio'), 'utf8')).toContain('Input/output error');
    expect(readFileSync(ws.path('recovered'), 'utf8')).toContain('recovering journal');
  });
});
