/**
 * How many instructions the whole system executes for a request of a disk: loopback, VDUSE, ublk
 * and null_blk. The guest's clock counts instructions, so that the figures do not depend on what
 * else this machine does. docs/internals/instruction-counts.md tells what they mean.
 *
 *   npm run lab -- instructions                      a short set, minutes
 *   npm run lab -- instructions -- --all             all rows and subjects
 *   npm run lab -- instructions -- --profile         where the instructions are spent
 *   npm run lab -- instructions -- --check           two rows against lab/instructions.json
 *   npm run lab -- instructions -- --store           the same, written into that file
 *   npm run lab -- instructions -- --beside 63       loopback again, beside 63 other disks
 */

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { WORKLOADS } from '../../dist/evaluate/plan.js';
import { commandText } from '../../dist/evaluate/programs.js';
import { spreadOf } from '../../dist/evaluate/statistics.js';
import { check, fact, print } from './support/checks.mjs';
import { checkBeside } from './support/instruction-beside.mjs';
import { BASE, checkFigures, OURS, storeFigures } from './support/instruction-figures.mjs';
import { Profile } from './support/instruction-profile.mjs';
import { environment, writeResult } from './support/instruction-result.mjs';
import {
  instructionsOf,
  measureOnce,
  reserveHugePages,
  workCommand,
} from './support/instruction-rounds.mjs';
import { bringUp, loadModules, SIZE, SUBJECTS } from './support/instruction-subjects.mjs';
import { run } from './support/programs.mjs';
import { IS_ICOUNT, RUN } from './support/system.mjs';

const DISKS = WORKLOADS.filter(({ work }) => work.kind === 'blk');
/** What is measured without --all, and with --check. */
const SHORT = {
  rows: 'randread-4k-1,randread-4k-32,read-128k-8',
  subjects: `${OURS},${BASE},bounce-ours,null_blk`,
};
const CHECK = { rows: 'randread-4k-1,read-128k-8', subjects: `${OURS},${BASE}` };
const CHECK_MS = 3600_000;
/** Of the guest's time, in which code runs that only runs once. */
const WARM_UP_SECONDS = 0.2;

/** What qemu-storage-daemon has behind its disks. */
const STORAGE = ['io_uring', 'threads', 'null'];

const OPTIONS = {
  rounds: { type: 'string', default: '3' },
  seconds: { type: 'string', default: '0.5' },
  rows: { type: 'string' },
  subjects: { type: 'string' },
  storage: { type: 'string', default: 'io_uring' },
  scattered: { type: 'boolean', default: false },
  beside: { type: 'string' },
  all: { type: 'boolean', default: false },
  profile: { type: 'boolean', default: false },
  check: { type: 'boolean', default: false },
  store: { type: 'boolean', default: false },
};

/** The entries that a list of ids names, in the order of `all`. */
function pick(name, list, all) {
  if (list === undefined) return all;
  const wanted = list.split(',');
  const unknown = wanted.find((word) => !all.some(({ id }) => id === word));
  if (unknown !== undefined) {
    const ids = all.map(({ id }) => id).join(', ');
    throw new Error(`--${name}: '${unknown}' is not one of ${ids}`);
  }
  return all.filter(({ id }) => wanted.includes(id));
}

function positive(name, text) {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`--${name}: expected a number above 0, not '${text}'`);
  return value;
}

function readOptions(words) {
  const { values } = parseArgs({ args: words, options: OPTIONS });
  if (!STORAGE.includes(values.storage)) {
    throw new Error(`--storage: expected one of ${STORAGE.join(', ')}, not '${values.storage}'`);
  }
  const isCheck = values.check || values.store;
  const usual = isCheck ? CHECK : values.all ? {} : SHORT;
  return {
    ...values,
    words,
    isCheck,
    sizeBytes: SIZE,
    rounds: positive('rounds', values.rounds),
    seconds: positive('seconds', values.seconds),
    beside: values.beside === undefined ? 0 : positive('beside', values.beside),
    workloads: pick('rows', values.rows ?? usual.rows, DISKS),
    subjects: pick('subjects', values.subjects ?? usual.subjects, SUBJECTS),
  };
}

/** What a copy counts as: rows with much data depend on it. */
async function checkCopies() {
  const file = '/tmp/copies';
  await run(['dd', 'if=/dev/zero', `of=${file}`, 'bs=128K', 'count=1', 'status=none']);
  const { stdout } = await run([join(RUN, 'copies'), file]);
  const ways = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(' '));
  fact(
    'instructions of a copy',
    Object.fromEntries(ways.map(([way, n, count]) => [`${way} ${n}`, Number(count)])),
  );
  const each = ways
    .filter(([, bytes]) => bytes === '131072')
    .map(([way, bytes, count]) => `${way} ${(count / bytes).toFixed(3)}`);
  return `instructions a byte: ${each.join(', ')}`;
}

