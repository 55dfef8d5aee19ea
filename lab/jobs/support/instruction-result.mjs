/**
 * What the job `instructions` measured, as the JSON that `vlo bench transports` writes, so that one
 * report is made of both. All times in it are the guest's, a nanosecond for each instruction; the
 * summary of a row has `instructions` beside the figures of `vlo bench transports`.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { machineFacts, versionsOf } from '../../../dist/evaluate/machine.js';
import { parseResult, RESULT_KIND, RESULT_VERSION } from '../../../dist/evaluate/result.js';
import { spreadOf } from '../../../dist/evaluate/statistics.js';
import { summarize } from '../../../dist/evaluate/summary.js';
import { instructionsOf } from './instruction-rounds.mjs';
import { run } from './programs.mjs';
import { ARCH, CPU_MODEL, KERNEL, QEMU, RUN } from './system.mjs';

const NAME = `instructions-${ARCH}-${KERNEL}.json`;

/** What Debian builds a kernel from, such as 7.2.13-1. */
const kernelPackage = () => / Debian (\S+)/.exec(readFileSync('/proc/version', 'utf8'))?.[1];

/**
 * What the figures depend on, apart from this project's own code.
 * @param {{ storage: string, scattered: boolean, seconds: number }} options
 */
export async function environment({ storage, scattered, seconds }) {
  const programs = await versionsOf('', 'qemu-storage-daemon');
  const named = ['qemu-storage-daemon', 'fio', 'Node.js'].map((name) => [name, programs[name]]);
  return {
    Linux: `${KERNEL} (${kernelPackage() ?? 'own'})`,
    QEMU,
    processors: `${availableParallelism()} of ${CPU_MODEL}`,
    ...Object.fromEntries(named),
    'C library': process.report.getReport().header.glibcVersionRuntime,
    measured: `${storage}, ${scattered ? 'ordinary' : 'huge'} pages, ${seconds} s`,
  };
}

async function versions() {
  const { stdout } = await run(['node', 'dist/bin/vlo.js', '--version']);
  const all = await versionsOf(stdout.trim(), 'qemu-storage-daemon');
  return { ...all, QEMU, 'processor model': CPU_MODEL };
}

/**
 * @param {{ startedAt: Date, options: object, subjects: object[], workloads: object[],
 *   rows: { workload: string, transport: string, reason: string | null, command: string | null,
 *     samples: object[] }[], states: Map<string, string | null> }} all `states`: why a subject is
 *   not there, or null
 */
export async function writeResult({ startedAt, options, subjects, workloads, rows, states }) {
  const result = {
    ...{ kind: RESULT_KIND, version: RESULT_VERSION, clock: 'instructions' },
    startedAt: startedAt.toISOString(),
    seconds: Math.round((Date.now() - startedAt.getTime()) / 1000),
    command: `npm run lab -- instructions -- ${options.words.join(' ')}`.trim(),
    settings: {
      ...{ rounds: options.rounds, seconds: options.seconds, sizeBytes: options.sizeBytes },
      ...{ queues: 1, device: 'by subject', engine: 'io_uring' },
      ...{ storage: options.storage, scattered: options.scattered },
    },
    machine: machineFacts(),
    versions: await versions(),
    workloads: workloads.map(({ id, title, figure }) => ({ id, title, figure })),
    transports: subjects.map(({ id, title }) => {
      const reason = states.get(id) ?? null;
      const state = reason === null ? 'measured' : 'failed';
      return { id, title, state, reason, enable: null, commands: [] };
    }),
    rows: rows.map((row) => ({
      ...{ ...row, state: row.reason === null ? 'measured' : 'failed', trace: null },
      summary: {
        ...summarize(row.samples, null),
        ...(row.samples.length === 0
          ? {}
          : { instructions: spreadOf(row.samples.map(instructionsOf)) }),
      },
    })),
  };
  const text = `${JSON.stringify(result, null, 1)}\n`;
  // The file is what others read, so that it has to be what they accept.
  parseResult(text, NAME);
  writeFileSync(join(RUN, NAME), text);
  return NAME;
}
