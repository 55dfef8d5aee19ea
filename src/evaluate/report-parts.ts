/** The parts of the report about one result: panels with plots, tables, commands. */
import { formatFigure, formatRatio } from './format.js';
import { type Markup, markup } from './markup.js';
import { BASE_TRANSPORT, TRANSPORTS } from './plan.js';
import { type BarRow, barPlot, dotPlot, groupPlot } from './report-svg.js';
import { verdictText } from './report-text.js';
import type { BenchResult, ResultRow } from './result.js';
import { againstBase, figure, findRow, judge, METRICS, type Metric, metricOf } from './summary.js';

type Workload = BenchResult['workloads'][number];
type Transport = BenchResult['transports'][number];

const COLOURS = 4;
const CEILING = 'null_blk';

/** The same transport has the same colour in all plots of all reports. */
export function colourOf(id: string): string {
  const index = TRANSPORTS.findIndex((one) => one.id === id);
  return `t${index === -1 ? COLOURS - 1 : index % COLOURS}`;
}

/** What the colours mean. */
export function legend({ transports }: BenchResult): Markup {
  const entries = transports.map(
    ({ id, title }) => markup`<li><i class="${colourOf(id)}"></i>${title}</li>`,
  );
  return markup`<ul class="legend">${entries}</ul>`;
}

function panel(title: string, plot: Markup): Markup {
  return markup`<div class="panel"><h4>${title}</h4>${plot}</div>`;
}

const panels = (all: readonly Markup[]): Markup => markup`<div class="panels">${all}</div>`;

/** Why a row has no figures, in a few words. */
function shortReason(row: ResultRow | undefined): string {
  if (row === undefined) return 'not planned';
  const { state, reason } = row;
  if (state === 'failed') return 'failed: see the table';
  return reason === null || reason.length > 40 ? state : reason;
}

function barRow(result: BenchResult, workload: Workload, transport: Transport): BarRow {
  const row = findRow(result, workload.id, transport.id);
  const spread = row?.summary[workload.figure] ?? null;
  const ratio = row === undefined ? null : againstBase(result, row, workload.figure);
  const { unit } = metricOf(workload.figure);
  const suffix = ratio === null ? '' : ` (${formatRatio(ratio)} VDUSE)`;
  return {
    ...{ label: transport.title, colour: colourOf(transport.id), spread },
    text: spread === null ? shortReason(row) : `${formatFigure(spread.median, unit)}${suffix}`,
    isCeiling: transport.id === CEILING,
  };
}

/** Throughput of each workload. */
export function barPanels(result: BenchResult): Markup {
  return panels(
    result.workloads.map((workload) => {
      const rows = result.transports.map((transport) => barRow(result, workload, transport));
      const unit = workload.figure === 'iops' ? 'IOPS' : 'bandwidth';
      return panel(`${workload.title}: ${unit}`, barPlot(`${workload.title}, ${unit}`, rows));
    }),
  );
}

const PERCENTILES = ['latencyP50', 'latencyP99', 'latencyP999'];

/** Latency of each workload that has one. */
export function latencyPanels(result: BenchResult): Markup {
  const all = result.workloads.map((workload) => {
    const rows = result.transports.flatMap(({ id, title }) => {
      const values = PERCENTILES.map((name) => figure(findRow(result, workload.id, id), name));
      const known = values.filter((value): value is number => value !== null);
      if (known.length < PERCENTILES.length) return [];
      const text = known.map((value) => formatFigure(value, 'us')).join(' · ');
      return [{ label: title, colour: colourOf(id), text, values: known }];
    });
    if (rows.length === 0) return null;
    const format = (value: number): string => formatFigure(value, 'us').replace(/\.0+ /, ' ');
    return panel(workload.title, dotPlot(`${workload.title}, latency`, rows, format));
  });
  const known = all.filter((one) => one !== null);
  return known.length === 0 ? markup`<p>No latency was measured.</p>` : panels(known);
}

/** Figures of the section about what a request costs. */
const COSTS = [
  ...['contextSwitches', 'wakeUps', 'adapterWakeUps', 'interrupts', 'irqWork'],
  ...['deviceCalls', 'adapterCalls', 'cpuSystem', 'cpuDevice'],
];

/** One plot of a metric over all workloads; null where it was never measured. */
function costPanel(result: BenchResult, metric: Metric): Markup | null {
  const groups = result.workloads.flatMap((workload) => {
    const bars = result.transports.flatMap(({ id, title }) => {
      const value = figure(findRow(result, workload.id, id), metric.id);
      if (value === null) return [];
      const text = formatFigure(value, metric.unit);
      return [{ label: title, colour: colourOf(id), value, text }];
    });
    return bars.length === 0 ? [] : [{ label: workload.title, bars }];
  });
  if (groups.length === 0) return null;
  const least = metric.unit === 'count' ? 1 : 0;
  return panel(metric.title, groupPlot(`${metric.title} for each request`, groups, { least }));
}

