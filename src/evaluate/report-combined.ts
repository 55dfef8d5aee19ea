/** The section that sets several results side by side: architectures, kernels, device processes. */
import { formatFigure, formatRatio } from './format.js';
import { type Markup, markup } from './markup.js';
import { BASE_TRANSPORT } from './plan.js';
import { colourOf, legend } from './report-parts.js';
import { groupPlot } from './report-svg.js';
import type { BenchResult } from './result.js';
import { againstBase, figure, findRow, metricOf } from './summary.js';

interface Titled {
  readonly id: string;
  readonly title: string;
}

/** All that any of the results has, in the order in which it comes first. */
function union<T extends Titled>(lists: readonly (readonly T[])[]): T[] {
  const byId = new Map<string, T>();
  for (const one of lists.flat()) if (!byId.has(one.id)) byId.set(one.id, one);
  return [...byId.values()];
}

type Workload = BenchResult['workloads'][number];

/** The ratio to VDUSE on each machine: ratios may be compared where speeds may not. */
function ratioPanel(
  workload: Workload,
  transports: readonly Titled[],
  results: readonly BenchResult[],
  names: readonly string[],
): Markup | null {
  const groups = results.flatMap((result, i) => {
    const bars = transports.flatMap(({ id, title }) => {
      const row = findRow(result, workload.id, id);
      const value = row === undefined ? null : againstBase(result, row, workload.figure);
      if (value === null) return [];
      return [{ label: title, colour: colourOf(id), value, text: formatRatio(value) }];
    });
    return bars.length === 0 ? [] : [{ label: names[i], bars }];
  });
  if (groups.length === 0) return null;
  const plot = groupPlot(`${workload.title}, ratio to VDUSE`, groups, { reference: 1 });
  return markup`<div class="panel"><h4>${workload.title}</h4>${plot}</div>`;
}

/** Figures of the table, beside the throughput. */
const COUNTS = ['contextSwitches', 'wakeUps', 'adapterWakeUps', 'interrupts', 'deviceCalls'];

function table(
  workload: Workload,
  transports: readonly Titled[],
  results: readonly BenchResult[],
  names: readonly string[],
): Markup {
  const heads = names.map((name) => markup`<th>${name}</th>`);
  const lines = transports.flatMap(({ id, title }) => {
    const rows = results.map((result) => findRow(result, workload.id, id));
    return [workload.figure, ...COUNTS].flatMap((name) => {
      const metric = metricOf(name);
      const values = rows.map((row) => figure(row, name));
      if (values.every((value) => value === null)) return [];
      const cells = values.map((value) => markup`<td>${formatFigure(value, metric.unit)}</td>`);
      return [markup`<tr><td>${title}: ${metric.title}</td>${cells}</tr>`];
    });
  });
  return markup`<details><summary>${workload.title}</summary><div class="wide"><table><tr><th></th>${heads}</tr>${lines}</table></div></details>`;
}

/** @param names one for each result */
export function combinedSection(results: readonly BenchResult[], names: readonly string[]): Markup {
  const workloads = union(results.map((result) => result.workloads));
  const transports = union(results.map((result) => result.transports));
  const compared = transports.filter(({ id }) => id !== BASE_TRANSPORT && id !== 'null_blk');
  const ratios = workloads
    .map((workload) => ratioPanel(workload, compared, results, names))
    .filter((panel) => panel !== null);
  const plots =
    ratios.length === 0
      ? markup`<p>None of the results has VDUSE to compare with.</p>`
      : markup`<div class="panels">${ratios}</div>`;
  return markup`<section><h2>Side by side</h2>
<p class="soft">Throughput as a multiple of what VDUSE gave on the same machine, in the same run;
the dashed line is VDUSE.</p>
${legend({ ...results[0], transports: compared as BenchResult['transports'] })}
${plots}
<h3>Speeds, and counts for each request</h3>
${workloads.map((workload) => table(workload, transports, results, names))}
</section>`;
}
