/** Runs one row: two sides in turn on the same file, or a check of one side alone. */

import { randomFillSync } from 'node:crypto';
import { closeSync, fdatasyncSync, openSync, readSync, writeSync } from 'node:fs';
import { cpus } from 'node:os';

/** @typedef {import('./programs.mjs').Workbench} Workbench */
/** @typedef {import('./rows.mjs').Row} Row */

/**
 * @typedef {object} Measured one side of a row
 * @property {string} name
 * @property {number[]} values of all rounds, in order
 * @property {number} median
 * @property {number} min
 * @property {number} max
 * @property {string[]} commands
 */

/**
 * @typedef {object} Result one line of the table
 * @property {string} id
 * @property {string} title
 * @property {string} unit
 * @property {Measured} ours
 * @property {Measured} [theirs]
 * @property {number} [ratio] of the medians
 * @property {number[]} [ratios] of the two runs of each round
 * @property {number} [bar]
 * @property {number} [aim]
 * @property {'aim met' | 'bar met' | 'missed' | ''} verdict
 * @property {string[]} notes
 */

const MIB = 2 ** 20;
const CHUNK = Buffer.alloc(MIB);

/** @param {string} path @param {number} mebibytes */
export function writeImage(path, mebibytes) {
  const fd = openSync(path, 'w');
  for (let i = 0; i < mebibytes; i += 1) writeSync(fd, randomFillSync(CHUNK));
  fdatasyncSync(fd);
  closeSync(fd);
}

/** All of the file into the page cache, and nothing of it left to be written to the disk. */
function warmImage(path) {
  const fd = openSync(path, 'r+');
  fdatasyncSync(fd);
  while (readSync(fd, CHUNK) > 0);
  closeSync(fd);
}

/** @param {readonly number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @returns {Measured} */
function summary(name, values, commands) {
  const [min, max] = [Math.min(...values), Math.max(...values)];
  return { name, values, median: median(values), min, max, commands };
}

/** Two modes: between the slow and the fast rounds of one side is a gap of this factor. */
const MODE_GAP = 1.6;

/**
 * A median of values in two modes tells which mode was more frequent, and little else: say so.
 * @param {Measured} side
 */
function modesNote({ name, values }) {
  const sorted = [...values].sort((a, b) => a - b);
  let at = 1;
  for (let i = 1; i < sorted.length; i += 1) {
    if (sorted[i] / sorted[i - 1] > sorted[at] / sorted[at - 1]) at = i;
  }
  if (sorted.length < 3 || sorted[at] < MODE_GAP * sorted[at - 1]) return [];
  const modes = [sorted.slice(0, at), sorted.slice(at)].map(
    (mode) =>
      `${Math.round(median(mode)).toLocaleString('en')} (${mode.length} of ${sorted.length})`,
  );
  const both = modes.join(' and ');
  return [
    `${name} has two modes (rounds), around ${both}: the ratio depends on which came more often`,
  ];
}

/**
 * @param {number} value
 * @param {number | undefined} bar
 * @param {number | undefined} aim
 * @param {boolean} moreIsBetter
 */
function verdict(value, bar, aim, moreIsBetter) {
  if (bar === undefined) return '';
  const reaches = (limit) => (moreIsBetter ? value >= limit : value <= limit);
  if (aim !== undefined && reaches(aim)) return 'aim met';
  return reaches(bar) ? 'bar met' : 'missed';
}

/**
 * Processes of the lowest class, one for each processor: they give way to anything at once, but a
 * processor that runs one does not halt, and so needs no waking.
 * @param {Workbench} bench
 */
function keepAwake(bench) {
  const command = ['chrt', '--idle', '0', process.execPath, '-e', 'for (;;);'];
  return cpus().map(() => bench.start(command, { timeoutMs: 120_000 }));
}

/** @param {import('./rows.mjs').Load} load */
const shortened = ({ count }) =>
  count === undefined ? { seconds: 1 } : { count: Math.ceil(count / 50) };

/**
 * @param {Workbench} bench
 * @param {Row} row
 * @param {{ rounds: number, smoke: boolean, say: (line: string) => void }} options
 * @returns {Promise<Result>}
 */
async function compare(bench, row, { rounds, smoke, say }) {
  const [first, second] = row.sides;
  const load = smoke ? { ...row.load, ...shortened(row.load) } : row.load;
  // New servers for each row: what one has compiled for the last row does not matter to the next.
  const ourServer = await first.server(bench, `${row.id}-ours`);
  const server = second.server ? await second.server(bench, `${row.id}-theirs`) : ourServer;
  const clients = [first.client(bench, ourServer, load), second.client(bench, server, load)];
  const spinners = row.awake ? keepAwake(bench) : [];
  const values = [[], []];
  for (let round = smoke ? 1 : 0; round <= rounds; round += 1) {
    const rates = [];
    for (const client of clients) {
      warmImage(bench.path('disk.img'));
      rates.push(await client.rate());
    }
    say(`row ${row.id} ${round === 0 ? 'warm-up' : `round ${round}`}: ${rates.map(Math.round)}`);
    if (round > 0) for (const [i, rate] of rates.entries()) values[i].push(rate);
  }
  for (const spinner of spinners) {
    if (!spinner.running) throw spinner.failure('ended during the measurement');
    await spinner.stop();
  }
  await ourServer.program.stop(true);
  await server.program.stop();
  const ours = summary(first.name, values[0], [ourServer.command, clients[0].command]);
  const theirs = summary(second.name, values[1], [server.command, clients[1].command]);
  const ratio = ours.median / theirs.median;
  return {
    ...{ id: row.id, title: row.title, unit: row.unit, bar: row.bar, aim: row.aim },
    ...{ ours, theirs, ratio, ratios: values[0].map((value, i) => value / values[1][i]) },
    verdict: verdict(ratio, row.bar, row.aim, true),
    notes: [...modesNote(ours), ...modesNote(theirs)],
  };
}

/** @returns {Result} */
function soloResult(row, solo) {
  const { bar = row.bar, aim = row.aim, title = row.title, unit = row.unit } = solo;
  const ours = summary('ours', solo.values, solo.commands);
  const notes = solo.notes ?? [];
  return {
    ...{ id: row.id, title, unit, bar, aim, ours, notes },
    verdict: verdict(ours.median, bar, aim, false),
  };
}

/**
 * @param {Workbench} bench
 * @param {Row} row
 * @param {{ rounds: number, smoke: boolean, say: (line: string) => void }} options
 * @returns {Promise<Result[]>}
 */
export async function runRow(bench, row, options) {
  if (row.solo === undefined) return [await compare(bench, row, options)];
  options.say(`row ${row.id}: ${row.title}`);
  return (await row.solo(bench, options.smoke)).map((solo) => soloResult(row, solo));
}
