/** Numbers of several rounds: the middle one, and how far they lie apart. */

/** The rounds of one figure. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The median, for an even count the mean of the two in the middle; NaN of nothing. */
export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Null when there is no value; values that are null or no numbers are left out. */
export function spreadOf(values: readonly (number | null)[]): Spread | null {
  const known = values.filter((value): value is number => value !== null && !Number.isNaN(value));
  if (known.length === 0) return null;
  return { median: median(known), min: Math.min(...known), max: Math.max(...known) };
}

/** `part / whole`; null where the whole is nothing, or the part is not known. */
export function ratio(part: number | null | undefined, whole: number | null): number | null {
  if (part === null || part === undefined || whole === null || whole === 0) return null;
  return part / whole;
}
