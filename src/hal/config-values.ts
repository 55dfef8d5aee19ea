/** Values with a unit, and words for people: what the messages about a file of devices need. */

const KIB = 1024;
const KB = 1000;

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  K: KIB,
  KiB: KIB,
  M: KIB ** 2,
  MiB: KIB ** 2,
  G: KIB ** 3,
  GiB: KIB ** 3,
  T: KIB ** 4,
  TiB: KIB ** 4,
  kB: KB,
  MB: KB ** 2,
  GB: KB ** 3,
  TB: KB ** 4,
};

const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
};

/** The number in front of a unit, times the unit; null unless it is a whole, exact number. */
function scaled(value: unknown, units: Readonly<Record<string, number>>): number | null {
  const match = /^(\d{1,16}) ?([A-Za-z]+)$/.exec(typeof value === 'string' ? value : '');
  if (match === null || !Object.hasOwn(units, match[2])) return null;
  const result = Number(match[1]) * units[match[2]];
  return Number.isSafeInteger(result) ? result : null;
}

/** Bytes of `67108864`, `64MiB`, `64M`, `64 MB`; null for anything else, and for 0. */
export function parseSize(value: unknown): number | null {
  const digits = typeof value === 'string' && /^\d{1,16}$/.test(value) ? Number(value) : value;
  const size = typeof digits === 'number' ? digits : scaled(digits, SIZE_UNITS);
  return size !== null && Number.isSafeInteger(size) && size > 0 ? size : null;
}

/** Milliseconds of `500ms`, `10s`, `5min`, `1h`; null for anything else, and for 0. */
export function parseDuration(value: unknown): number | null {
  return scaled(value, DURATION_UNITS) || null;
}

/** `blkFile` is `blk-file` on a command line and in the file. */
export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Letters to insert, take out, exchange or swap with their neighbour to get from `a` to `b`. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + change);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j], beforeLast[j - 2] + 1);
      }
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length];
}

/** The candidate that was probably meant, or null: two slips are forgiven, one in a short word. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const limit = word.length <= 3 ? 1 : 2;
  let best: string | null = null;
  let bestDistance = limit + 1;
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - word.length) > limit) continue;
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance >= bestDistance || distance >= candidate.length) continue;
    best = candidate;
    bestDistance = distance;
  }
  return best;
}

/** `; did you mean 'image'?`, or the list of what is valid if nothing is near. */
export function suggestion(word: string, candidates: readonly string[], what: string): string {
  const guess = nearest(word, candidates);
  return guess === null ? `; ${what}: ${candidates.join(', ')}` : `; did you mean '${guess}'?`;
}

/** Text of the file in a message: in quotes, and cut where it is long. */
export function quoted(text: string): string {
  return text.length > 60 ? `'${text.slice(0, 57)}...'` : `'${text}'`;
}
