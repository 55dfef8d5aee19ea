/** `vlo doctor`: what this machine offers, and the commands that add what is missing. */
import type { Command } from 'commander';
import { VloError } from '../errors.js';
import {
  CHECK_GROUPS,
  type CheckResult,
  type CheckState,
  type DoctorReport,
  examine,
} from '../hal/doctor.js';
import { type Machine, thisMachine } from '../hal/doctor-machine.js';

const COLUMNS = 100;
const MARK = { yes: 'yes ', no: 'no  ', partly: 'part' } as const satisfies Record<
  CheckState,
  string
>;
/** Green, red and yellow, as terminals number them. */
const COLOUR = { yes: 32, no: 31, partly: 33 } as const satisfies Record<CheckState, number>;
/** Where the titles start: behind two blanks, the mark, and two more. */
const TITLE_AT = 2 + MARK.yes.length + 2;

/** Adds the command. Tests give it a machine of their own. */
export function addDoctor(program: Command, machine: Machine = thisMachine()): void {
  program
    .command('doctor')
    .description('show what this machine offers, and the commands that add what is missing')
    .option('--json', 'write the report as JSON')
    .allowExcessArguments(false)
    .action(async (options: { readonly json?: boolean }) => {
      const report = await examine(machine);
      const text =
        options.json === true
          ? JSON.stringify(report, null, 2)
          : renderTable(report, wantsColour());
      process.stdout.write(`${text}\n`);
      if (report.works) return;
      const missing = 'Node, foreign calls or memfd; see `vlo doctor`';
      throw new VloError(
        'VLO_UNSUPPORTED',
        `vlo does not work on this machine: it lacks ${missing}`,
      );
    });
}

/** Colours are for people at a terminal who did not ask to be spared (https://no-color.org). */
function wantsColour(): boolean {
  const isSpared = (process.env.NO_COLOR ?? '') !== '';
  return process.stdout.isTTY === true && !isSpared;
}

/** Text in lines of at most `width` columns; a word that is longer stays whole. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = '';
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, line];
}

/** `head` with `text` behind it; further lines start below the first word of the text. */
function hang(head: string, text: string): string {
  const lines = wrap(text, COLUMNS - head.length);
  return head + lines.join(`\n${' '.repeat(head.length)}`);
}

function renderCheck(check: CheckResult, titleWidth: number, colour: boolean): string {
  const { state, title, detail, gives, command } = check;
  const entry = hang(`${' '.repeat(TITLE_AT)}${title.padEnd(titleWidth)}  `, detail);
  const mark = colour ? `\x1b[${COLOUR[state]}m${MARK[state]}\x1b[0m` : MARK[state];
  const lines = [`  ${mark}  ${entry.slice(TITLE_AT)}`];
  if (state !== 'yes') {
    const indent = ' '.repeat(TITLE_AT);
    lines.push(hang(`${indent}gives: `, gives));
    // A command stays in one line, however long: it is there to be copied.
    if (command !== null) lines.push(`${indent}add:   ${command}`);
  }
  return lines.join('\n');
}

/** The report for people, without a line break at its end. */
export function renderTable(report: DoctorReport, colour: boolean): string {
  const titleWidth = Math.max(...report.checks.map(({ title }) => title.length));
  const groups = CHECK_GROUPS.map((group) => {
    const checks = report.checks.filter((check) => check.group === group);
    const entries = checks.map((check) => renderCheck(check, titleWidth, colour));
    return [group, ...entries].join('\n');
  });
  const summary = Object.entries(report.transports).map(([name, { state, ways }]) => {
    return `${name}: ${MARK[state].trim()}${ways.length === 0 ? '' : ` (${ways.join(', ')})`}`;
  });
  return [...groups, summary.join('   ')].join('\n\n');
}
