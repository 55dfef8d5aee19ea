/** Figures as people read them. */
import type { Unit } from './summary.js';

const KIB = 1024;
const MIB = KIB ** 2;

/** Whole numbers with their thousands apart, smaller ones with as many places as mean something. */
export function formatCount(value: number): string {
  if (value === 0) return '0';
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US');
  if (Math.abs(value) >= 100) return value.toFixed(0);
  if (Math.abs(value) >= 10) return value.toFixed(1);
  return value >= 0.005 ? value.toFixed(2) : '<0.01';
}

function formatBytes(bytesPerSecond: number): string {
  if (bytesPerSecond >= 1024 * MIB) return `${formatCount(bytesPerSecond / MIB / KIB)} GiB/s`;
  if (bytesPerSecond >= MIB) return `${formatCount(bytesPerSecond / MIB)} MiB/s`;
  return `${formatCount(bytesPerSecond / KIB)} KiB/s`;
}

/** A time that is given in µs. */
function formatTime(us: number): string {
  if (us >= 1_000_000) return `${formatCount(us / 1_000_000)} s`;
  return us >= 1000 ? `${formatCount(us / 1000)} ms` : `${formatCount(us)} µs`;
}

/** A figure with its unit. */
export function formatFigure(value: number | null | undefined, unit: Unit): string {
  if (value === null || value === undefined) return '–';
  if (unit === 'bytesPerSecond') return formatBytes(value);
  return unit === 'us' ? formatTime(value) : formatCount(value);
}

/** How many times: `1.25x`. */
export function formatRatio(value: number | null): string {
  return value === null ? '–' : `${value.toFixed(2)}x`;
}
