/** Mistakes in a file of devices: all of them are gathered, so that a user mends them in one go. */
import { assert, type ErrorCode, VloError } from '../errors.js';

/** A place in the file; both numbers count from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** One mistake and where it stands. */
export interface Problem extends Position {
  readonly code: ErrorCode;
  readonly message: string;
}

/** Lines of a message: whoever made more mistakes mends the first ones first. */
const SHOWN_MAX = 50;

function messageOf(file: string, problems: readonly Problem[]): string {
  const lines = problems
    .slice(0, SHOWN_MAX)
    .map(({ code, line, column, message }) => `${file}:${line}:${column}: ${code}: ${message}`);
  if (problems.length > SHOWN_MAX) lines.push(`${file}: and ${problems.length - SHOWN_MAX} more`);
  return lines.join('\n');
}

/** All mistakes of a file. Its code is that of the first; its message has one line for each. */
export class ConfigError extends VloError {
  readonly problems: readonly Problem[];

  constructor(file: string, problems: readonly Problem[], options?: ErrorOptions) {
    assert(problems.length > 0, 'a ConfigError without problems');
    super(problems[0].code, messageOf(file, problems), options);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/** Gathers problems while a file is read. */
export class ProblemList {
  /** By what is shown: an alias shows a mistake at its anchor, which is then one mistake. */
  private readonly problems = new Map<string, Problem>();

  add(code: ErrorCode, { line, column }: Position, text: string): void {
    // One line each, and nothing in it that a terminal obeys: parts of it come from the file.
    const message = text.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ');
    this.problems.set(`${line}:${column}:${code}:${message}`, { code, line, column, message });
  }

  get isEmpty(): boolean {
    return this.problems.size === 0;
  }

  /** Throws what was gathered, in the order of the file. @throws ConfigError unless empty. */
  throwIfAny(file: string): void {
    if (this.isEmpty) return;
    const sorted = [...this.problems.values()].sort(
      (a, b) => a.line - b.line || a.column - b.column,
    );
    throw new ConfigError(file, sorted);
  }
}
