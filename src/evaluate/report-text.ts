/** The result as a table on a terminal. */
import { formatFigure, formatRatio } from './format.js';
import { BASE_TRANSPORT, EVERY_WORKLOAD } from './plan.js';
import type { BenchResult, ResultRow } from './result.js';
import { againstBase, figure, findRow, judge, metricOf, type Verdict } from './summary.js';

/** Further columns: head, and the metrics whose sum stands below it. */
const COLUMNS: readonly (readonly [string, readonly string[]])[] = [
  ['p50', ['latencyP50']],
  ['p99', ['latencyP99']],
  ['p99.9', ['latencyP999']],
  ['CPU', ['cpuSystem']],
  ['switches', ['contextSwitches']],
  ['wake-ups', ['wakeUps']],
  ['adapter', ['adapterWakeUps']],
  ['interrupts', ['interrupts']],
  ['calls', ['deviceCalls', 'adapterCalls']],
];

const HEAD = ['', 'median', '(min - max)', 'to VDUSE', ...COLUMNS.map(([head]) => head)];

/** Metrics added up; null unless the first is known. */
function total(row: ResultRow, metrics: readonly string[]): number | null {
  const [first, ...more] = metrics.map((metric) => figure(row, metric));
  return first === null ? null : more.reduce<number>((sum, value) => sum + (value ?? 0), first);
}

function cells(result: BenchResult, row: ResultRow, metric: string, title: string): string[] {
  const spread = row.summary[metric];
  if (spread === undefined) return [title, `${row.state}: ${row.reason ?? 'nothing measured'}`];
  const { unit } = metricOf(metric);
  const base = row.transport === BASE_TRANSPORT ? null : againstBase(result, row, metric);
  return [
    title,
    formatFigure(spread.median, unit),
    `(${formatFigure(spread.min, unit)} - ${formatFigure(spread.max, unit)})`,
    formatRatio(base),
    ...COLUMNS.map(([, metrics]) => formatFigure(total(row, metrics), metricOf(metrics[0]).unit)),
  ];
}

function align(lines: readonly (readonly string[])[]): string[] {
  // A line that was cut short tells a reason, however long, and widens no column.
  const full = lines.filter(({ length }) => length === HEAD.length);
  const widths = HEAD.map((_, i) => Math.max(...full.map((line) => line[i].length)));
  const first = Math.max(...lines.map(([title]) => title.length));
  return lines.map((line) =>
    line
      .map((cell, i) => {
        if (i === 0) return cell.padEnd(first);
        return line.length === HEAD.length ? cell.padStart(widths[i]) : cell;
      })
      .join('  ')
      .trimEnd(),
  );
}

/** One bar in words. */
export function verdictText(result: BenchResult, verdict: Verdict): string {
  const title = (list: readonly { id: string; title: string }[], id: string): string =>
    list.find((one) => one.id === id)?.title ?? id;
  const metric = metricOf(verdict.metric);
  const isEvery = verdict.workload === EVERY_WORKLOAD;
  const suffix = verdict.against === null ? '' : 'x';
  const against =
    verdict.against === null ? '' : ` against ${title(result.transports, verdict.against)}`;
  const value =
    verdict.against === null
      ? formatFigure(verdict.value, metric.unit)
      : formatRatio(verdict.value);
  const aim =
    verdict.aim === null
      ? ''
      : `, aim ${verdict.aim}${suffix} ${verdict.isAimMet ? 'met' : 'not met'}`;
  const work = isEvery ? 'all workloads' : title(result.workloads, verdict.workload);
  const subject = `${title(result.transports, verdict.transport)}, ${work}: ${metric.title}${against}`;
  const bar = `${verdict.sense} ${verdict.bar}${suffix}`;
  return `${subject} ${value}: bar ${bar} ${verdict.isMet ? 'met' : 'not met'}${aim}`;
}

/** The whole result, without a line break at its end. */
export function renderText(result: BenchResult): string {
  const sections = result.workloads.map((workload) => {
    const lines = result.transports.map((transport) => {
      const row = findRow(result, workload.id, transport.id);
      return row === undefined
        ? [transport.title, 'not planned']
        : cells(result, row, workload.figure, transport.title);
    });
    const unit = workload.figure === 'iops' ? 'IOPS' : 'bytes in a second';
    return [`${workload.title} (${unit})`, ...align([HEAD, ...lines])].join('\n');
  });
  const legend =
    'CPU, switches, wake-ups, adapter (its wake-ups), interrupts (without the timer) and calls (of device process and adapter) are for one request.';
  const missing = result.transports
    .filter(({ state }) => state !== 'measured')
    .map(({ title, state, reason, enable }) => {
      const help = enable === null ? '' : `\n  add: ${enable}`;
      return `${title}: ${state}: ${reason}${help}`;
    });
  const bars = judge(result).map((verdict) => verdictText(result, verdict));
  const emulated =
    result.machine.processorKind === 'emulated'
      ? ['The processor is emulated: times say little, counts for each request are what they are.']
      : [];
  return [...sections, [legend, ...emulated].join('\n'), missing.join('\n'), bars.join('\n')]
    .filter((part) => part !== '')
    .join('\n\n');
}
