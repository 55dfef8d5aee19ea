/** A script for a simulated chip: commands with waits between them, from a file or from stdin. */
import { createReadStream, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { VloError } from '../../errors.js';
import { type LineCommand, LineCommands, type LineHost, parseCommand } from './line-commands.js';

/** Runs a script; a file is understood as a whole before its first command is done. */
export class LineScript {
  private readonly commands: LineCommands;
  private readonly log: (line: string) => void;
  private input: NodeJS.ReadableStream | null = null;
  private isClosed = false;

  /** @throws VloError VLO_OPTION_INVALID with the number of the line that is wrong */
  constructor(host: LineHost, path: string, log: (line: string) => void) {
    this.commands = new LineCommands(host, () => {});
    this.log = log;
    if (path === '-') void this.follow(host);
    else void this.play(parseScript(host, path));
  }

  /** Commands of stdin are done as they come; a wrong one is told, and left out. */
  private async follow(host: LineHost): Promise<void> {
    this.input = createReadStream('', { fd: 0, autoClose: false });
    for await (const line of createInterface({ input: this.input })) {
      if (this.isClosed) return;
      try {
        const command = parseStep(host, line);
        if (command !== null) await this.commands.run(command);
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        this.log(`--script: ${error.message}`);
      }
    }
  }

  private async play(script: readonly LineCommand[]): Promise<void> {
    for (let at = 0; at < script.length && !this.isClosed; at += 1) {
      const command = script[at]!;
      if (command.verb === 'again') at = -1;
      else await this.commands.run(command);
    }
  }

  close(): void {
    this.isClosed = true;
    this.commands.close();
    (this.input as { destroy?: () => void } | null)?.destroy?.();
  }
}

/** Nobody reads the answers of a script. */
function parseStep(host: LineHost, line: string): LineCommand | null {
  const command = parseCommand(host, line);
  if (command === null || ['set', 'wire', 'wait', 'again'].includes(command.verb)) return command;
  throw new VloError('VLO_REQUEST_INVALID', `'${command.verb}' is for sockets, not for scripts`);
}

function parseScript(host: LineHost, path: string): LineCommand[] {
  const fail = (message: string): VloError =>
    new VloError('VLO_OPTION_INVALID', `gpio: --script: ${message}`);
  let text = '';
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fail(`cannot read '${path}' (${(error as NodeJS.ErrnoException).code})`);
  }
  const script: LineCommand[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    try {
      const command = parseStep(host, line);
      if (command !== null) script.push(command);
    } catch (error) {
      if (!(error instanceof VloError)) throw error;
      throw fail(`${path}:${index + 1}: ${error.message}`);
    }
  }
  const waits = script.some((command) => command.verb === 'wait' && command.ms > 0);
  if (!waits && script.some(({ verb }) => verb === 'again')) {
    throw fail(`${path}: a script that goes on with 'again' needs a 'wait'`);
  }
  return script;
}
