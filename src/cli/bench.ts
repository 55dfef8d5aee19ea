/** `vlo bench`: the kernel transports measured against each other, and the report of it. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { VloError } from '../errors.js';
import { type BenchArguments, checkBenchOptions, DEVICE_CHOICES } from '../evaluate/options.js';
import { TRANSPORTS, WORKLOADS } from '../evaluate/plan.js';
import { commandText } from '../evaluate/programs.js';
import { renderHtml } from '../evaluate/report-html.js';
import { renderText } from '../evaluate/report-text.js';
import { readResult } from '../evaluate/result.js';
import { failuresOf, runTransports } from '../evaluate/run.js';
import { log, print } from './output.js';

interface TransportsOptions extends BenchArguments {
  readonly json?: string;
  readonly html?: string;
}

const MEMORY_FOLDER = '/dev/shm';
const idsOf = (list: readonly { readonly id: string }[]): string =>
  list.map(({ id }) => id).join(',');

/** Adds the command with what can be measured. */
export function addBench(program: Command, version: string): void {
  const bench = program.command('bench').description('measure, and write reports');
  bench
    .command('transports')
    .description('one device process behind each kernel transport: speed, latency, cost')
    .option('--rounds <count>', 'interleaved rounds', '5')
    .option('--seconds <time>', 'length of a round', '3')
    .option('--size <size>', 'size of the disks', '64MiB')
    .option('--queues <count>', 'queues of the disks', '1')
    .option('--device <name>', `device process of the disks: ${DEVICE_CHOICES.join(', ')}`, 'ours')
    .option('--transports <list>', `some of ${idsOf(TRANSPORTS)}`)
    .option('--workloads <list>', `some of ${idsOf(WORKLOADS)}`)
    .option('--dir <path>', 'folder for images, in memory', memoryFolder())
    .option('--no-trace', 'do not count system calls and wake-ups')
    .option('--json <file>', 'write the result')
    .option('--html <file>', 'write the report')
    .allowExcessArguments(false)
    .action((options: TransportsOptions) => transports(options, version));
  bench
    .command('report')
    .description('one report of several results')
    .argument('<files...>', 'what --json wrote')
    .requiredOption('--html <file>', 'write the report')
    .action((files: string[], options: { readonly html: string }) => {
      write(options.html, renderHtml(files.map(readResult)));
    });
}

const memoryFolder = (): string => (existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir());

/** Folders on the way are made. */
function write(path: string, text: string): void {
  try {
    mkdirSync(dirname(resolve(path)), { recursive: true });
    writeFileSync(path, text);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new VloError('VLO_USAGE', `'${path}' cannot be written (${code})`);
  }
}

/** @throws VloError VLO_BENCH_UNAVAILABLE, VLO_BENCH_FAILED */
async function transports(given: TransportsOptions, version: string): Promise<void> {
  const options = checkBenchOptions(given);
  const aborter = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => aborter.abort());
  }
  const script = fileURLToPath(new URL('./vlo.js', import.meta.url));
  const result = await runTransports({
    ...{ options, version, log, signal: aborter.signal },
    vlo: [process.execPath, script],
    command: commandText(['vlo', ...process.argv.slice(2)]),
  });
  if (given.json !== undefined) write(given.json, `${JSON.stringify(result, null, 2)}\n`);
  if (given.html !== undefined) write(given.html, renderHtml([result]));
  print(renderText(result));
  const failures = failuresOf(result);
  if (failures.length > 0) {
    const more = failures.length > 1 ? ` (and ${failures.length - 1} more)` : '';
    throw new VloError('VLO_BENCH_FAILED', `${failures[0]}${more}`);
  }
}
