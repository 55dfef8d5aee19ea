/** Processes of `vlo` that are started before they are needed; see spare.mjs. */

import { start } from './programs.mjs';
import { VLO } from './stand.mjs';

const COUNT = 2;

/** @type {import('./programs.mjs').Program[]} */
const waiting = [];

function add() {
  const stdio = ['pipe', 'pipe', 'pipe'];
  waiting.push(start(['node', 'lab/jobs/support/spare.mjs'], { stdio }));
}

/** Begins to keep some ready. */
export function keepSpares() {
  while (waiting.length < COUNT) add();
}

/** `vlo` with these arguments: as `start([...VLO, ...words])`, but sooner. */
export function startVlo(words) {
  const spare = waiting.shift();
  if (spare === undefined || spare.status !== null) return start([...VLO, ...words]);
  spare.command = ['vlo', ...words];
  spare.child.stdin.on('error', () => {});
  spare.child.stdin.end(`${JSON.stringify(words)}\n`);
  add();
  return spare;
}

/** Ends those that nobody needed. */
export function endSpares() {
  for (const spare of waiting.splice(0)) spare.killAll();
}
