/** The rounds of chaos with a back end that turns against the driver; see hostile.mjs. */

import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FAIL_MS, Load, named, Stand, settle } from './chaos-stand.mjs';
import { run, start, waitFor } from './programs.mjs';
import { startVlo } from './spares.mjs';
import { VLO } from './stand.mjs';

const READY_MS = 90_000;
/** A back end that does nothing is left alone for this long. */
const QUIET_MS = 1500;
/**
 * An end takes that long at most where nobody answers: messages and the driver have their times.
 */
const END_MS = 75_000;
/** Ways to be hostile that fail no request. */
const SERVING = ['lengths', 'storm'];
/** Ways that do nothing to a ring. */
const IDLE = ['silent', 'stop'];
/** Ways that complete no request with what the disk does not hold. */
const HARMLESS = ['ids', ...IDLE];

/** A disk whose back end is hostile, or will be. */
export class HostileStand extends Stand {
  constructor({ mode, when, ring }) {
    super({ ring });
    this.mode = mode;
    this.when = when;
    this.hostileWords = ring === 'packed' ? [] : ['--no-packed'];
    if (when === 'at start') this.hostileWords.push('--at-start');
  }

  async serve() {
    this.server = start([
      ...['node', 'lab/jobs/support/hostile.mjs', '--socket', this.socket, '--image', this.image],
      ...['--mode', this.mode, ...this.hostileWords],
    ]);
    await this.server.waitForOutput(/ready/, READY_MS);
  }

  turn() {
    this.server.kill('SIGUSR2');
  }

  mustServe() {
    if (this.server.status === null) return;
    throw new Error(`the hostile back end ended: ${this.server.stderr.trim()}`);
  }
}

/** The adapter gives up a back end that breaks its ring again and again, and says so. */
async function reported(stand) {
  const inTime = await Promise.race([stand.adapter.ended.then(() => true), sleep(END_MS, false)]);
  if (!inTime) throw new Error(`vlo attach reports nothing: ${stand.adapter.stderr.trim()}`);
  const { status, stderr } = stand.adapter;
  if (status === 0 || !stderr.includes('VLO_DEVICE_FAILED')) {
    throw new Error(`vlo attach ended with ${status}: ${stderr.trim()}`);
  }
  return 'reported as broken';
}

/** It neither serves nor breaks anything: requests wait, until the device is taken down. */
async function takenDown(stand, load) {
  await sleep(QUIET_MS);
  load?.mustRun('while nobody serves');
  const since = performance.now();
  await stand.stopAdapter(END_MS);
  return `taken down in ${((performance.now() - since) / 1000).toFixed(1)} s`;
}

/** What has to follow, by the way in which the back end is hostile. */
async function outcome(stand, load) {
  const { mode } = stand;
  if (IDLE.includes(mode)) {
    const text = await takenDown(stand, load);
    return load === null ? text : `${text}, ${await load.mustFail()}`;
  }
  if (SERVING.includes(mode)) {
    // The driver of disks does not look at lengths, and at calls for nothing not for long.
    const text = await load.mustPass();
    return `${text}, ${await takenDown(stand, null)}`;
  }
  const text = await reported(stand);
  if (load === null) return text;
  const { errors, requests } = await load.result(FAIL_MS);
  return `${text}, ${requests} requests, then ${named(errors)}`;
}

/** Turns the back end, with both disks at work. */
async function turnUnderLoad(stand, [load, well], random) {
  await load.warm();
  await sleep(random.next(300));
  for (const one of [load, well]) one.mustRun('before the back end turned');
  stand.turn();
}

/** One hostile disk, and a healthy one that is not to suffer. */
async function hostile({ stand: healthy, random, loops }, what) {
  const stand = new HostileStand(what);
  let load = null;
  let well;
  try {
    await stand.serve();
    if (what.when === 'at start') {
      well = new Load(healthy.node, { loops });
      stand.startAdapter();
      // It may be shown before the driver has read its partitions, and it may be broken by then.
      const isSeen = () => stand.adapter.status !== null || /ready/.test(stand.adapter.stderr);
      await waitFor(isSeen, 'words of vlo attach', READY_MS);
    } else {
      await stand.attach();
      well = new Load(healthy.node, { loops });
      const end = SERVING.includes(what.mode) ? 'pass' : 'fail';
      load = new Load(stand.node, { loops, end });
      await turnUnderLoad(stand, [load, well], random);
    }
    const text = await outcome(stand, load);
    stand.mustServe();
    await settle(healthy.others + 1);
    stand.mustBeGone();
    return `${text}; the other disk: ${await well.mustPass()}`;
  } finally {
    await well?.end();
    await stand.discard();
  }
}

