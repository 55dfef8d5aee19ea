/** Facts about TypeScript and JavaScript sources, taken from the compiler's syntax tree. */
import { posix } from 'node:path';
import ts from 'typescript';
import type { RepoFile } from './repo.js';

const trees = new WeakMap<RepoFile, ts.SourceFile>();

function treeOf(file: RepoFile): ts.SourceFile {
  let tree = trees.get(file);
  if (tree === undefined) {
    tree = ts.createSourceFile(file.path, file.text, ts.ScriptTarget.ES2023, true);
    trees.set(file, tree);
  }
  return tree;
}

function visitAll(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => visitAll(child, visit));
}

/** `new URL('./x.js', import.meta.url)`: how workers and spawned programs are named. */
function urlTarget(node: ts.Node): ts.Node | undefined {
  const isUrl = ts.isNewExpression(node) && node.expression.getText() === 'URL';
  const [target, base] = (isUrl && node.arguments) || [];
  return base?.getText() === 'import.meta.url' ? target : undefined;
}

function specifierOf(node: ts.Node): ts.Node | undefined {
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) return node.moduleSpecifier;
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
    return node.argument.literal;
  }
  if (!ts.isCallExpression(node)) return urlTarget(node);
  const callee = node.expression;
  const isImport = callee.kind === ts.SyntaxKind.ImportKeyword || callee.getText() === 'require';
  return isImport ? node.arguments[0] : undefined;
}

export interface Import {
  readonly specifier: string;
  readonly line: number;
}

/** All modules that a file names: imports, re-exports, `import()`, `require()`, worker URLs. */
export function importsOf(file: RepoFile): Import[] {
  const found: Import[] = [];
  const tree = treeOf(file);
  visitAll(tree, (node) => {
    const specifier = specifierOf(node);
    if (specifier === undefined || !ts.isStringLiteralLike(specifier)) return;
    const { line } = tree.getLineAndCharacterOfPosition(specifier.getStart());
    found.push({ specifier: specifier.text, line: line + 1 });
  });
  return found;
}

/** The source file that a relative import means; packages give null. */
export function resolveImport(from: string, specifier: string): string | null {
  if (!specifier.startsWith('.')) return null;
  return posix.join(posix.dirname(from), specifier).replace(/\.js$/, '.ts');
}

/** The text with comments and the contents of strings turned into blanks; offsets stay. */
export function codeOnly(file: RepoFile): string {
  const tree = treeOf(file);
  // `split` and not a spread: the compiler counts UTF-16 units.
  const blank = file.text.replace(/[^\n]/g, ' ').split('');
  const visit = (node: ts.Node): void => {
    if (ts.isJSDoc(node)) return;
    const children = node.getChildren(tree);
    if (children.length > 0) for (const child of children) visit(child);
    else if (!ts.isStringLiteralLike(node) && !ts.isTemplateLiteralToken(node)) {
      for (let at = node.getStart(tree); at < node.end; at += 1) blank[at] = file.text[at];
    }
  };
  visit(tree);
  return blank.join('');
}

/** `describe('…', () => { … })` only groups: its length says nothing. */
function isGroupingCallback(node: ts.Node): boolean {
  return (
    ts.isCallExpression(node.parent) && /^(describe|suite)/.test(node.parent.expression.getText())
  );
}

export interface FunctionSpan {
  readonly name: string;
  readonly line: number;
  readonly lineCount: number;
}

/** Every function with its length in lines, from its first word to its closing brace. */
export function functionsOf(file: RepoFile): FunctionSpan[] {
  const tree = treeOf(file);
  const spans: FunctionSpan[] = [];
  visitAll(tree, (node) => {
    if (!ts.isFunctionLike(node) || isGroupingCallback(node)) return;
    const start = tree.getLineAndCharacterOfPosition(node.getStart(tree)).line;
    const end = tree.getLineAndCharacterOfPosition(node.end).line;
    const name = node.name?.getText(tree) ?? 'function';
    spans.push({ name, line: start + 1, lineCount: end - start + 1 });
  });
  return spans;
}

/**
 * How many lines of the bodies of functions say something: all but comments, blanks, and lines of
 * nothing but brackets.
 */
export function logicLinesOf(file: RepoFile): number {
  const code = codeOnly(file).split('\n');
  const lines = new Set<number>();
  const tree = treeOf(file);
  visitAll(tree, (node) => {
    if (!ts.isFunctionLike(node) || !('body' in node) || node.body === undefined) return;
    const body = node.body as ts.Node;
    const first = tree.getLineAndCharacterOfPosition(body.getStart(tree)).line;
    const last = tree.getLineAndCharacterOfPosition(body.end).line;
    // The head of a function says something too, but not what it does.
    const start = ts.isBlock(body) ? first + 1 : first;
    for (let line = start; line <= last; line += 1) {
      if (/[^\s{}()[\];,]/.test(code[line] ?? '')) lines.add(line);
    }
  });
  return lines.size;
}
