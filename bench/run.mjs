/**
 * npm run bench: our block back end against qemu-storage-daemon, in turn, on the same file in the
 * page cache. See docs/internals/performance.md for the method, and --help.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { runRow, writeImage } from './compare.mjs';
import { busyPercent, LOAD_MAX, loadAverage, machineFacts, processorTicks } from './machine.mjs';
import { PROJECT, Workbench, whyNoPeers } from './programs.mjs';
import { details, machineLine, table } from './report.mjs';
import { selectRows } from './rows.mjs';

const USAGE = `Usage: npm run bench -- [options]

  --rounds <count>  rounds that count, after one warm-up (default: 7)
  --rows <list>     only these rows, e.g. 1,3,5b; a number names all of its letters
  --dir <folder>    file system for the image (default: that of temporary files)
  --json <file>     where the results go (default: bench/results/<time>.json)
  --smoke           every row once with few requests, and no bar is judged
  --help

Needs root and the peers: scripts/install-peers.sh. Status 0 when all rows ran, whether or not they
met their bars; 1 when one could not run.
`;
const IMAGE_MIB = 256;
const SMOKE_IMAGE_MIB = 16;
const FIRST_SIGNAL = 128;

/** @param {string} line */
const progress = (line) => process.stderr.write(`${line}\n`);
const print = (text) => process.stdout.write(`${text}\n`);

function readOptions() {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '7' },
      rows: { type: 'string' },
      dir: { type: 'string' },
      json: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const rounds = values.smoke ? 1 : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds: give a count from 1 on');
  return { ...values, rounds, rows: selectRows(values.rows) };
}

/** Whatever ends this process takes the children and the folder with it. */
function cleanUpOnSignals(bench) {
  for (const [signal, number] of [
    ['SIGHUP', 1],
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ]) {
    process.once(signal, () => {
      bench.closeNow();
      process.exit(FIRST_SIGNAL + number);
    });
  }
}

async function runRows(bench, rows, options) {
  const results = [];
  const failures = [];
  for (const row of rows) {
    try {
      results.push(...(await runRow(bench, row, options)));
    } catch (error) {
      failures.push({ id: row.id, title: row.title, error: String(error.message ?? error) });
      progress(`row ${row.id} could not run: ${failures.at(-1).error}`);
      await bench.stopAll();
    }
  }
  return { results, failures };
}

const isQuiet = (load, busy) => load <= LOAD_MAX && busy <= 100 * LOAD_MAX;

/** @param {number} load @param {number} busy */
function warnIfBusy(load, busy) {
  if (isQuiet(load, busy)) return;
  const measured = `load average ${load.toFixed(2)}, ${busy.toFixed(0)} % busy`;
  const quiet = `quiet is up to ${LOAD_MAX} and ${100 * LOAD_MAX} %`;
  progress(`WARNING: the machine was busy at the start (${measured}; ${quiet}):`);
  progress('         these ratios are not to be trusted');
}

function writeJson(path, content) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(content, null, 2)}\n`);
  progress(`written: ${path.replace(`${PROJECT}/`, '')}`);
}

function summarize({ results, failures }, smoke, rowCount) {
  for (const { id, error } of failures) print(`row ${id} could not run: ${error}`);
  if (smoke) {
    print(`smoke: ${rowCount - failures.length} rows ran`);
    return;
  }
  const judged = results.filter((result) => result.verdict !== '');
  const missed = judged.filter((result) => result.verdict === 'missed');
  const aims = judged.filter((result) => result.verdict === 'aim met');
  print(`${judged.length - missed.length} of ${judged.length} bars met, ${aims.length} aims met`);
  for (const { id, title } of missed) print(`missed: row ${id}, ${title}`);
}

async function measure(options) {
  const { rows, rounds, smoke } = options;
  const date = new Date();
  const before = { load: loadAverage(), busy: await busyPercent(), ticks: processorTicks() };
  const bench = new Workbench(options.dir);
  cleanUpOnSignals(bench);
  try {
    const version = await bench.startPeer(['qemu-storage-daemon', '--version']).output();
    const facts = machineFacts(version.split('\n')[0]);
    print(machineLine({ facts, ...before }));
    if (!smoke) warnIfBusy(before.load, before.busy);
    const imageMiB = smoke ? SMOKE_IMAGE_MIB : IMAGE_MIB;
    writeImage(bench.path('disk.img'), imageMiB);
    const outcome = await runRows(bench, rows, { rounds, smoke, say: progress });
    const ticks = processorTicks();
    const stolen = (ticks.steal - before.ticks.steal) / (ticks.total - before.ticks.total);
    print(`\n${table(outcome.results, !smoke)}\n\n${details(outcome.results)}\n`);
    if (stolen > 0.01) progress(`WARNING: ${(100 * stolen).toFixed(1)} % of the time was stolen`);
    if (!smoke) warnIfBusy(before.load, before.busy);
    summarize(outcome, smoke, rows.length);
    const name = `${date.toISOString().replaceAll(/[:.]/g, '-')}.json`;
    writeJson(options.json ?? join(PROJECT, 'bench/results', name), {
      date: date.toISOString(),
      ...{ smoke, rounds, imageMiB },
      machine: {
        ...facts,
        loadBefore: before.load,
        loadAfter: loadAverage(),
        busyPercentBefore: before.busy,
        stolenPercent: 100 * stolen,
        quiet: isQuiet(before.load, before.busy),
      },
      rows: outcome.results,
      failures: outcome.failures,
    });
    return outcome.failures.length === 0 ? 0 : 1;
  } finally {
    await bench.close();
  }
}

async function main() {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const why = whyNoPeers();
  if (why !== null) {
    progress(why);
    return 1;
  }
  return measure(options);
}

process.exitCode = await main().catch((error) => {
  progress(`bench: ${error.message}`);
  return 1;
});