/** A back end turns, and a good one follows: the driver goes on with what it has under way. */
async function followed({ stand: healthy, random, loops }, what) {
  const stand = new HostileStand({ ...what, when: 'under load' });
  const isHarmless = HARMLESS.includes(what.mode);
  let well;
  let load;
  try {
    await stand.serve();
    await stand.attach();
    // Otherwise the adapter comes back to it, and gives it up after five breaks.
    if (random.next(2) === 0) rmSync(stand.socket);
    well = new Load(healthy.node, { loops });
    load = new Load(stand.node, isHarmless ? { loops: 2 * loops } : { end: 'fail' });
    await turnUnderLoad(stand, [load, well], random);
    if (IDLE.includes(what.mode)) await sleep(random.next(QUIET_MS));
    else await waitFor(() => stand.counted('broken') > 0, 'ring that is found broken', END_MS);
    stand.mustServe();
    await stand.killServer();
    await Stand.prototype.serve.call(stand);
    // Requests that the hostile one has completed may have read or written anything.
    const text = isHarmless ? await load.mustPass() : 'nonsense served';
    await load.end();
    const after = await new Load(stand.node, { loops }).mustPass();
    const status = await stand.stopAdapter(END_MS);
    if (status !== 0) throw new Error(`vlo attach: ${status} ${stand.adapter.stderr.trim()}`);
    await settle(healthy.others + 1);
    return `${text}; then ${after}; the other disk: ${await well.mustPass()}`;
  } finally {
    await well?.end();
    await load?.end();
    await stand.discard();
  }
}

/** The state of a disk of a HAL, as `vlo status` has it. */
async function statusOf(words) {
  const { stdout } = await run([...VLO, 'status', '--json', ...words], { status: null });
  return stdout.startsWith('{') ? JSON.parse(stdout).devices[0] : null;
}

/**
 * As a device of hal.yaml whose back end somebody else runs: `vlo status` says that it is broken.
 */
async function inHal({ stand: healthy, random, loops }, what) {
  const stand = new HostileStand(what);
  let well;
  try {
    await stand.serve();
    const file = join(stand.place, 'hal.yaml');
    const device = `type: blk, transport: loopback, backend: ${stand.socket}`;
    writeFileSync(file, `devices:\n  ${stand.name}: { ${device} }\n`);
    const words = ['--run-dir', join(stand.place, 'run')];
    stand.adapter = startVlo(['up', file, ...words]);
    const isReady = async () => (await statusOf(words))?.state === 'ready';
    await waitFor(isReady, 'disk that is ready', READY_MS);
    stand.node = (await statusOf(words)).presentation;
    const load = new Load(stand.node, { end: 'fail' });
    well = new Load(healthy.node, { loops });
    await turnUnderLoad(stand, [load, well], random);
    const isFailed = async () => (await statusOf(words))?.state === 'failed';
    await waitFor(isFailed, 'disk that is reported as broken', END_MS);
    const { note } = await statusOf(words);
    await run([...VLO, 'down', ...words], { timeout: END_MS });
    const status = await stand.adapter.ended;
    const { errors, requests } = await load.result(FAIL_MS);
    const text = `${requests} requests, then ${named(errors)}`;
    await settle(healthy.others + 1);
    const said = `status: ${JSON.stringify(note)}, up ended with ${status}`;
    return `${said}, ${text}; the other disk: ${await well.mustPass()}`;
  } finally {
    await well?.end();
    await stand.discard();
  }
}

const one = (mode, ring = 'split', when = 'under load') => ({
  title: `back end: ${mode}, ${ring}, ${when}`,
  layout: { memory: 'bounce', ring: 'split' },
  action: (stage) => hostile(stage, { mode, ring, when }),
});

const thenGood = (mode, ring) => ({
  title: `back end: ${mode}, ${ring}, then a good one`,
  layout: { memory: 'bounce', ring: 'split' },
  action: (stage) => followed(stage, { mode, ring }),
});

export const HOSTILE_ROUNDS = [
  ...['ids', 'heads', 'chains', 'index', 'scribble', 'silent', 'stop'].map((mode) => {
    return thenGood(mode, 'split');
  }),
  ...['ids', 'heads', 'index', 'scribble', 'silent'].map((mode) => thenGood(mode, 'packed')),
  ...['ids', 'heads', 'chains', 'index', 'scribble', 'lengths', 'storm', 'silent', 'stop'].map(
    (mode) => one(mode),
  ),
  ...['ids', 'heads', 'index', 'scribble', 'silent'].map((mode) => one(mode, 'packed')),
  ...['ids', 'scribble', 'silent'].map((mode) => one(mode, 'split', 'at start')),
  one('scribble', 'packed', 'at start'),
  {
    ...{ title: 'back end: ids, in a HAL', layout: { memory: 'bounce', ring: 'split' } },
    action: (stage) => inHal(stage, { mode: 'ids', ring: 'split', when: 'under load' }),
  },
];
