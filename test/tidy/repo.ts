/** The checkout as the tidy rules see it: a list of files with their text. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface RepoFile {
  /** Path from the root of the checkout, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

/** A rule looks at all files and returns one line for each problem: `path:line: what to do`. */
export type Rule = (files: readonly RepoFile[]) => string[];

/** Files that a rule lets through, each with the reason why. */
export type AllowList = Readonly<Record<string, string>>;

/** Made by tools and ignored by git: nothing in there is ours to keep tidy. */
const GENERATED = new Set([
  '.git',
  'node_modules',
  'dist',
  'coverage',
  'docs/api',
  'bench/results',
]);
const BINARY = /\.(png|jpg|gif|ico|gz|xz|img|node|woff2?)$/;

/** Reads the checkout; asks no git, so that a source archive passes too. */
export function readRepo(root: string): RepoFile[] {
  const files: RepoFile[] = [];
  const visit = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (GENERATED.has(path) || entry.name === 'node_modules') continue;
      if (entry.isDirectory()) visit(path);
      else if (entry.isFile() && !BINARY.test(path)) {
        files.push({ path, text: readFileSync(join(root, path), 'utf8') });
      }
    }
  };
  visit('');
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

export const isTypeScript = (path: string): boolean => path.endsWith('.ts');
export const isScript = (path: string): boolean => /\.(ts|mjs|js)$/.test(path);
export const isCode = (path: string): boolean =>
  isScript(path) || path.endsWith('.sh') || path.startsWith('.ci/');
export const isMarkdown = (path: string): boolean => path.endsWith('.md');

/** Tests, and the helpers beside them; neither is part of the product. */
export const isTest = (path: string): boolean =>
  !path.startsWith('src/') || /\.test\.ts$|(^|\/)test-utils\.ts$/.test(path);

/** Line number, from 1, of an offset in a text. */
export function lineAt(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf('\n'); at !== -1 && at < offset; at = text.indexOf('\n', at + 1)) {
    line += 1;
  }
  return line;
}

/** Problems minus those in allowed files, plus one for each entry that allows nothing any more. */
export function applyAllowList(
  problems: readonly { path: string; message: string }[],
  allow: AllowList,
): string[] {
  const needed = new Set(problems.map((problem) => problem.path));
  const stale = Object.keys(allow).filter((path) => !needed.has(path));
  return [
    ...problems.filter((problem) => !(problem.path in allow)).map((problem) => problem.message),
    ...stale.map((path) => `${path}: needs its allow-list entry no more; take the entry away`),
  ];
}
