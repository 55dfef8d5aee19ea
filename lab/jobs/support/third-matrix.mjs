/** What the job `third-parties` found, as tables that end its output and as facts. */

import { check, fact, print } from './checks.mjs';

/** Checks of the matrix, in the order in which they are printed. */
const COLUMNS = ['data', 'load', 'stale data', 'killed and back'];

/** @type {Map<string, Record<string, string>>} */
const rows = new Map();
const offers = new Map();
const versions = new Map();

const keep = () => fact('matrix', Object.fromEntries(rows));

/** @param {string} party @param {string} version */
export function addParty(party, version) {
  rows.set(party, {});
  versions.set(party, version);
  fact('versions', Object.fromEntries(versions));
}

/**
 * A check that stands in the matrix. A cell of several checks is good when all of them are.
 * @param {string} party
 * @param {string} column one of {@link COLUMNS}
 * @param {string} title
 * @param {() => unknown} action as of `check`
 * @param {{ timeout?: number }} [options]
 */
export async function cell(party, column, title, action, options) {
  const isGood = await check(title, action, options);
  const row = rows.get(party);
  row[column] = isGood && row[column] !== 'FAIL' ? 'ok' : 'FAIL';
  keep();
  return isGood;
}

/**
 * Keeps what a back end offers.
 * @param {string} party
 * @param {Record<string, unknown>} offered as `offersOf` gives it
 * @param {Record<string, { used: number, room: number, verdict: string }>} lengths used lengths
 */
export function keepOffers(party, offered, lengths) {
  offers.set(party, { offered, lengths });
  fact('offers', Object.fromEntries(offers));
  const names = Object.entries(offered).filter(([, value]) => value === true);
  const wrong = Object.entries(lengths).filter(([, { verdict }]) => verdict !== 'exact');
  const told = wrong.map(
    ([what, { used, room, verdict }]) => `${what}: ${used}/${room}, ${verdict}`,
  );
  const text = told.length === 0 ? 'used lengths exact' : `used lengths: ${told.join('; ')}`;
  return `${names.map(([name]) => name).join(', ') || 'none'}; ${text}`;
}

const table = (heads, lines) => {
  const row = (words) => `| ${words.join(' | ')} |`;
  print(`\n${row(heads)}\n|${'---|'.repeat(heads.length)}`);
  for (const words of lines) print(row(words));
};

const word = (value) => (value === true ? 'yes' : value === false ? 'no' : `${value ?? ''}`);

export function printMatrix() {
  const lines = [...rows].map(([party, row]) => {
    return [party, versions.get(party), ...COLUMNS.map((column) => row[column] ?? '')];
  });
  table(['Third party', 'Version', ...COLUMNS], lines);
  const names = [...new Set([...offers.values()].flatMap(({ offered }) => Object.keys(offered)))];
  const offered = [...offers].map(([party, found]) => {
    return [party, ...names.map((name) => word(found.offered[name]))];
  });
  table(['Offers', ...names], offered);
  const lengths = [...offers].flatMap(([party, found]) =>
    Object.entries(found.lengths).map(([what, { used, room, verdict }]) => {
      return [party, what, room, used, verdict];
    }),
  );
  table(['Used lengths', 'Request', 'Room', 'Used', 'Verdict'], lengths);
  print('');
}
