/**
 * The rounds of chaos with processes that are stopped, as if they hung, and go on later: a back end
 * that was replaced meanwhile, and an adapter whose device has changed, or is gone.
 */

import { closeSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc } from '../../../dist/native/libc.js';
import { LOOPBACK_NODE } from '../../../dist/transports/loopback/control.js';
import { VLO_IOCTL } from '../../../dist/transports/loopback/uapi.js';
import { HostileStand } from './chaos-hostile.mjs';
import { driverOf, moment, ORDERLY_MS, of, seconds, WHERE, warm } from './chaos-rounds.mjs';
import { bursts, completed, FAIL_MS, Load, Stand, settle } from './chaos-stand.mjs';
import { PATIENCE, run, waitFor } from './programs.mjs';
import { devicesLeft } from './stand.mjs';

/** Requests that have to go on while an adapter is stopped. */
const GOING_ON = 32;
const GOING_MS = 30_000;
/** An adapter is left alone for this long, and then watched for this long. */
const QUIET_MS = 3000;
const WATCH_MS = 3000;
/** Of that time it may use so much; one that spins uses all of it. */
const BUSY_SHARE = 0.5;
const TICKS_PER_SECOND = 100;
/** An end that was stopped in the middle goes on after this. */
const STOPPED_MS = 12_000;
const PIDFD_OPEN = 434;
const PIDFD_GETFD = 438;

/** Processor time of a process so far, in seconds. */
function processorTime(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const words = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(words[11]) + Number(words[12])) / TICKS_PER_SECOND;
}

/** The adapter lives, and does not keep a processor busy. */
async function mustBeQuiet({ adapter }) {
  await sleep(QUIET_MS * PATIENCE);
  if (adapter.status !== null) {
    throw new Error(`vlo attach ended with ${adapter.status}: ${adapter.stderr.trim()}`);
  }
  const before = processorTime(adapter.pid);
  await sleep(WATCH_MS);
  const used = processorTime(adapter.pid) - before;
  const limit = (WATCH_MS / 1000) * BUSY_SHARE;
  if (used > limit) throw new Error(`the adapter used the processor for ${used} of 3 s`);
  return `${used.toFixed(2)} s of the processor in ${WATCH_MS / 1000} s`;
}

/** Another back end and another adapter take the disk over, with what the first has written. */
async function takeOver(stand) {
  const { image, socket } = stand;
  stand.image = join(stand.place, `disk${Date.now()}.img`);
  stand.socket = join(stand.place, `socket${Date.now()}`);
  // The one that was left behind goes on writing into its own.
  await run(['cp', '--sparse=always', image, stand.image]);
  await stand.serve();
  await stand.attach();
  return () => run(['rm', '-f', image, socket]);
}

/**
 * A back end hangs and is replaced; then it goes on. Nothing that it does reaches the driver.
 * @param {(predecessor: import('./programs.mjs').Program) => void} wake
 */
async function replaceUnder(load, { stand, random }, wake) {
  const predecessor = stand.server;
  let clean;
  try {
    predecessor.kill('SIGSTOP');
    await moment(random, 500);
    await stand.killAdapter();
    clean = await takeOver(stand);
    await moment(random, 300);
    const when = load.isOver ? 'after it' : 'under it';
    wake(predecessor);
    const text = await load.mustPass();
    // It has had its time to disturb.
    const after = await new Load(stand.node).mustPass();
    stand.mustBeWell();
    return `${text}, the first one went on ${when}; then ${after}`;
  } finally {
    predecessor.killAll();
    await predecessor.ended;
    await clean?.();
  }
}

async function replace({ stand, random, loops }) {
  const load = new Load(stand.node, { loops, jobs: bursts(random) });
  await warm(load, random);
  return replaceUnder(load, { stand, random }, (predecessor) => predecessor.kill('SIGCONT'));
}

/** The same with a predecessor that goes on as a hostile one, in all memory that it was given. */
async function replaceHostile({ stand: other, random, loops }, what) {
  const stand = new HostileStand({ ...what, when: 'under load' });
  try {
    await stand.serve();
    await stand.attach();
    const load = new Load(stand.node, { loops: 2 * loops });
    await warm(load, random);
    const hostile = stand.server;
    stand.serve = Stand.prototype.serve;
    const text = await replaceUnder(load, { stand, random }, () => {
      hostile.kill('SIGCONT');
      hostile.kill('SIGUSR2');
    });
    await stand.stopAdapter(ORDERLY_MS);
    await stand.server.stop();
    await settle(other.others + 1);
    return text;
  } finally {
    await stand.discard();
  }
}

