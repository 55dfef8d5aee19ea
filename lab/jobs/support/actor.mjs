/** Processes of other users, with other capabilities and limits, that use the module. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeDevice } from './module-file.mjs';
import { start, waitFor } from './programs.mjs';

/** The group of ordinary users: it may open the node. */
export const NODE_GROUP = 1000;
const READY_MS = 60_000;
const ANSWER_MS = 30_000;

/** JSON has no bytes. */
const encode = (value) =>
  Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      field instanceof Uint8Array ? [...field] : field,
    ]),
  );

/** The words that start a program as a user with just these capabilities. */
function asUser(uid, capabilities) {
  if (uid === 0) {
    const without = capabilities.map((name) => `-${name}`).join(',');
    return without === '' ? [] : ['setpriv', `--bounding-set=${without}`, `--inh-caps=${without}`];
  }
  const ids = [`--reuid=${uid}`, `--regid=${NODE_GROUP}`, '--clear-groups'];
  const sets = capabilities.map((name) => `+${name}`).join(',');
  const words = sets === '' ? [] : [`--inh-caps=${sets}`, `--ambient-caps=${sets}`];
  return ['setpriv', ...ids, ...words];
}

export class Actor {
  answered = 0;

  /**
   * @param {{ uid?: number, capabilities?: readonly string[], prefix?: readonly string[],
   *   inherits?: number, cgroup?: string }} options `capabilities`: of an ordinary user, those that
   *   it has; of root, those that it has not. `prefix`: a command that runs another one.
   *   `inherits`: an open file of the module
   */
  static async start({ uid = 0, capabilities = [], prefix = [], inherits, cgroup } = {}) {
    const actor = new Actor();
    const script = ['node', 'lab/jobs/support/actor-main.mjs'];
    const command = [...prefix, ...asUser(uid, capabilities), ...script];
    const stdio = ['pipe', 'pipe', 'pipe', ...(inherits === undefined ? [] : [inherits])];
    if (inherits !== undefined) command.push('3');
    actor.program = start(command, { stdio });
    await actor.program.waitForOutput(/ready\n/, READY_MS);
    if (cgroup !== undefined) writeFileSync(join(cgroup, 'cgroup.procs'), `${actor.program.pid}`);
    return actor;
  }

  async ask(question) {
    const { program } = this;
    program.child.stdin.write(`${JSON.stringify(question)}\n`);
    const lines = () => program.stdout.split('\n').slice(1, -1);
    const isThere = () => lines().length > this.answered || program.status !== null;
    await waitFor(isThere, `answer of the actor: ${JSON.stringify(question)}`, ANSWER_MS);
    if (lines().length <= this.answered) {
      throw new Error(`the actor ended: ${program.status} ${program.stderr.trim()}`);
    }
    this.answered += 1;
    return JSON.parse(lines()[this.answered - 1]);
  }

  /** Opens the module; the number of the file. */
  async open() {
    const { file, error } = await this.ask({ open: true });
    if (error !== undefined) throw new Error(`open: ${error}`);
    return file;
  }

  /** Why the module cannot be opened; null when it can. */
  async openError() {
    return (await this.ask({ open: true })).error ?? null;
  }

  /** @returns {Promise<string | null>} the error */
  async call(file, call, value = {}) {
    return (await this.ask({ file, call, value: encode(value) })).error;
  }

  /** Makes a device in a new file, and says what came of it. */
  async create(what) {
    const file = await this.open();
    return { file, error: await this.call(file, 'CREATE', describeDevice(what)) };
  }

  /** Tries to take a device over. @returns {Promise<string | null>} the error */
  async attach(name) {
    const file = await this.open();
    const { error } = await this.ask({ file, attach: name });
    if (error !== null) await this.close(file);
    return error;
  }

  close(file) {
    return this.ask({ file, close: true });
  }

  /** Locked memory, in bytes. */
  get locked() {
    const status = readFileSync(`/proc/${this.program.pid}/status`, 'utf8');
    return Number(/^VmLck:\s+(\d+) kB$/m.exec(status)[1]) * 1024;
  }

  /** Ends it, and with it its devices that wait for no other adapter. */
  end() {
    return this.program.stop('SIGKILL');
  }
}