/** Brings up all subjects; those that fail stay out, with the reason. */
async function bringAllUp({ subjects, storage }, states) {
  const disks = [];
  for (const subject of subjects) {
    const isUp = await check(subject.title, async () => {
      const disk = await bringUp(subject, storage);
      disks.push(disk);
      return disk.node;
    });
    states.set(subject.id, isUp ? null : 'it did not come up');
  }
  return disks;
}

const each = (count, { window }) => (count / window.requests).toFixed(2);

/** One line for a subject: all rounds, and what was counted for each request. */
function line(row, base) {
  const rounds = row.samples.map(instructionsOf);
  const { median, min, max } = spreadOf(rounds);
  const spread = (((max - min) / median) * 100).toFixed(2);
  const ratio = base === undefined ? '' : `, ${(base / median).toFixed(3)}x`;
  const last = row.samples.at(-1);
  const { system, interrupts } = last.window.counts;
  const counts = [
    `${each(system.contextSwitches, last)} switches`,
    `${each(system.interrupts, last)} interrupts`,
    `${each(interrupts.timer, last)} of them timer`,
  ];
  const all = rounds.map(Math.round).join(', ');
  return `     ${row.transport}: ${all} (${spread} %)${ratio}; ${counts.join(', ')}`;
}

const medianOf = (row) =>
  row === undefined || row.samples.length === 0
    ? undefined
    : spreadOf(row.samples.map(instructionsOf)).median;

/** What the stored figures are compared with: instructions by workload and subject. */
function figuresOf(rows) {
  const of = (workload, id) =>
    medianOf(rows.find((row) => row.workload === workload && row.transport === id)) ?? Number.NaN;
  const workloads = [...new Set(rows.map(({ workload }) => workload))];
  return Object.fromEntries(
    workloads.map((workload) => [
      workload,
      Object.fromEntries([OURS, BASE].map((id) => [id, of(workload, id)])),
    ]),
  );
}

/** One workload on one disk, before it is measured. */
const newCell = (workload, { id, node }, options) => ({
  workload: workload.id,
  transport: id,
  reason: null,
  command: commandText(workCommand(workload, node, options)),
  samples: [],
});

/** All rounds of one workload, the subjects in turn. */
async function measureRow(workload, disks, row, options, profile) {
  for (const disk of disks) {
    await measureOnce(disk, workload, { ...options, seconds: WARM_UP_SECONDS });
  }
  for (let round = 0; round < options.rounds; round += 1) {
    for (const [at, disk] of disks.entries()) {
      const isLast = round === options.rounds - 1;
      const sample = await measureOnce(disk, workload, options, isLast ? profile : null);
      row[at].samples.push({ round, ...sample });
    }
  }
  const base = medianOf(row.find(({ transport }) => transport === BASE));
  for (const cell of row) print(line(cell, base));
  fact(
    workload.id,
    Object.fromEntries(row.map((cell) => [cell.transport, cell.samples.map(instructionsOf)])),
  );
}

/** The same workloads again, with many other loopback disks there. */
async function measureBeside(options, disks, rows) {
  const disk = disks.find(({ id }) => id === OURS);
  if (disk === undefined) throw new Error(`--beside measures ${OURS}, which is not there`);
  const alone = Object.entries(figuresOf(rows)).map(([id, counts]) => [id, counts[OURS]]);
  const measure = async (id) => {
    const workload = options.workloads.find((one) => one.id === id);
    const row = [newCell(workload, disk, options)];
    await measureRow(workload, [disk], row, options, null);
    return medianOf(row[0]);
  };
  await checkBeside(options.beside, Object.fromEntries(alone), measure);
}

export default async function instructions(words) {
  const options = readOptions(words);
  if (!IS_ICOUNT) throw new Error('the clock counts time here: start without --no-icount');
  const startedAt = new Date();
  const states = new Map();
  const profile = options.profile ? new Profile() : null;
  await check('a copy of memory', checkCopies);
  await check('the modules load', () => loadModules(options.subjects));
  reserveHugePages();
  const disks = await bringAllUp(options, states);
  profile?.keepSymbols();
  const rows = [];
  for (const workload of options.workloads) {
    const row = disks.map((disk) => newCell(workload, disk, options));
    rows.push(...row);
    const action = () => measureRow(workload, disks, row, options, profile);
    const isDone = await check(workload.title, action, { timeout: CHECK_MS });
    if (!isDone) for (const cell of row) cell.reason = 'the row failed';
  }
  profile?.close();
  if (options.beside > 0) await measureBeside(options, disks, rows);
  if (options.isCheck) {
    const [figures, here] = [figuresOf(rows), await environment(options)];
    if (options.store) await check('the figures are stored', () => storeFigures(figures, here));
    else await checkFigures(figures, here);
  }
  const { subjects, workloads } = options;
  await check('the result is one that others read', () =>
    writeResult({ startedAt, options, subjects, workloads, rows, states }),
  );
}
