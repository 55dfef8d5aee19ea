/** Rules about the documentation: links, the index, error codes, dependencies. */
import { posix } from 'node:path';
import { packageOf } from './layers.js';
import { isMarkdown, isTest, isTypeScript, lineAt, type RepoFile, type Rule } from './repo.js';

/** Blanks code blocks and code spans: what looks like a link in there is none. */
function proseOnly(text: string): string {
  const blank = (match: string): string => match.replace(/[^\n]/g, ' ');
  return text.replace(/^(```|~~~)[\s\S]*?^\1/gm, blank).replace(/`[^`\n]*`/g, blank);
}

interface Link {
  readonly target: string;
  readonly line: number;
}

function linksOf(file: RepoFile): Link[] {
  const prose = proseOnly(file.text);
  const inline = [...prose.matchAll(/\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)/g)];
  const named = [...prose.matchAll(/^\[[^\]]+\]:\s*(\S+)/gm)];
  return [...inline, ...named].map((match) => ({
    target: match[1],
    line: lineAt(file.text, match.index),
  }));
}

/** The anchor that a forge gives to a heading. */
function anchorOf(heading: string): string {
  const plain = heading.replace(/[`*]/g, '').replace(/\[([^\]]*)\]\([^)]*\)/g, '$1');
  return plain
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/\s/g, '-');
}

function anchorsOf(file: RepoFile): Set<string> {
  const text = file.text.replace(/^(```|~~~)[\s\S]*?^\1/gm, '');
  const headings = [...text.matchAll(/^#{1,6}\s+(.+)$/gm)].map((match) => anchorOf(match[1]));
  const ids = [...text.matchAll(/\b(?:id|name)="([^"]+)"/g)].map((match) => match[1]);
  return new Set([...headings, ...ids]);
}

/** The file that a relative link means; the part after `#` is left out. */
function linkedPath(from: string, target: string): string {
  const [path] = target.split('#');
  return path === '' ? from : posix.normalize(posix.join(posix.dirname(from), path));
}

const isExternal = (target: string): boolean => /^[a-z][a-z+.-]*:/i.test(target);

/** Relative links in Markdown lead to a file or folder that is there, and to a heading in it. */
export const linksResolve: Rule = (files) => {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const exists = (path: string): boolean =>
    path === '.' || byPath.has(path) || files.some((f) => f.path.startsWith(`${path}/`));
  return files
    .filter(({ path }) => isMarkdown(path))
    .flatMap((file) =>
      linksOf(file).flatMap(({ target, line }) => {
        if (isExternal(target)) return [];
        const path = linkedPath(file.path, target).replace(/\/$/, '');
        if (!exists(path)) return [`${file.path}:${line}: ${target} leads nowhere`];
        const anchor = target.split('#')[1];
        const page = byPath.get(path);
        if (!anchor || page === undefined || !isMarkdown(path)) return [];
        if (anchorsOf(page).has(anchor)) return [];
        return [`${file.path}:${line}: ${path} has no heading #${anchor}`];
      }),
    );
};

/** Every page under docs/ is reached from docs/README.md, so that none is lost. */
export const docsAreIndexed: Rule = (files) => {
  const pages = files.filter(({ path }) => path.startsWith('docs/') && isMarkdown(path));
  const index = pages.find(({ path }) => path === 'docs/README.md');
  const linked = new Set(
    (index === undefined ? [] : linksOf(index)).map(({ target }) =>
      linkedPath('docs/README.md', target),
    ),
  );
  return pages
    .filter(({ path }) => path !== 'docs/README.md' && !linked.has(path))
    .map(({ path }) => `${path}: no link from docs/README.md leads here`);
};

/** Each error code is documented and thrown somewhere; the page names no code that is gone. */
export const errorCodesAreDocumented =
  (codes: readonly string[]): Rule =>
  (files) => {
    const page = files.find(({ path }) => path === 'docs/reference/errors.md')?.text ?? '';
    const listed = new Set(page.match(/\bVLO_[A-Z0-9_]+\b/g));
    const sources = files
      .filter(({ path }) => path.startsWith('src/') && isTypeScript(path) && !isTest(path))
      .map(({ text }) => text)
      .join('\n');
    const used = new Set([...sources.matchAll(/['"](VLO_[A-Z0-9_]+)['"]/g)].map((m) => m[1]));
    return [
      ...codes
        .filter((code) => !listed.has(code))
        .map((code) => `docs/reference/errors.md: ${code} is missing; run npm run docs:errors`),
      ...[...listed]
        .filter((code) => !codes.includes(code))
        .map((code) => `docs/reference/errors.md: ${code} is no error code`),
      ...codes
        .filter((code) => !used.has(code))
        .map((code) => `src/errors.ts: nothing in src/ throws ${code}`),
    ];
  };

/** The generated page of errors is the one that the table gives. */
export const errorPageIsCurrent =
  (expected: string): Rule =>
  (files) => {
    const page = files.find(({ path }) => path === 'docs/reference/errors.md')?.text;
    if (page === expected) return [];
    return ['docs/reference/errors.md: not what src/errors.ts gives; run npm run docs:errors'];
  };

/** docs/internals/dependencies.md says why each package is there, and names none that is not. */
export const dependenciesAreExplained: Rule = (files) => {
  const path = 'docs/internals/dependencies.md';
  const page = files.find((file) => file.path === path)?.text ?? '';
  const rows = new Set([...page.matchAll(/^\| *`([^`]+)` *\|/gm)].map((match) => match[1]));
  const { dependencies = {}, devDependencies = {} } = packageOf(files);
  const names = Object.keys({ ...dependencies, ...devDependencies });
  return [
    ...names.filter((name) => !rows.has(name)).map((name) => `${path}: say why ${name} is there`),
    ...[...rows].filter((name) => !names.includes(name)).map((name) => `${path}: ${name} is gone`),
  ];
};
