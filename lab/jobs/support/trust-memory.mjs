/** Checks of `trust`: whose memory a session's is, and that RAM is taken back. */

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Mapping, NativeBuffer, PAGE_SIZE } from '../../../dist/native/index.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { check, skip } from './checks.mjs';
import { FixedRegion } from './fixed-region.mjs';
import { OwnDevice } from './own-device.mjs';
import { run, waitFor } from './programs.mjs';
import { folder, makeImage, VLO as PROGRAM, serveBlk, waitForNoDevices } from './stand.mjs';
import { modprobe } from './system.mjs';
import { mustBe, withActor } from './trust-policy.mjs';

const MIB = 2 ** 20;
const NET = 1;
const ALICE = 1000;
const CGROUPS = '/sys/fs/cgroup';
/** A pool that is larger than all else that a small process allocates meanwhile. */
const POOL = 64 * MIB;
/** Room for what else the process allocates. */
const SMALL = 24 * MIB;
const SLACK = 8 * MIB;
const DRIVER_MS = 30_000;

/** Begins a session as soon as the driver has queues: before that the module says ENODATA. */
async function begin(actor, file) {
  let error = null;
  const hasBegun = async () => {
    error = await actor.call(file, 'START');
    return error !== 'ENODATA';
  };
  await waitFor(hasBegun, 'queues of the driver', DRIVER_MS);
  return error;
}

/** RLIMIT_MEMLOCK of an ordinary user. */
async function lockedLimit() {
  const poolSize = 4 * MIB;
  const what = { id: NET, name: 'locked', queues: [8, 8], poolSize };
  const limited = (bytes) => ({
    ...{ uid: ALICE, capabilities: ['net_admin'] },
    prefix: ['prlimit', `--memlock=${bytes}:${bytes}`],
  });
  await modprobe('virtio_net');
  await withActor(limited(poolSize - PAGE_SIZE), async (actor) => {
    const { file, error } = await actor.create(what);
    mustBe('CREATE', error, null);
    mustBe('START beyond the limit', await begin(actor, file), 'ENOMEM');
    mustBe('locked memory', `${actor.locked}`, '0');
  });
  await waitForNoDevices();
  await withActor(limited(2 * poolSize), async (actor) => {
    const { file } = await actor.create({ ...what, name: 'within' });
    for (const session of ['first', 'second']) {
      mustBe(`${session} session`, await begin(actor, file), null);
      mustBe('locked memory', `${actor.locked}`, `${poolSize}`);
    }
    await actor.close(file);
    await waitFor(() => actor.locked === 0, 'end of the locked memory');
  });
  await waitForNoDevices();
  return `${poolSize} bytes are locked memory of the adapter's`;
}

/** A memory cgroup of its own, for the time of an action. */
async function withGroup(action) {
  if (!existsSync(join(CGROUPS, 'cgroup.controllers'))) {
    const { status } = await run(['mount', '-t', 'cgroup2', 'none', CGROUPS], { status: null });
    if (status !== 0) skip('this kernel has no control groups');
  }
  writeFileSync(join(CGROUPS, 'cgroup.subtree_control'), '+memory');
  const path = join(CGROUPS, 'vlo-trust');
  mkdirSync(path);
  const group = {
    path,
    limit: (bytes) => writeFileSync(join(path, 'memory.max'), `${bytes}`),
    current: () => Number(readFileSync(join(path, 'memory.current'), 'utf8')),
    of: (file, name) => {
      const text = readFileSync(join(path, file), 'utf8');
      return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)[1]);
    },
  };
  try {
    return await action(group);
  } finally {
    rmdirSync(path);
  }
}

