/** The report: one HTML file with everything in it, and nothing that is fetched or run. */
import { formatFigure } from './format.js';
import { Markup, markup } from './markup.js';
import { combinedSection } from './report-combined.js';
import {
  barPanels,
  commandList,
  countPanels,
  figureTables,
  latencyPanels,
  legend,
  missingTable,
  verdictTable,
} from './report-parts.js';
import { STYLE } from './report-style.js';
import type { BenchResult } from './result.js';

const KIND_TEXT = {
  real: 'real processors',
  virtual: 'a virtual machine',
  emulated: 'emulated processors',
} as const;

const MIB = 1024 ** 2;

/** A name by which readers tell machines apart. */
export function machineName({ machine, settings }: BenchResult): string {
  const device = settings.device === 'ours' ? '' : `, ${settings.device}`;
  return `${machine.architecture}, Linux ${machine.kernel}${device}`;
}

function facts(result: BenchResult): Markup {
  const { machine, settings, versions } = result;
  const minutes = formatFigure(result.seconds * 1_000_000, 'us');
  const rows: [string, string][] = [
    ['Measured', `${result.startedAt}, in ${minutes}`],
    [
      'Processor',
      `${machine.processor} (${machine.architecture}, ${KIND_TEXT[machine.processorKind]})`,
    ],
    ['Processors, memory', `${machine.processorCount}, ${machine.memoryMiB} MiB`],
    ['Kernel', `Linux ${machine.kernel}, ${machine.distribution}`],
    ['Load average', machine.loadAverage.toFixed(2)],
    ['Device process', settings.device === 'ours' ? 'vlo serve' : settings.device],
    ['Rounds', `${settings.rounds}, of ${settings.seconds} s each, interleaved`],
    [
      'Disks',
      `${settings.sizeBytes / MIB} MiB, ${settings.queues} queue(s), fio with ${settings.engine ?? 'no engine'}`,
    ],
    [
      'Versions',
      Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join('; '),
    ],
    ['Command', result.command],
  ];
  const lines = rows.map(
    ([name, text]) => markup`<tr><td>${name}</td><td class="words">${text}</td></tr>`,
  );
  return markup`<div class="wide"><table>${lines}</table></div>`;
}

const EMULATED = markup`<p class="note">The processors are emulated in software: all code, the kernel's too, runs many times slower, and not equally so. Speeds and times tell an order at best. Counts for each request (context switches, wake-ups, interrupts, system calls) are those of a real machine wherever they do not depend on who is faster.</p>`;

function section(result: BenchResult, index: number): Markup {
  const isEmulated = result.machine.processorKind === 'emulated';
  return markup`<section id="machine-${index}"><h2>${machineName(result)}</h2>
${facts(result)}
${isEmulated ? EMULATED : null}
${missingTable(result)}
${verdictTable(result)}
<h3>Throughput</h3>
<p class="soft">Medians; the lines show the least and the greatest of the rounds.
A cut bar goes beyond the scale.</p>
${barPanels(result)}
<h3>Latency</h3>
<p class="soft">Full dot: half of the requests; pale: 99 of 100; hollow: 999 of 1,000. Logarithmic.</p>
${latencyPanels(result)}
<h3>What a request costs</h3>
${legend(result)}
${countPanels(result)}
<h3>All figures</h3>
<p class="soft">Medians, below them the least and the greatest.
Times and counts, but for latency, are for one request.</p>
${figureTables(result)}
<h3>Commands</h3>
${commandList(result)}
</section>`;
}

/** The whole document of one or more results. */
export function renderHtml(results: readonly BenchResult[]): string {
  const entries = results.map(
    (result, index) => markup`<li><a href="#machine-${index}">${machineName(result)}</a></li>`,
  );
  const navigation = results.length > 1 ? markup`<nav><ul>${entries}</ul></nav>` : null;
  const body = markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>virtio-loopback: transports compared</title>
<style>${new Markup(STYLE)}</style>
</head>
<body>
<h1>virtio-loopback: transports compared</h1>
<p>The same device process, a vhost-user back end, behind the kernel's own virtio driver: over
virtio_loopback with bounce buffers, over virtio_loopback with direct access to the requests' pages,
and over VDUSE. null_blk is a disk without any device behind it: the ceiling of what the program
that measures can do here.</p>
${navigation}
${results.length > 1 ? combinedSection(results, results.map(machineName)) : null}
${results.map(section)}
</body>
</html>
`;
  return body.text;
}
