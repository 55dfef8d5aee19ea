/**
 * Suspends the guest while devices are in use: the kernel suspends in time, and after that clients
 * go on without an error. Hibernation is refused as long as a device is there.
 *
 * Arguments: names of loads (default: all), `short` for one round of each cycle, NAME=VALUE for a
 * parameter of the module.
 */

import { check, fact, note } from './support/checks.mjs';
import { run, waitFor } from './support/programs.mjs';
import { waitForNoDevices } from './support/stand.mjs';
import { cycles, enter, powerFacts, prepareSuspend, suspend } from './support/suspend-cycle.mjs';
import { LOADS } from './support/suspend-loads.mjs';
import { insertModule, removeModule } from './support/system.mjs';

const ROUNDS = 3;
/** What was under way goes on after that. */
const GO_ON_MS = 20_000;
const OPEN = { timeout: 240_000 };

function checkProcesses(load) {
  for (const { command, status, stderr } of load.processes()) {
    if (status !== null) throw new Error(`${command.join(' ')} ended with ${status}: ${stderr}`);
  }
}

/** Each load does something more, and nothing has failed. */
async function goOn(loads) {
  const before = loads.map((load) => load.count());
  await waitFor(
    () => {
      for (const load of loads) load.check();
      return loads.every((load, index) => load.count() > before[index] + 1);
    },
    'work of all clients',
    GO_ON_MS,
  );
  for (const load of loads) checkProcesses(load);
}

async function cycle(loads, one, rounds) {
  const times = [];
  for (let round = 0; round < rounds; round += 1) {
    await goOn(loads);
    times.push(await suspend(one));
    await goOn(loads);
  }
  return `${times.map((seconds) => seconds.toFixed(1)).join(', ')} s`;
}

/**
 * Cycles under some loads.
 * @param {string} title
 * @param {readonly string[]} names
 * @param {readonly import('./support/suspend-cycle.mjs').Cycle[]} ones
 */
async function underLoad(title, names, ones, rounds) {
  const loads = names.map((name) => LOADS[name](names.length === 1));
  const opened = [];
  const isOpen = await check(
    `${title}: in use`,
    async () => {
      const nodes = [];
      for (const load of loads) {
        nodes.push(await load.open());
        opened.push(load);
      }
      await goOn(loads);
      return nodes.join(', ');
    },
    OPEN,
  );
  if (!isOpen || opened.length < loads.length) return;
  for (const one of ones) {
    await check(`${title}: ${one.name}`, () => cycle(loads, one, rounds), OPEN);
  }
  await check(
    `${title}: nothing is lost`,
    async () => {
      const details = [];
      for (const load of loads.toReversed()) details.push(await load.close());
      await waitForNoDevices();
      return details.join('; ');
    },
    OPEN,
  );
}

/** The module says why, and the write fails at once; without a device it is the kernel's to say. */
async function refuseHibernation() {
  const load = LOADS.console(true);
  await load.open();
  const mark = `hibernation is tried, ${Date.now()}`;
  note(mark);
  // Should it not be refused, it ends soon, and without an image.
  const { status, stderr } = await enter('disk', 'freezer');
  const log = (await run(['dmesg'])).stdout.split(mark).at(-1);
  await load.close();
  if (status === 0) throw new Error('it was not refused');
  const line = log.split('\n').find((text) => /virtio.loopback.*hibernat/i.test(text));
  if (line === undefined) throw new Error(`the module gave no reason: ${stderr.trim()}`);
  if (!/busy/i.test(stderr)) throw new Error(stderr.trim());
  await waitForNoDevices();
  const { status: without, stderr: why } = await enter('disk', 'freezer');
  if (without !== 0) throw new Error(`without a device: ${why.trim()}`);
  return line.replace(/^\[[^\]]*\] /, '');
}

export default async function job(words) {
  const rounds = words.includes('short') ? 1 : ROUNDS;
  const named = Object.keys(LOADS).filter((name) => words.includes(name));
  const names = named.length === 0 ? Object.keys(LOADS) : named;
  const parameters = words.filter((word) => word.includes('='));
  await check('the module loads', async () => {
    await insertModule(...parameters);
    await prepareSuspend();
    fact('power', powerFacts());
    return cycles()
      .map(({ name }) => name)
      .join(', ');
  });
  const all = cycles();
  const together = names.filter((name) => name !== 'blk');
  const sets = names.map((name) => [name, [name]]);
  if (together.length > 1) sets.push(['all together', together]);
  const isFirst = ({ isLast }) => !isLast;
  for (const [title, set] of sets) await underLoad(title, set, all.filter(isFirst), rounds);
  await check('hibernation is refused while a device is there', refuseHibernation, OPEN);
  const last = all.filter(({ isLast }) => isLast);
  if (last.length > 0) {
    for (const [title, set] of sets) await underLoad(`${title}, at last`, set, last, rounds);
  }
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