export function countPanels(result: BenchResult): Markup {
  const all = COSTS.map((id) => costPanel(result, metricOf(id)));
  return panels(all.filter((one) => one !== null));
}

function figureCell(row: ResultRow | undefined, { id, unit }: Metric): Markup {
  const spread = row?.summary[id];
  if (spread === undefined) return markup`<td>–</td>`;
  const isOne = spread.min === spread.max;
  const range = `${formatFigure(spread.min, unit)} – ${formatFigure(spread.max, unit)}`;
  return markup`<td>${formatFigure(spread.median, unit)}${isOne ? null : markup`<small>${range}</small>`}</td>`;
}

function figureTable(result: BenchResult, workload: Workload): Markup {
  const rows = result.transports.map(({ id }) => findRow(result, workload.id, id));
  const heads = result.transports.map(({ title }) => markup`<th>${title}</th>`);
  const lines = METRICS.flatMap((metric) => {
    if (rows.every((row) => row?.summary[metric.id] === undefined)) return [];
    return [markup`<tr><td>${metric.title}</td>${rows.map((row) => figureCell(row, metric))}</tr>`];
  });
  const wakeUps = rows.some((row) => row?.trace?.wakeUps) ? [wakeUpRow(rows)] : [];
  const notes = rows.flatMap((row) =>
    row === undefined || row.reason === null
      ? []
      : [markup`<p class="soft">${row.transport}: ${row.state}: ${row.reason}</p>`],
  );
  return markup`<h4>${workload.title}</h4><div class="wide"><table><tr><th></th>${heads}</tr>${[...lines, ...wakeUps]}</table></div>${notes}`;
}

/** Whose threads are woken: program, device process, adapter, kernel workers. */
function wakeUpRow(rows: readonly (ResultRow | undefined)[]): Markup {
  const cells = rows.map((row) => {
    const { trace } = row ?? {};
    if (!trace?.wakeUps) return markup`<td>–</td>`;
    const parts = Object.entries(trace.wakeUps)
      .filter(([, count]) => count > 0)
      .map(
        ([name, count]) =>
          markup`<small>${name} ${formatFigure(count / trace.requests, 'count')}</small>`,
      );
    return markup`<td>${parts}</td>`;
  });
  return markup`<tr><td>whose threads are woken</td>${cells}</tr>`;
}

export function figureTables(result: BenchResult): Markup {
  return markup`${result.workloads.map((workload) => figureTable(result, workload))}`;
}

/** What was left out; null when nothing was. */
export function missingTable(result: BenchResult): Markup | null {
  const missing = result.transports.filter(({ state }) => state !== 'measured');
  if (missing.length === 0) return null;
  const lines = missing.map(
    ({ title, state, reason, enable }) =>
      markup`<tr><td>${title}</td><td class="words">${state}: ${reason ?? ''}</td><td class="words"><code>${enable ?? ''}</code></td></tr>`,
  );
  return markup`<h3>Left out</h3><div class="wide"><table><tr><th>Transport</th><th>Why</th><th>What adds it</th></tr>${lines}</table></div>`;
}

/** The bars of the project; null where nothing can be judged. */
export function verdictTable(result: BenchResult): Markup | null {
  const verdicts = judge(result);
  if (verdicts.length === 0) return null;
  const lines = verdicts.map((verdict) => {
    const mark = verdict.isMet
      ? markup`<b class="good">met</b>`
      : markup`<b class="bad">not met</b>`;
    return markup`<tr><td>${verdictText(result, verdict)}</td><td>${mark}</td></tr>`;
  });
  return markup`<h3>Bars</h3><details open="open"><summary>${verdicts.filter(({ isMet }) => isMet).length} of ${verdicts.length} met</summary><div class="wide"><table>${lines}</table></div></details>`;
}

/** The exact commands: how each transport was brought up, and what worked on it. */
export function commandList(result: BenchResult): Markup {
  const lists = result.transports.map(({ id, title, commands }) => {
    const work = result.rows
      .filter((row) => row.transport === id && row.command !== null)
      .map((row) => `# ${row.workload}\n${row.command}`);
    const text = [...commands, ...work].join('\n');
    if (text === '') return null;
    return markup`<details><summary>${title}${id === BASE_TRANSPORT ? ' (the others are compared with it)' : ''}</summary><pre>${text}</pre></details>`;
  });
  return markup`${lists}`;
}
