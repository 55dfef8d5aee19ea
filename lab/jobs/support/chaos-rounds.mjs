/** The rounds of chaos with processes that are killed, stopped, and come again; or do not. */

import { closeSync, openSync, readdirSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bursts, FAIL_MS, Load, mountPoint, settle } from './chaos-stand.mjs';
import { run, start } from './programs.mjs';
import { folder } from './stand.mjs';

const SWARM_SIZE = 8;
const SWARM_MS = 100_000;
/** More than fio can do in the time that it has. */
const ENDLESS = 1000;
/** Longest time of an orderly end under load, in ms. */
export const ORDERLY_MS = 45_000;
/** Requests that are large for a disk with a small pool. */
const LARGE = ['--bs=256k', '--size=16M', '--iodepth=48'];
/** How often a back end is killed in a round with bursts, at most. */
const KILLS_MAX = 3;

export const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** A little time, never the same. */
export const moment = (random, ms) => sleep(random.next(ms));

/** Waits until fio is at work, and then a little. */
export async function warm(load, random, disk) {
  await load.warm(disk);
  await moment(random, 300);
  load.mustRun('before anything was done to it');
}

/**
 * Kills and starts again what `parts` names, under load, and nothing is lost.
 * @param {readonly ('server' | 'adapter')[]} parts in this order
 */
async function killAndRestart({ stand, random, loops }, parts, extra = []) {
  const load = new Load(stand.node, { loops, extra });
  await warm(load, random);
  if (parts.includes('server')) await stand.killServer();
  if (parts.includes('adapter')) await stand.killAdapter();
  const since = performance.now();
  await moment(random, 500);
  load.mustRun('when something was killed');
  if (parts.includes('server')) await stand.serve();
  if (parts.includes('adapter')) await stand.attach();
  const pause = seconds(since);
  const text = await load.mustPass();
  stand.mustBeWell();
  return `${text}, ${pause} until all was there again`;
}

/** The same while requests wait for room, in a pool that has room for a few. */
async function killStarved(stage) {
  const { stand } = stage;
  const before = stand.counted('starved');
  const text = await killAndRestart(stage, ['server'], LARGE);
  const count = stand.counted('starved') - before;
  if (count === 0) throw new Error('the pool was never full');
  return `${text}, ${count} times full`;
}

/** The same several times, under a load that comes in bursts of many jobs. */
async function killInBursts({ stand, random, loops }, parts) {
  const load = new Load(stand.node, { loops: Math.ceil(loops / 3), jobs: bursts(random) });
  await warm(load, random);
  const kills = 1 + random.next(KILLS_MAX);
  let done = 0;
  while (done < kills && !(done > 0 && load.isOver)) {
    if (parts.includes('server')) await stand.killServer();
    if (parts.includes('adapter')) await stand.killAdapter();
    done += 1;
    await moment(random, 300);
    if (done === 1) load.mustRun('when something was killed');
    if (parts.includes('server')) await stand.serve();
    if (parts.includes('adapter')) await stand.attach();
    await moment(random, 1500);
  }
  const text = await load.mustPass();
  stand.mustBeWell();
  return `${text}, killed ${done} times`;
}

/** Modules that are in use stay, whatever one tries. */
async function removeModules({ stand, random, loops }) {
  // In use, whether fio is done early or not.
  const fd = openSync(stand.node, 'r');
  try {
    return await tryToRemove({ stand, random, loops });
  } finally {
    closeSync(fd);
  }
}

async function tryToRemove({ stand, random, loops }) {
  const load = new Load(stand.node, { loops });
  await warm(load, random);
  const names = random.shuffle(['virtio_loopback', 'virtio_blk', 'virtio_loopback']);
  for (const name of names) {
    const { status, stderr } = await run(['rmmod', name], { status: null });
    if (status === 0) throw new Error(`${name} was removed under load`);
    if (!/in use|busy|unavailable/i.test(stderr)) throw new Error(`rmmod ${name}: ${stderr}`);
    await moment(random, 200);
  }
  load.mustRun('when modules were to be removed');
  return `${names.length} refusals, ${await load.mustPass()}`;
}

