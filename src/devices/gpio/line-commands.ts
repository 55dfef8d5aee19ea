/**
 * Lines by words: what scripts and sockets say to a simulated chip, and `vlo gpio` to lines that are
 * attached. A command is a line of words; what comes back are lines of JSON.
 *
 *   info                     → {"lines":[{"line":0,"name":"led","direction":"out","value":1,…},…]}
 *   get led 3                → {"values":[1,0]}
 *   set led=1 3=0            → {"values":[1,0]}
 *   watch button both        → {"watching":2}, then {"line":2,"name":"button","value":1} for each
 *   wire led button          → {"wired":[0,2]}     of a simulated chip
 *   anything that is wrong   → {"error":"…"}
 */
import { VloError } from '../../errors.js';
import { DIRECTION, TRIGGER } from './wire.js';

/** What is known of a line. */
export interface LineState {
  readonly name: string;
  readonly direction: number;
  /** Null when it cannot be read now. */
  readonly value: number | null;
  /** What triggers its interrupt: a TRIGGER. */
  readonly edges: number;
}

/** Ends a watch. */
export type EndWatch = () => void | Promise<void>;

/** Lines that commands are for; what fails throws a VloError. */
export interface LineHost {
  readonly lineCount: number;
  readonly names: readonly string[];
  state(line: number): LineState | Promise<LineState>;
  /** Sets what the line has from the side of who asks: a chip's input, or a driver's output. */
  drive(line: number, value: number): void | Promise<void>;
  /** Calls `report` with the value at each such edge. */
  observe(
    line: number,
    edges: number,
    report: (value: number) => void,
  ): EndWatch | Promise<EndWatch>;
  wire?(output: number, input: number): void;
}

/** A command with its lines found. */
export type LineCommand =
  | { readonly verb: 'info' }
  | { readonly verb: 'get'; readonly lines: readonly number[] }
  | { readonly verb: 'set'; readonly lines: readonly number[]; readonly values: readonly number[] }
  | { readonly verb: 'watch'; readonly lines: readonly number[]; readonly edges: number }
  | { readonly verb: 'wire'; readonly lines: readonly number[] }
  | { readonly verb: 'wait'; readonly ms: number }
  | { readonly verb: 'again' };

const EDGES: Readonly<Record<string, number>> = {
  rising: TRIGGER.RISING,
  falling: TRIGGER.FALLING,
  both: TRIGGER.BOTH,
};
export const DIRECTION_NAMES: readonly string[] = ['none', 'out', 'in'];
const TRIGGER_NAMES = new Map<number, string>([
  [TRIGGER.NONE, 'none'],
  [TRIGGER.RISING, 'rising'],
  [TRIGGER.FALLING, 'falling'],
  [TRIGGER.BOTH, 'both'],
  [TRIGGER.HIGH, 'high'],
  [TRIGGER.LOW, 'low'],
]);
/** Longest wait in milliseconds. */
const WAIT_MS_MAX = 2 ** 31 - 1;

const refuse = (message: string): VloError => new VloError('VLO_REQUEST_INVALID', message);

/** The number of a line that is given by its name or number. @throws VloError */
export function findLine({ lineCount, names }: LineHost, word: string): number {
  const named = names.indexOf(word);
  if (word !== '' && named >= 0) return named;
  const number = /^\d{1,5}$/.test(word) ? Number(word) : -1;
  if (number >= 0 && number < lineCount) return number;
  throw refuse(`there is no line '${word}'; there are 0 to ${lineCount - 1}, and their names`);
}

function parseSet(host: LineHost, words: readonly string[]): LineCommand {
  const pairs = words.map((word) => {
    const [, name, value] = /^(.*)=([01])$/.exec(word) ?? [];
    if (name === undefined) throw refuse(`'set' takes LINE=0 or LINE=1, not '${word}'`);
    return { line: findLine(host, name), value: Number(value) };
  });
  return {
    verb: 'set',
    lines: pairs.map(({ line }) => line),
    values: pairs.map(({ value }) => value),
  };
}

