/** The FUSE disk against qemu-storage-daemon's FUSE export of the same file: servers and client. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { PROJECT } from './programs.mjs';

/** @typedef {import('./programs.mjs').Workbench} Workbench */
/** @typedef {import('./rows.mjs').Side} Side */

const MOUNTED_MS_MAX = 15_000;

/**
 * `vlo up` with one disk: a device process, and a driver with a FUSE file in the HAL's.
 * @type {NonNullable<Side['server']>}
 */
async function startHal(bench, name) {
  const config = bench.path(`${name}.yaml`);
  writeFileSync(config, 'devices:\n  disk0: { type: blk, image: disk.img }\n');
  const run = bench.path(name);
  const command = [process.execPath, join(PROJECT, 'dist/cli/vlo.js'), 'up', config];
  command.push('--run-dir', run);
  const program = bench.start(command, { timeoutMs: 900_000 });
  await program.until(() => /: up: 1 /.test(program.stderr), MOUNTED_MS_MAX);
  return { program, socket: `${run}/disk0/disk`, command: bench.show(command) };
}

const RING_SWITCH = '/sys/module/fuse/parameters/enable_uring';

/**
 * The same over io_uring: the kernel is asked for it when something is mounted, so the machine's
 * switch is on for that moment only.
 * @type {NonNullable<Side['server']>}
 */
async function startHalWithRing(bench, name) {
  if (!existsSync(RING_SWITCH)) throw new Error('this kernel has no FUSE over io_uring');
  const before = readFileSync(RING_SWITCH, 'latin1');
  writeFileSync(RING_SWITCH, 'Y');
  try {
    const server = await startHal(bench, name);
    // The mount's first request, at the latest, has been answered when somebody sees the file.
    await stat(server.socket);
    return server;
  } finally {
    writeFileSync(RING_SWITCH, before);
  }
}

/**
 * qemu-storage-daemon with a FUSE export: one process, no virtio and no second program. Its mount
 * is in a namespace that fio enters.
 * @type {NonNullable<Side['server']>}
 */
async function startFuseExport(bench, name) {
  writeFileSync(bench.path(`${name}.disk`), '');
  const file = 'driver=file,filename=/sock/disk.img,node-name=f0,cache.direct=off,aio=io_uring';
  const command = ['qemu-storage-daemon', '--object', 'iothread,id=io0'];
  command.push('--blockdev', `${file},locking=off`);
  command.push('--blockdev', 'driver=raw,file=f0,node-name=d0');
  const target = `mountpoint=/sock/${name}.disk,writable=on,allow-other=off,iothread=io0`;
  command.push('--export', `type=fuse,id=e0,node-name=d0,${target}`);
  const program = bench.startPeer(command, { timeoutMs: 900_000 });
  await program.until(() => mountNamespaceWith(program.pid, `${name}.disk`), MOUNTED_MS_MAX);
  return { program, socket: `/sock/${name}.disk`, command: bench.show(command) };
}

/** True when the mount is there, as the program itself sees it. */
function mountNamespaceWith(pid, mountPoint) {
  const inside = innermost(pid);
  try {
    return readFileSync(`/proc/${inside}/mountinfo`, 'utf8').includes(`${mountPoint} `);
  } catch {
    return false;
  }
}

/** The process at the end of the line of children: it is in the namespaces, and in the chroot. */
function innermost(pid) {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return children === '' ? pid : innermost(Number(children.split(' ')[0]));
}

/** @type {Side['client']} */
function fio(bench, server, load) {
  const { rw, size, depth, seconds = 3 } = load;
  const isOurs = !server.socket.startsWith('/sock/');
  const file = isOurs ? server.socket.replace(bench.dir, '/sock') : server.socket;
  const command = ['fio', '--name=bench', `--filename=${file}`, `--rw=${rw}`, `--bs=${size}`];
  command.push(`--iodepth=${depth}`, '--ioengine=libaio', '--direct=1');
  command.push('--time_based', `--runtime=${seconds}`, '--output-format=json');
  return {
    command: bench.show(command),
    async rate() {
      const program = isOurs
        ? bench.startPeer(command)
        : bench.startBeside(innermost(server.program.pid), command);
      const output = await program.output();
      const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
      const rate = job.read.iops + job.write.iops;
      if (!(rate > 0) || job.error !== 0) throw program.failure('no rate, or an error');
      return rate;
    },
  };
}

const SIDES = [
  { name: 'ours', server: startHal, client: fio },
  { name: 'qemu-storage-daemon', server: startFuseExport, client: fio },
];

const RING_SIDES = [{ ...SIDES[0], name: 'ours, io_uring', server: startHalWithRing }, SIDES[1]];

const KIB = 1024;
const row = (id, title, load) => ({
  ...{ id, title, unit: 'IOPS', load, sides: SIDES },
  ...{ bar: 1, aim: 1.5 },
});
/** Without a bar: a machine has this only where its owner switched it on. */
const ringRow = (id, title, load) => ({ id, title, unit: 'IOPS', load, sides: RING_SIDES });

/** @type {readonly import('./rows.mjs').Row[]} */
export const FUSE_ROWS = [
  row('8', 'FUSE, 4 KiB random reads, depth 1', { rw: 'randread', size: 4 * KIB, depth: 1 }),
  row('8a', 'FUSE, 4 KiB random writes, depth 1', { rw: 'randwrite', size: 4 * KIB, depth: 1 }),
  row('8b', 'FUSE, 4 KiB random reads, depth 16', { rw: 'randread', size: 4 * KIB, depth: 16 }),
  row('8c', 'FUSE, 4 KiB random writes, depth 16', { rw: 'randwrite', size: 4 * KIB, depth: 16 }),
  ringRow('8d', 'the same reads over io_uring', { rw: 'randread', size: 4 * KIB, depth: 16 }),
  ringRow('8e', 'the same writes over io_uring', { rw: 'randwrite', size: 4 * KIB, depth: 16 }),
  row('9', 'FUSE, 1 MiB reads, depth 4', { rw: 'read', size: KIB * KIB, depth: 4 }),
  row('9a', 'FUSE, 1 MiB writes, depth 4', { rw: 'write', size: KIB * KIB, depth: 4 }),
];