/** An orderly end, under load. */
async function remove({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  const since = performance.now();
  const status = await stand.stopAdapter(ORDERLY_MS);
  if (status !== 0) throw new Error(`vlo attach: ${status} ${stand.adapter.stderr.trim()}`);
  const ended = seconds(since);
  const text = await load.mustFail();
  stand.mustBeGone();
  await stand.server.stop();
  return `${text}, adapter ended in ${ended}`;
}

/** The adapter dies, and nobody comes. */
async function abandon({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  const since = performance.now();
  await stand.killAdapter();
  const text = await load.mustFail();
  await settle(stand.others);
  stand.mustBeGone();
  await stand.server.stop();
  return `${text}, device gone after ${seconds(since)}`;
}

/** The same with a file system on it, that is to be unmounted afterwards. */
async function abandonMounted({ stand, random }) {
  const path = mountPoint(stand);
  await run(['mkfs.ext4', '-q', stand.node]);
  await run(['mount', '-t', 'ext4', stand.node, path]);
  const extra = ['--allow_file_create=1', '--end_fsync=1', '--direct=0', '--fsync=8'];
  const load = new Load(`${path}/file`, { loops: ENDLESS, extra });
  try {
    await warm(load, random, stand.node);
  } catch (error) {
    await run(['umount', path]);
    throw error;
  }
  await stand.killAdapter();
  const text = await load.mustFail();
  const since = performance.now();
  await run(['umount', path], { timeout: FAIL_MS });
  const unmounted = seconds(since);
  await settle(stand.others);
  stand.mustBeGone();
  await stand.server.stop();
  return `${text}, unmounted in ${unmounted}`;
}

/** The back end dies, nobody comes, and the adapter is told to end. */
async function giveUp({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  await stand.killServer();
  await moment(random, 1000);
  load.mustRun('when the back end was killed');
  const since = performance.now();
  await stand.stopAdapter(ORDERLY_MS);
  const ended = seconds(since);
  const text = await load.mustFail();
  stand.mustBeGone();
  return `${text}, adapter ended in ${ended}`;
}

/** Takes the driver from a disk's device, and gives it back. */
export function driverOf(stand) {
  const block = realpathSync(`/sys/block/${stand.node.replace('/dev/', '')}`);
  const device = dirname(dirname(block));
  const driver = '/sys/bus/virtio/drivers/virtio_blk';
  const write = (name) => run(['sh', '-c', `echo ${basename(device)} > ${driver}/${name}`]);
  return {
    unbind: () => write('unbind'),
    async bind() {
      await write('bind');
      stand.node = `/dev/${readdirSync(join(device, 'block'))[0]}`;
    },
  };
}

/** The driver is taken from the device under load, and given back. */
async function unbind({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  const driver = driverOf(stand);
  await driver.unbind();
  const text = await load.mustFail();
  await driver.bind();
  const again = new Load(stand.node);
  return `${text}; bound again: ${await again.mustPass()}`;
}

/** Eight disks come at once and go at once, while another one works. */
async function swarm({ stand, random, loops }, { memory, end }) {
  const load = new Load(stand.node, { loops });
  await warm(load, random);
  const program = start([
    ...['node', 'lab/jobs/support/swarm.mjs', '--folder', folder('swarm'), '--memory', memory],
    ...['--count', `${SWARM_SIZE}`, '--cycles', end === 'killed' ? '1' : '2', '--hold'],
  ]);
  await program.waitForOutput(/holding/, SWARM_MS);
  await moment(random, 200);
  const status = await program.stop(end === 'killed' ? 'SIGKILL' : 'SIGTERM', SWARM_MS);
  if (status !== (end === 'killed' ? 'SIGKILL' : 0)) {
    throw new Error(`swarm: ${status} ${program.stderr.trim()}`);
  }
  await settle(stand.others + 1);
  return `${SWARM_SIZE} devices ${end}; meanwhile ${await load.mustPass()}`;
}

/** Memory and ring layout, all of them. */
const LAYOUTS = ['bounce', 'direct'].flatMap((memory) =>
  ['split', 'packed'].map((ring) => ({ memory, ring })),
);
const [SPLIT, PACKED, , DIRECT_PACKED] = LAYOUTS;
/** Back ends without in-flight tracking, with split rings only. */
const QEMU = ['bounce', 'direct'].map((memory) => ({ memory, ring: 'split', backEnd: 'qemu' }));

/** With a pool that is soon full. */
const SMALL = ['split', 'packed'].map((ring) => ({ memory: 'bounce', ring, pool: '1MiB' }));

export const WHERE = { LAYOUTS, SPLIT, PACKED, DIRECT_PACKED, QEMU };

export const of = (title, layouts, action, more = {}) =>
  layouts.map((layout) => ({ title, layout, action, ...more }));

/**
 * All kinds of rounds. `layout`: of the disk it happens to; `isLast`: the disk is gone afterwards;
 * `takeover`: a disk of its own, with that time.
 */
export const ROUNDS = [
  ...of('back end killed', [...LAYOUTS, ...QEMU], (stage) => killAndRestart(stage, ['server'])),
  ...of('back end killed', SMALL, killStarved),
  ...of('adapter killed', LAYOUTS, (stage) => killAndRestart(stage, ['adapter'])),
  ...of('both killed', LAYOUTS, (stage) => killAndRestart(stage, ['server', 'adapter'])),
  ...of('back end killed in bursts', [...LAYOUTS, ...QEMU], (stage) => {
    return killInBursts(stage, ['server']);
  }),
  ...of('both killed in bursts', [SPLIT, DIRECT_PACKED, ...QEMU], (stage) => {
    return killInBursts(stage, ['server', 'adapter']);
  }),
  ...of('modules not removed', [SPLIT, DIRECT_PACKED], removeModules),
  ...of('driver unbound and bound', [SPLIT, PACKED], unbind),
  ...of('removed in order', LAYOUTS, remove, { isLast: true }),
  ...of('abandoned', LAYOUTS, abandon, { isLast: true, takeover: 2 }),
  ...of('abandoned at once', [SPLIT, DIRECT_PACKED], abandon, { isLast: true, takeover: 0 }),
  ...of('abandoned, mounted', [SPLIT], abandonMounted, { isLast: true, takeover: 2 }),
  ...of('abandoned at once, mounted', [DIRECT_PACKED], abandonMounted, {
    ...{ isLast: true, takeover: 0 },
  }),
  ...of('back end killed, then ended', [SPLIT, DIRECT_PACKED], giveUp, { isLast: true }),
  ...of('many taken down at once', [SPLIT], (stage) => {
    return swarm(stage, { memory: 'bounce', end: 'taken down' });
  }),
  ...of('many killed at once', [PACKED], (stage) => {
    return swarm(stage, { memory: 'direct', end: 'killed' });
  }),
];
