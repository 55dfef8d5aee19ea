/** The results as a table for people. */

/** @typedef {import('./compare.mjs').Result} Result */
/** @typedef {import('./compare.mjs').Measured} Measured */

/** @param {number} value */
function number(value) {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

/** @param {Measured | undefined} side */
function range(side) {
  if (side === undefined) return '';
  return `${number(side.median)} (${number(side.min)}-${number(side.max)})`;
}

const factor = (value) => (value === undefined ? '' : `${value.toFixed(2)}x`);

/** @param {Result} result @param {boolean} judged */
function cells(result, judged) {
  const { id, title, unit, ours, theirs, ratio, bar, aim, verdict } = result;
  const measured = [id, title, unit, range(ours), range(theirs)];
  // So few requests measure how programs start: no number to compare then.
  if (!judged) return [...measured, '', '', '', ''];
  const limit = (value) => {
    if (value === undefined) return '';
    return ratio === undefined ? String(value) : `${value}x`;
  };
  return [...measured, factor(ratio), limit(bar), limit(aim), verdict];
}

const HEAD = [
  'row',
  'work',
  'unit',
  'ours (min-max)',
  'other (min-max)',
  'ratio',
  'bar',
  'aim',
  '',
];
const LEFT = new Set([0, 1, 2, 8]);

/**
 * @param {readonly Result[]} results
 * @param {boolean} judged
 */
export function table(results, judged) {
  const lines = [HEAD, ...results.map((result) => cells(result, judged))];
  const widths = HEAD.map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  return lines
    .map((line) =>
      line
        .map((cell, i) => (LEFT.has(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/**
 * What was run for each row, and what is to be said about it.
 * @param {readonly Result[]} results
 */
export function details(results) {
  const lines = ['Commands. DIR is the temporary folder; the peers folder has it as /sock.'];
  for (const { id, title, ours, theirs, notes } of results) {
    lines.push(`row ${id}, ${title}`);
    for (const side of theirs ? [ours, theirs] : [ours]) {
      lines.push(`  ${side.name}:`, ...side.commands.map((command) => `    ${command}`));
    }
    lines.push(...notes.map((note) => `  note: ${note}`));
  }
  return lines.join('\n');
}

/** @param {{ facts: Record<string, unknown>, load: number, busy: number }} machine */
export function machineLine({ facts, load, busy }) {
  const kind = facts.virtual ? 'virtual machine' : 'bare metal';
  return [
    `${facts.cpu}, ${facts.processors} processors (${kind}), ${facts.memoryMiB} MiB`,
    `Linux ${facts.kernel}, Node ${facts.node}, ${facts.qemu}`,
    `load average ${load.toFixed(2)}, processors ${busy.toFixed(0)} % busy in the last second`,
  ].join('\n');
}