/** Requests go past the adapter: it may hang as long as it likes. */
async function mustGoOn(stand) {
  const before = completed(stand.node);
  const hasGoneOn = () => completed(stand.node) >= before + GOING_ON;
  await waitFor(hasGoneOn, 'requests without an adapter', GOING_MS);
}

/** The driver goes while the adapter is stopped; that goes on `when` it is under way, or done. */
async function unbindStopped({ stand, random }, when) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  stand.adapter.kill('SIGSTOP');
  await mustGoOn(stand);
  const driver = driverOf(stand);
  const since = performance.now();
  const unbound = driver.unbind();
  if (when === 'early') {
    await moment(random, 2000);
    stand.adapter.kill('SIGCONT');
  }
  await unbound;
  const text = `${await load.mustFail()}, unbound in ${seconds(since)}`;
  stand.adapter.kill('SIGCONT');
  const quiet = await mustBeQuiet(stand);
  await driver.bind();
  return `${text}, ${quiet}; bound again: ${await new Load(stand.node).mustPass()}`;
}

/** The adapter's own file of the module, for this process. */
function fileOf({ adapter }) {
  const folder = `/proc/${adapter.pid}/fd`;
  const number = readdirSync(folder).find((fd) => {
    return readlinkSync(join(folder, fd)) === LOOPBACK_NODE;
  });
  const process = libc.syscall(PIDFD_OPEN, adapter.pid, 0, 0, 0, 0, 0);
  const fd = libc.syscall(PIDFD_GETFD, process, Number(number), 0, 0, 0, 0);
  closeSync(process);
  if (fd < 0) throw new Error(`no file ${number} of the adapter`);
  return fd;
}

/** The device goes while its adapter is stopped. That one ends and says so when it goes on. */
async function removeBehind({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  const left = devicesLeft().length;
  const fd = fileOf(stand);
  stand.adapter.kill('SIGSTOP');
  try {
    if (libc.ioctl(fd, VLO_IOCTL.REMOVE, 0) < 0) throw new Error('the device was not removed');
    await waitFor(() => devicesLeft().length < left || load.isOver, 'end of the disk', FAIL_MS);
    await load.mustFail();
    await moment(random, 12_000);
  } finally {
    closeSync(fd);
    stand.adapter.kill('SIGCONT');
  }
  const since = performance.now();
  // One that spins does not get there.
  await waitFor(() => stand.adapter.status !== null, 'end of an adapter without device', FAIL_MS);
  const { status, stderr } = stand.adapter;
  if (status === 0 || !stderr.includes('the kernel has removed the device')) {
    throw new Error(`vlo attach ended with ${status}: ${stderr.trim()}`);
  }
  await settle(stand.others);
  stand.mustBeGone();
  await stand.server.stop();
  return `reported as removed after ${seconds(since)}`;
}

/** The adapter is stopped in the middle of an orderly end, and goes on when the device is gone. */
async function stopInEnd({ stand, random }) {
  const load = new Load(stand.node, { end: 'fail' });
  await warm(load, random);
  stand.adapter.kill('SIGTERM');
  await moment(random, 400);
  stand.adapter.kill('SIGSTOP');
  await sleep(STOPPED_MS);
  stand.adapter.kill('SIGCONT');
  const since = performance.now();
  // Another signal would end it at once.
  await waitFor(() => stand.adapter.status !== null, 'end of an adapter', ORDERLY_MS);
  const { status, stderr } = stand.adapter;
  if (status !== 0) throw new Error(`vlo attach: ${status} ${stderr.trim()}`);
  const text = `${await load.mustFail()}, ended in ${seconds(since)}`;
  await settle(stand.others);
  stand.mustBeGone();
  await stand.server.stop();
  return text;
}

const { SPLIT, PACKED, DIRECT_PACKED, QEMU } = WHERE;
const hostile = (ring) => ({
  title: `back end: replaced, then scribble, ${ring}`,
  layout: SPLIT,
  action: (stage) => replaceHostile(stage, { mode: 'scribble', ring }),
});

export const REPLACE_ROUNDS = [
  ...of('back end hangs, is replaced, goes on', [SPLIT, PACKED, DIRECT_PACKED, ...QEMU], replace),
  ...['split', 'packed'].map(hostile),
  ...of('adapter stopped, driver unbound', [SPLIT], (stage) => unbindStopped(stage, 'late')),
  ...of('adapter stopped for a while, driver unbound', [PACKED], (stage) => {
    return unbindStopped(stage, 'early');
  }),
  ...of('device removed behind a stopped adapter', [SPLIT, DIRECT_PACKED], removeBehind, {
    isLast: true,
  }),
  ...of('adapter stopped while it ends', [SPLIT, DIRECT_PACKED], stopInEnd, { isLast: true }),
];