/** Understands a line of words; null for an empty one or a comment. @throws VloError */
export function parseCommand(host: LineHost, text: string): LineCommand | null {
  const [verb = '', ...words] = text.replace(/#.*$/, '').trim().split(/\s+/);
  const find = (word: string): number => findLine(host, word);
  if (verb === '') return null;
  if (verb === 'info' && words.length === 0) return { verb };
  if (verb === 'again' && words.length === 0) return { verb };
  if (verb === 'get' && words.length > 0) return { verb, lines: words.map(find) };
  if (verb === 'set' && words.length > 0) return parseSet(host, words);
  if (verb === 'wire' && words.length === 2 && host.wire !== undefined) {
    return { verb, lines: words.map(find) };
  }
  if (verb === 'wait' && /^\d{1,10}$/.test(words[0] ?? '') && words.length === 1) {
    return { verb, ms: Math.min(Number(words[0]), WAIT_MS_MAX) };
  }
  if (verb === 'watch' && words.length > 0) {
    const edges = EDGES[words.at(-1)!];
    const lines = (edges === undefined ? words : words.slice(0, -1)).map(find);
    if (lines.length > 0) return { verb, lines, edges: edges ?? TRIGGER.BOTH };
  }
  const wire = host.wire === undefined ? '' : ', wire OUTPUT INPUT';
  throw refuse(
    `'${text.trim().slice(0, 80)}' is no command; there are info, get LINE..., set LINE=VALUE..., ` +
      `watch LINE... [rising|falling|both], wait MS${wire}`,
  );
}

/** Does commands, one after the other, for a script or for one client of a socket. */
export class LineCommands {
  private readonly host: LineHost;
  private readonly emit: (reply: object) => void;
  private readonly watches: EndWatch[] = [];
  private timer: NodeJS.Timeout | null = null;
  private isClosed = false;

  constructor(host: LineHost, emit: (reply: object) => void) {
    this.host = host;
    this.emit = emit;
  }

  /** Does a line of words and answers it; an error is an answer too. */
  async say(text: string): Promise<void> {
    try {
      const command = parseCommand(this.host, text);
      if (command !== null) this.emit(await this.run(command));
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      this.emit({ error: error.message });
    }
  }

  /** @throws VloError */
  async run(command: LineCommand): Promise<object> {
    const { host } = this;
    if (command.verb === 'info') return { lines: await this.describe() };
    if (command.verb === 'again') return {};
    if (command.verb === 'wait') {
      await new Promise<void>((resolve) => {
        this.timer = setTimeout(resolve, command.ms);
      });
      return {};
    }
    const { verb, lines } = command;
    if (verb === 'get') return { values: await this.values(lines) };
    if (verb === 'wire') {
      host.wire!(lines[0]!, lines[1]!);
      return { wired: lines };
    }
    if (verb === 'set') {
      for (const [at, line] of lines.entries()) await host.drive(line, command.values[at]!);
      return { values: command.values };
    }
    for (const line of lines) await this.watch(line, command.edges);
    return { watching: lines.length };
  }

  private async watch(line: number, edges: number): Promise<void> {
    const name = this.host.names[line]!;
    const end = await this.host.observe(line, edges, (value) => this.emit({ line, name, value }));
    // The client may have left meanwhile.
    if (this.isClosed) await end();
    else this.watches.push(end);
  }

  private async values(lines: readonly number[]): Promise<number[]> {
    const values: number[] = [];
    for (const line of lines) {
      const { value } = await this.host.state(line);
      if (value === null) throw refuse(`line ${line} cannot be read: others may use it`);
      values.push(value);
    }
    return values;
  }

  private async describe(): Promise<object[]> {
    const lines: object[] = [];
    for (let line = 0; line < this.host.lineCount; line += 1) {
      const { name, direction, value, edges } = await this.host.state(line);
      const trigger = TRIGGER_NAMES.get(edges) ?? 'none';
      const known = DIRECTION_NAMES[direction] ?? DIRECTION_NAMES[DIRECTION.NONE];
      lines.push({ line, name, direction: known, value, trigger });
    }
    return lines;
  }

  /** Ends all that was watched. Idempotent. */
  close(): void {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    for (const end of this.watches.splice(0)) void end();
  }
}
