/** What the demonstration shows: lines of at most 80 columns. */
import type { SpeedRow } from './demo-speed.js';
import { type DemoStand, DISK_MIB, type LayerCounts } from './demo-stand.js';

const COLUMNS = 80;

export const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Who hands requests to whom, from the top to the bottom. */
export function layerPicture(
  above: readonly (readonly [string, string])[],
  stand: DemoStand,
): string[] {
  const shown = stand.diskPath === null ? [] : ([['FUSE file', stand.diskPath]] as const);
  const pid = stand.diskProcess?.pid;
  const layers = [
    ...above,
    ...shown,
    ['virtio driver', `pid ${process.pid} (this one); a ring in shared memory`],
    ['vhost-user', stand.socket],
    ['device process', `pid ${pid}: the one that is killed`],
    ['disk.img', `${DISK_MIB} MiB`],
  ] as const;
  const width = Math.max(...layers.map(([name]) => name.length));
  return layers.map(([name, text]) => shorten(`  ${name.padEnd(width)}  ${text}`));
}

/** Text in lines that leave room for an indentation; a word that is longer stays whole. */
export function wrapped(text: string, indentation: number): string[] {
  const width = COLUMNS - indentation - 1;
  return text.match(new RegExp(`\\S.{0,${width}}(?=\\s|$)|\\S+`, 'g')) ?? [];
}

function shorten(line: string): string {
  return line.length <= COLUMNS ? line : `${line.slice(0, COLUMNS - 1)}…`;
}

/** The first column to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  return rows.map((row) => {
    const cells = row.map((cell, i) =>
      i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!),
    );
    return `  ${cells.join('   ')}`.trimEnd();
  });
}

export function layerLines(layers: readonly LayerCounts[]): string[] {
  const rows = layers.map((layer) => [
    layer.name,
    String(layer.requests),
    mib(layer.bytesRead),
    mib(layer.bytesWritten),
    layer.errors === null ? '-' : String(layer.errors),
    layer.restarts === null ? '-' : String(layer.restarts),
  ]);
  return table([['LAYER', 'REQUESTS', 'READ', 'WRITTEN', 'ERRORS', 'RESTARTS'], ...rows]);
}

export function speedLines(speeds: readonly SpeedRow[]): string[] {
  const rows = speeds.map(({ name, requests, bytesPerSecond, p50Ms, p99Ms }) => [
    name,
    String(requests),
    `${(bytesPerSecond / 2 ** 20).toFixed(0)} MiB/s`,
    latency(p50Ms),
    latency(p99Ms),
  ]);
  return table([['A QUICK LOOK, NO BENCHMARK', 'REQUESTS', 'SPEED', 'P50', 'P99'], ...rows]);
}

const latency = (ms: number): string =>
  ms < 1 ? `${(ms * 1000).toFixed(0)} us` : `${ms.toFixed(1)} ms`;
