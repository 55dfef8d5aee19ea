import { describe, expect, test } from 'vitest';
import { formatFigure, formatRatio } from './format.js';
import { escapeText, Markup, markup } from './markup.js';
import { renderHtml } from './report-html.js';
import { barPlot, dotPlot, groupPlot } from './report-svg.js';
import { renderText } from './report-text.js';
import type { BenchResult } from './result.js';
import { resultOf } from './test-utils.js';

/** Elements that HTML never closes would not be closed here either: ours all are. */
function unbalanced(text: string): string[] {
  const open: string[] = [];
  const problems: string[] = [];
  for (const match of text.matchAll(
    /<(\/?)([a-z][a-z0-9]*)((?:\s+[\w:-]+="[^"<>]*")*)\s*(\/?)>/gi,
  )) {
    const [, closes, name, , isEmpty] = match;
    if (closes === '/') {
      const last = open.pop();
      if (last !== name) problems.push(`</${name}> closes <${last}>`);
    } else if (isEmpty === '') open.push(name);
  }
  return [...problems, ...open.map((name) => `<${name}> stays open`)];
}

/** What is left when every tag that is well-formed is taken out holds no bracket. */
function strayBrackets(text: string): string[] {
  const body = text.replace(/<style>[\s\S]*?<\/style>/, '').replace('<!doctype html>', '');
  const rest = body.replace(/<\/?[a-z][a-z0-9]*(?:\s+[\w:-]+="[^"<>]*")*\s*\/?>/gi, '');
  return rest.match(/.{0,20}[<>].{0,20}/g) ?? [];
}

const svgsOf = (text: string): string[] => text.match(/<svg[\s\S]*?<\/svg>/g) ?? [];

const evil = `</style><script>alert("1" & '2')</script>`;

function withEvilTexts(): BenchResult {
  const result = resultOf();
  const [first, ...transports] = result.transports;
  return resultOf({
    command: evil,
    machine: { ...result.machine, processor: evil, distribution: evil, kernel: evil },
    versions: { [evil]: evil },
    workloads: result.workloads.map((workload) => ({ ...workload, title: evil })),
    transports: [
      { ...first, state: 'failed', title: evil, reason: evil, enable: evil, commands: [evil] },
      ...transports,
    ],
    rows: result.rows.map((row) => ({ ...row, reason: evil, command: evil })),
  });
}

describe('markup', () => {
  test('what is put in is text, unless it is markup', () => {
    expect(markup`<p>${evil}</p>`.text).toBe(
      '<p>&lt;/style&gt;&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;</p>',
    );
    expect(markup`${[markup`<b>${1}</b>`, null]}${null}${new Markup('<hr/>')}`.text).toBe(
      '<b>1</b><hr/>',
    );
    expect(escapeText('a\u0000b\u001bc\n')).toBe('abc\n');
  });
});

describe('figures', () => {
  test.each([
    [24_900.4, 'iops', '24,900'],
    [12.345, 'count', '12.3'],
    [2.004, 'count', '2.00'],
    [0, 'count', '0'],
    [0.001, 'count', '<0.01'],
    [999, 'us', '999 µs'],
    [1500, 'us', '1.50 ms'],
    [2_500_000, 'us', '2.50 s'],
    [1024, 'bytesPerSecond', '1.00 KiB/s'],
    [5 * 1024 ** 2, 'bytesPerSecond', '5.00 MiB/s'],
    [5 * 1024 ** 3, 'bytesPerSecond', '5.00 GiB/s'],
    [null, 'us', '–'],
  ] as const)('%s %s', (value, unit, text) => {
    expect(formatFigure(value, unit)).toBe(text);
  });

  test('ratios', () => expect([formatRatio(1.254), formatRatio(null)]).toEqual(['1.25x', '–']));
});

describe('plots', () => {
  const spread = { median: 10, min: 8, max: 12 };
  const row = { label: 'a', colour: 't0', spread, text: '10', isCeiling: false };

  test('the greatest value fills the width, and a ceiling is cut', () => {
    const ceiling = {
      ...row,
      label: 'c',
      spread: { median: 99, min: 98, max: 99 },
      isCeiling: true,
    };
    const { text } = barPlot('bars', [row, ceiling, { ...row, label: 'b', spread: null }]);
    expect(text).toContain('width="283.33"');
    expect(text).toContain('class="cut"');
    expect(text.match(/<rect/g)).toHaveLength(2);
    expect(unbalanced(text)).toEqual([]);
  });

  test('nothing but zeros, or nothing', () => {
    const zero = { median: 0, min: 0, max: 0 };
    for (const plot of [
      barPlot('z', [{ ...row, spread: zero }]),
      barPlot('none', []),
      groupPlot('z', [{ label: 'g', bars: [{ label: 'a', colour: 't0', value: 0, text: '0' }] }]),
      groupPlot('none', []),
      dotPlot('one', [{ label: 'a', colour: 't0', text: '', values: [10, 10, 10] }], String),
    ]) {
      expect(plot.text).not.toMatch(/NaN|Infinity|undefined/);
      expect(unbalanced(plot.text)).toEqual([]);
    }
  });

  test('an axis of powers of ten', () => {
    const rows = [{ label: 'a', colour: 't0', text: '', values: [20, 300, 4000] }];
    const { text } = dotPlot('dots', rows, (value) => `${value}!`);
    expect(['10!', '100!', '1000!', '10000!'].filter((tick) => text.includes(`>${tick}<`))).toEqual(
      [...['10!', '100!', '1000!', '10000!']],
    );
  });
});

describe('the report', () => {
  const documents: [string, string][] = [
    ['one result', renderHtml([resultOf()])],
    ['three results', renderHtml([resultOf(), resultOf(), resultOf()])],
    ['texts that look like markup', renderHtml([withEvilTexts(), withEvilTexts()])],
    ['nothing measured', renderHtml([resultOf({ rows: [] })])],
  ];

  test.each(documents)('%s: needs nothing but itself', (_name, text) => {
    expect(text).not.toMatch(/https?:|\/\/[a-z]|url\(|@import|<script|<link|<img|<iframe|src=/i);
    expect(text).not.toMatch(/\son[a-z]+="/i);
  });

  test.each(documents)('%s: is well-formed', (_name, text) => {
    expect(text.startsWith('<!doctype html>')).toBe(true);
    expect(unbalanced(text.replace('<!doctype html>', ''))).toEqual([]);
    expect(strayBrackets(text)).toEqual([]);
    expect(text).not.toMatch(/NaN|Infinity|undefined|\[object/);
  });

  test('every drawing has a title', () => {
    const drawings = svgsOf(renderHtml([resultOf(), resultOf()]));
    expect(drawings.length).toBeGreaterThan(20);
    for (const drawing of drawings)
      expect(drawing).toMatch(/^<svg viewBox="0 0 340 [\d.]+" role="img"><title>/);
  });

  test('a phone, and a dark room', () => {
    const [, text] = documents[0];
    expect(text).toContain('width=device-width');
    expect(text).toContain('prefers-color-scheme: dark');
  });

  test('what it says', () => {
    const text = renderHtml([resultOf()]);
    expect(text).toContain('The processors are emulated');
    expect(text).toContain('not allowed by VDUSE');
    expect(text).toContain('700 (1.40x VDUSE)');
    expect(text).toContain('fio --rw=randread');
    expect(text).not.toContain('Side by side');
    expect(renderHtml([resultOf(), resultOf()])).toContain('Side by side');
  });

  test('links within lead somewhere', () => {
    const [, text] = documents[1];
    const targets = [...text.matchAll(/href="#([^"]+)"/g)].map((match) => match[1]);
    expect(targets).toHaveLength(3);
    for (const target of targets) expect(text).toContain(`id="${target}"`);
  });
});

describe('the table', () => {
  test('figures, reasons, bars', () => {
    const text = renderText(resultOf());
    expect(text).toMatch(/loopback, bounce +700 +\(630 - 840\) +1\.40x/);
    expect(text).toContain('VDUSE               skipped: not allowed by VDUSE');
    expect(text).toContain('bar at least 1.2x met, aim 1.4x met');
    expect(text).toContain('emulated');
  });

  test('what is left out, and what adds it', () => {
    const [first, ...others] = resultOf().transports;
    const missing = {
      ...first,
      state: 'skipped',
      reason: 'no module',
      enable: 'modprobe x',
    } as const;
    const text = renderText(resultOf({ transports: [missing, ...others], rows: [] }));
    expect(text).toContain('loopback, bounce: skipped: no module\n  add: modprobe x');
  });
});
