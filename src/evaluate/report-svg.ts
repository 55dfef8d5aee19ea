/**
 * Plots as SVG, written here and now: no script draws them. They are narrow, so that a phone shows
 * them without scrolling; labels stand above their bars and never beside them.
 */
import { type Markup, markup } from './markup.js';
import type { Spread } from './statistics.js';

const WIDTH = 340;
const ROW = 34;
const BAR_HEIGHT = 10;
const BAR_TOP = 17;
const GROUP_HEAD = 20;
const THIN_ROW = 15;
const THIN_BAR = 9;
const NUMBER_WIDTH = 58;

/** Two places are finer than any screen. */
const at = (value: number): number => Math.round(value * 100) / 100;

function svg(height: number, title: string, content: readonly (Markup | null)[]): Markup {
  return markup`<svg viewBox="0 0 ${WIDTH} ${at(height)}" role="img"><title>${title}</title>${content}</svg>`;
}

/** A bar of {@link barPlot}. */
export interface BarRow {
  readonly label: string;
  /** Class of its colour. */
  readonly colour: string;
  /** Null: nothing was measured, and `text` says why. */
  readonly spread: Spread | null;
  readonly text: string;
  /** May be longer than the scale, which the others make; it is drawn cut off then. */
  readonly isCeiling: boolean;
}

function barScale(rows: readonly BarRow[]): number {
  const maxima = (some: readonly BarRow[]): number =>
    Math.max(0, ...some.map(({ spread }) => spread?.max ?? 0));
  return maxima(rows.filter(({ isCeiling }) => !isCeiling)) || maxima(rows) || 1;
}

function bar(row: BarRow, y: number, scale: number): Markup {
  const { spread } = row;
  const head = markup`<text x="0" y="${y + 12}">${row.label}</text><text x="${WIDTH}" y="${y + 12}" class="end">${row.text}</text>`;
  if (spread === null) return head;
  const x = (value: number): number => at((Math.min(value, scale) / scale) * WIDTH);
  const top = y + BAR_TOP;
  const middle = top + BAR_HEIGHT / 2;
  const isCut = spread.median > scale;
  const body = markup`<rect x="0" y="${top}" width="${x(spread.median)}" height="${BAR_HEIGHT}" class="${row.colour}"/>`;
  if (isCut) {
    const cut = `M${WIDTH - 22} ${top + BAR_HEIGHT + 2}l6 ${-BAR_HEIGHT - 4}m6 0l-6 ${BAR_HEIGHT + 4}`;
    return markup`${head}${body}<path d="${cut}" class="cut"/>`;
  }
  const range = `M${x(spread.min)} ${middle}H${x(spread.max)}M${x(spread.min)} ${top}v${BAR_HEIGHT}M${x(spread.max)} ${top}v${BAR_HEIGHT}`;
  return markup`${head}${body}<path d="${range}" class="range"/>`;
}

/** Bars with the least and the greatest value of the rounds; from zero, so that lengths compare. */
export function barPlot(title: string, rows: readonly BarRow[]): Markup {
  const scale = barScale(rows);
  return svg(
    rows.length * ROW,
    title,
    rows.map((row, i) => bar(row, i * ROW, scale)),
  );
}

/** A line of {@link dotPlot}. */
export interface DotRow {
  readonly label: string;
  readonly colour: string;
  readonly text: string;
  /** Values in rising order: the first is drawn full, the last hollow. */
  readonly values: readonly number[];
}

function dots(row: DotRow, y: number, x: (value: number) => number): Markup {
  const middle = y + BAR_TOP + BAR_HEIGHT / 2;
  const line = `M${x(row.values[0])} ${middle}H${x(row.values[row.values.length - 1])}`;
  const marks = row.values.map((value, i) => {
    const style = i === 0 ? row.colour : i === 1 ? `${row.colour} half` : 'hollow';
    return markup`<circle cx="${x(value)}" cy="${middle}" r="4" class="${style} line-${row.colour}"/>`;
  });
  return markup`<text x="0" y="${y + 12}">${row.label}</text><text x="${WIDTH}" y="${y + 12}" class="end">${row.text}</text><path d="${line}" class="range"/>${marks}`;
}

/** Values on a logarithmic axis, with a mark at each power of ten. */
export function dotPlot(
  title: string,
  rows: readonly DotRow[],
  format: (value: number) => string,
): Markup {
  const values = rows.flatMap((row) => row.values).filter((value) => value > 0);
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values))), low + 1);
  const inset = 6;
  const x = (value: number): number => {
    const share = (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
    return at(inset + share * (WIDTH - 2 * inset));
  };
  const bottom = rows.length * ROW;
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => {
    const value = 10 ** (low + i);
    const anchor = i === 0 ? 'start' : i === high - low ? 'end' : 'middle';
    const place = i === 0 ? 0 : i === high - low ? WIDTH : x(value);
    return markup`<path d="M${x(value)} 0V${bottom}" class="grid"/><text x="${place}" y="${bottom + 14}" class="${anchor} small">${format(value)}</text>`;
  });
  return svg(bottom + 18, title, [...ticks, ...rows.map((row, i) => dots(row, i * ROW, x))]);
}

/** Bars of {@link groupPlot} that belong together. */
export interface BarGroup {
  readonly label: string;
  readonly bars: readonly {
    readonly label: string;
    readonly colour: string;
    readonly value: number;
    readonly text: string;
  }[];
}

/**
 * Thin bars in groups; what their colours mean stands in a legend elsewhere.
 * @param options `reference`: a value to mark across the bars; `least`: what the full width stands
 *   for at least, so that next to nothing does not look like much
 */
export function groupPlot(
  title: string,
  groups: readonly BarGroup[],
  { reference = null, least = 0 }: { reference?: number | null; least?: number } = {},
): Markup {
  const scale = Math.max(
    reference ?? 0,
    least,
    ...groups.flatMap((g) => g.bars.map((b) => b.value)),
    0,
  );
  const space = WIDTH - NUMBER_WIDTH;
  const x = (value: number): number => at((value / (scale || 1)) * space);
  const parts: Markup[] = [];
  let y = 0;
  for (const group of groups) {
    parts.push(markup`<text x="0" y="${y + 14}">${group.label}</text>`);
    y += GROUP_HEAD;
    const top = y;
    for (const { label, colour, value, text } of group.bars) {
      const width = Math.max(x(value), value > 0 ? 1 : 0);
      parts.push(
        markup`<rect x="0" y="${y}" width="${width}" height="${THIN_BAR}" class="${colour}"><title>${label}: ${text}</title></rect><text x="${width + 5}" y="${y + THIN_BAR - 0.5}" class="small">${text}</text>`,
      );
      y += THIN_ROW;
    }
    if (reference !== null) {
      parts.push(markup`<path d="M${x(reference)} ${top - 3}V${y - 3}" class="reference"/>`);
    }
  }
  return svg(y + 2, title, parts);
}
