/**
 * The YAML under a file of devices: nodes with their positions, aliases followed, keys checked.
 *
 * The form of the file is shallow, so nodes are visited one level at a time and nothing is
 * expanded: a file that refers to itself, or doubles at each line, costs no more than its size.
 */
import {
  Composer,
  type CST,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  Parser,
  visit,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml';
import type { Position, ProblemList } from './config-problems.js';
import { quoted } from './config-values.js';

/** A list of devices has some kilobytes; the parser takes seconds over a megabyte of junk. */
export const TEXT_BYTES_MAX = 256 * 1024;
/**
 * Levels of maps and lists; a list of devices has four. The parser recurses, and a regular
 * expression that is first used with little stack left ends the whole process.
 */
const DEPTH_MAX = 50;
/** Most aliases of a file, so that a long mistake is not looked at once for each of thousands. */
const ALIASES_MAX = 100;

export function reportLength(problems: ProblemList): void {
  problems.add(
    'VLO_CONFIG_SYNTAX',
    START,
    'the file is longer than 256 KiB: it is no list of devices',
  );
}

const START: Position = { line: 1, column: 1 };

/** A value of the file, with the key or the list that it stands under. */
export interface Value {
  /** The node behind aliases; null where a key has no value at all. */
  readonly node: Node | null;
  readonly position: Position;
}

/** A key of a map with its value. */
export interface Entry extends Value {
  readonly key: string;
  readonly keyPosition: Position;
}

/** Words for a value in a message: `not a list`. */
export function describeValue({ node }: Value): string {
  if (isMap(node)) return 'a map';
  if (isSeq(node)) return 'a list';
  const value = isScalar(node) ? node.value : null;
  if (value === null) return 'nothing';
  return typeof value === 'string' ? quoted(value) : `${value}`;
}

/** The value of a scalar; undefined for maps and lists, null where nothing was written. */
export function scalarOf({ node }: Value): unknown {
  if (node === null) return null;
  return isScalar(node) ? node.value : undefined;
}

/** What a scalar looks like in the file: `007` is the number 7. */
export function sourceOf({ node }: Value): string {
  return isScalar(node) ? (node.source ?? `${node.value}`) : '';
}

/** The first collection that is nested too deeply. Without recursion: that is what it guards. */
function findTooDeep(token: CST.Token): CST.Token | null {
  const open: [token: CST.Token, depth: number][] = [[token, 0]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [parent, depth] = next;
    if (depth > DEPTH_MAX) return parent;
    if (parent.type === 'document' && parent.value) open.push([parent.value, depth + 1]);
    if (!('items' in parent)) continue;
    for (const { key, value } of parent.items) {
      if (key) open.push([key, depth + 1]);
      if (value) open.push([value, depth + 1]);
    }
  }
  return null;
}

export class ConfigDocument {
  readonly root: Value;
  private readonly document: Document.Parsed | null = null;
  private readonly lines = new LineCounter();
  private readonly targets = new Map<Node, Node>();
  private readonly problems: ProblemList;

  /** Parses `text`; where it is no YAML, `problems` gets why, and there is no root to read. */
  constructor(text: string, problems: ProblemList) {
    this.problems = problems;
    this.root = { node: null, position: START };
    if (text.length > TEXT_BYTES_MAX) {
      reportLength(problems);
      return;
    }
    this.document = this.parse(text.replace(/^\uFEFF/, ''));
    if (this.document !== null) this.root = this.value(this.document.contents, START);
  }

  /** Does what `parseDocument` does, with a look at the tokens before they are composed. */
  private parse(text: string): Document.Parsed | null {
    const tokens = [...new Parser(this.lines.addNewLine).parse(text)];
    for (const token of tokens) {
      const tooDeep = findTooDeep(token);
      if (tooDeep === null) continue;
      const message = `at most ${DEPTH_MAX} levels of maps and lists are possible`;
      this.problems.add('VLO_CONFIG_SYNTAX', this.positionAt(tooDeep.offset), message);
      return null;
    }
    const composer = new Composer({
      // Whatever a %YAML directive says: `yes` and `1:30` are texts, and `<<` is no command.
      schema: 'core',
      merge: false,
      resolveKnownTags: false,
      // Compares each key with each other one: see `entries`.
      uniqueKeys: false,
    });
    const [document, second] = composer.compose(tokens, true, text.length);
    this.reportErrors(document);
    if (second !== undefined) {
      const message = "only one document is read: take out this '---' and what follows it";
      this.problems.add('VLO_CONFIG_SYNTAX', this.positionAt(second.range[0]), message);
    }
    if (this.problems.isEmpty) this.findAliases(document);
    return document;
  }

  private reportErrors({ errors, warnings }: Document.Parsed): void {
    let lineReported = 0;
    for (const { pos, message } of [...errors, ...warnings]) {
      const position = this.positionAt(pos[0]);
      // What follows on the same line mostly follows from the first mistake.
      if (position.line === lineReported) continue;
      lineReported = position.line;
      this.problems.add('VLO_CONFIG_SYNTAX', position, message);
    }
  }

  /** An alias means the last anchor of its name before it. */
  private findAliases(document: Document.Parsed): void {
    const anchors = new Map<string, Node>();
    let aliasCount = 0;
    visit(document, {
      Node: (_key, node) => {
        if (!isAlias(node)) {
          if (node.anchor !== undefined) anchors.set(node.anchor, node);
          return undefined;
        }
        const target = anchors.get(node.source);
        aliasCount += 1;
        if (target !== undefined && aliasCount <= ALIASES_MAX) {
          this.targets.set(node, target);
          return undefined;
        }
        const mistake =
          target === undefined
            ? `there is no anchor '&${node.source}' before this alias`
            : `at most ${ALIASES_MAX} aliases are possible`;
        this.problems.add('VLO_CONFIG_SYNTAX', this.positionOf(node), mistake);
        return aliasCount > ALIASES_MAX ? visit.BREAK : undefined;
      },
    });
  }

  private positionAt(offset: number): Position {
    const { line, col } = this.lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  }

  private positionOf(node: Node): Position {
    return this.positionAt(node.range?.[0] ?? 0);
  }

  private value(node: unknown, parent: Position): Value {
    if (node === null || node === undefined) return { node: null, position: parent };
    const position = this.positionOf(node as Node);
    return { node: this.targets.get(node as Node) ?? (node as Node), position };
  }

  /** Keys of a map in their order. Reports keys that are no text, and the second of two equals. */
  entries(map: YAMLMap): Entry[] {
    const found = new Map<string, Entry>();
    for (const pair of map.items as Pair[]) {
      const key = this.value(pair.key, this.positionOf(map));
      const name = this.keyName(key);
      if (name === null) continue;
      const first = found.get(name);
      if (first !== undefined) {
        const line = first.keyPosition.line;
        const message = `${quoted(name)} is given twice, first in line ${line}`;
        this.problems.add('VLO_CONFIG_KEY', key.position, message);
        continue;
      }
      const { node, position } = this.value(pair.value, key.position);
      found.set(name, { key: name, keyPosition: key.position, node, position });
    }
    return [...found.values()];
  }

  private keyName(key: Value): string | null {
    const name = scalarOf(key);
    if (name === '<<') {
      const message = "merge keys ('<<') are not read: write the keys out";
      this.problems.add('VLO_CONFIG_KEY', key.position, message);
      return null;
    }
    if (typeof name === 'string') return name;
    const hint =
      name === undefined || name === null ? '' : `; put it in quotes: "${sourceOf(key)}"`;
    const message = `a key has to be a text, not ${describeValue(key)}${hint}`;
    this.problems.add('VLO_CONFIG_KEY', key.position, message);
    return null;
  }

  /** Items of a list. */
  items(list: YAMLSeq): Value[] {
    const parent = this.positionOf(list);
    return list.items.map((item) => this.value(item, parent));
  }

  /** A value as plain data; reports one whose aliases lead back to itself, and the like. */
  plain(value: Value): unknown {
    const scalar = scalarOf(value);
    if (scalar !== undefined || this.document === null) return scalar;
    try {
      return value.node?.toJS(this.document, { maxAliasCount: ALIASES_MAX });
    } catch (error) {
      const reason = error instanceof RangeError ? 'it is nested too deeply' : String(error);
      this.problems.add('VLO_CONFIG_VALUE', value.position, `this cannot be resolved: ${reason}`);
      return undefined;
    }
  }
}
