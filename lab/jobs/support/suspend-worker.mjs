/** A client of a device that does the same thing again and again, and counts how often. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { start } from './programs.mjs';
import { folder } from './stand.mjs';

/** Ends the loop between two rounds, and with an error within one. */
const SCRIPT = `
count=$1 once=$2; shift 2
trap 'exit 0' TERM
eval "$3"
for ((round = 1; ; round += 1)); do
  eval "$once" || { echo "round $round failed" >&2; exit 1; }
  echo $round >"$count.new"
  mv "$count.new" "$count"
done`;

export class Worker {
  /**
   * @param {string} once a line of bash for one round; $round counts them
   * @param {{ first?: string, words?: readonly string[], within?: readonly string[] }} options
   *   `first`: a line to run before; `words`: $1 and $2 of both; `within`: words before the command
   */
  constructor(once, { first = '', words = [], within = [] } = {}) {
    this.path = join(folder('worker'), 'count');
    const [one = '', two = ''] = words;
    const command = ['bash', '-c', SCRIPT, 'worker', this.path, once, one, two, first];
    this.program = start([...within, ...command]);
  }

  count() {
    return existsSync(this.path) ? Number(readFileSync(this.path, 'utf8')) : 0;
  }

  check() {
    const { status, stderr, stdout } = this.program;
    if (status !== null) throw new Error(`the client ended with ${status}: ${stderr || stdout}`);
  }

  /** @returns {Promise<number>} rounds */
  async stop() {
    this.check();
    const status = await this.program.stop('SIGTERM', 30_000);
    if (status !== 0) throw new Error(`the client ended with ${status}: ${this.program.stderr}`);
    return this.count();
  }
}