/** The memory cgroup of the adapter. */
async function cgroup() {
  await modprobe('virtio_net');
  return withGroup(async (group) => {
    const text = await withActor({ cgroup: group.path }, async (actor) => {
      const { file, error } = await actor.create({
        ...{ id: NET, name: 'charged', queues: [8, 8], poolSize: POOL },
      });
      mustBe('CREATE', error, null);
      group.limit(SMALL);
      mustBe('START beyond the limit', await begin(actor, file), 'ENOMEM');
      const killed = group.of('memory.events', 'oom_kill');
      if (killed !== 0) throw new Error(`${killed} processes were killed`);
      group.limit('max');
      const before = group.current();
      mustBe('START', await begin(actor, file), null);
      const charged = group.current() - before;
      const shared = group.of('memory.stat', 'shmem');
      // Linux counts kinds of memory in steps, for each processor.
      if (shared < POOL - MIB || charged < POOL || charged > POOL + SLACK) {
        throw new Error(`${charged} bytes more, ${shared} of shared memory, for a pool of ${POOL}`);
      }
      await actor.close(file);
      await waitFor(() => group.current() < before + SLACK, 'end of the charge');
      return `${charged} bytes for a pool of ${POOL}`;
    });
    await waitForNoDevices();
    return text;
  });
}

/** `vlo attach` says what is wrong, and ends. */
async function attachBeyondLimit() {
  await modprobe('virtio_blk');
  const place = folder('limit');
  const socket = join(place, 'socket');
  const server = await serveBlk('ours', socket, makeImage(join(place, 'disk.img'), MIB));
  const { status, stderr } = await run(
    [
      ...['prlimit', '--memlock=65536:65536'],
      ...['setpriv', '--bounding-set=-ipc_lock', '--inh-caps=-ipc_lock'],
      ...[...PROGRAM, 'attach', 'blk', '--backend', socket, '--transport', 'loopback'],
    ],
    { status: null },
  );
  await server.stop();
  if (status === 0 || !/VLO_TRANSPORT_UNAVAILABLE.*locked memory/.test(stderr)) {
    throw new Error(`vlo attach: ${status} ${stderr.trim()}`);
  }
  await waitForNoDevices();
  return stderr.trim().split('\n').at(-1);
}

/** The physical address of a page of this process. */
function physicalAddress(address) {
  const fd = openSync('/proc/self/pagemap', 'r');
  const entry = Buffer.alloc(8);
  readSync(fd, entry, 0, 8, (address / PAGE_SIZE) * 8);
  closeSync(fd);
  return Number(entry.readBigUInt64LE() & ((1n << 55n) - 1n)) * PAGE_SIZE;
}

/** A page of this process, found in the RAM that a direct device has, until its session ends. */
async function takenBack() {
  await modprobe('virtio_net');
  const page = new NativeBuffer(PAGE_SIZE);
  const what = { id: NET, name: 'ram', queues: [8, 8], flags: VLO.F_DIRECT, stopMs: 100 };
  const own = new OwnDevice(what);
  try {
    page.bytes.fill(0x5a);
    await own.driven();
    own.start();
    const { fd, size } = own.file.must('GET_MEMORY', { index: 1, fd: -1 });
    const ram = Mapping.shared(fd, size);
    const offset = physicalAddress(page.address);
    const see = (mapping) => mapping.bytes(offset, PAGE_SIZE).every((byte) => byte === 0x5a);
    if (!see(ram)) throw new Error(`the page is not at ${offset} of the RAM`);
    // What is pinned could not be taken back.
    mustBe('pinned', new FixedRegion(ram.address + offset, PAGE_SIZE).error, 'EFAULT');
    own.start();
    if (ram.bytes(offset, PAGE_SIZE).some((byte) => byte !== 0)) {
      throw new Error('the mapping of the last session still shows RAM');
    }
    // Through the file of the last session, which a back end may have kept.
    const again = Mapping.shared(fd, size);
    if (again.bytes(offset, PAGE_SIZE).some((byte) => byte !== 0)) {
      throw new Error('the file of the last session still shows RAM');
    }
    closeSync(fd);
    for (const mapping of [ram, again]) mapping.retire();
  } finally {
    own.close();
    page.free();
    await waitForNoDevices();
  }
}

export async function checkMemory() {
  await check('memory: the limit of locked memory', lockedLimit);
  await check('memory: the control group', cgroup);
  await check('memory: vlo attach says that it is too much', attachBeyondLimit);
  await check('direct: RAM is taken back when the session ends', takenBack);
}
