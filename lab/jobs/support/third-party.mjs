/** A vhost-user back end that another project wrote, the adapter on it, and what it said. */

import { chmodSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATIENCE, start, waitFor } from './programs.mjs';
import { attach, folder } from './stand.mjs';

const READY_MS = 60_000;
const BACK_MS = 30_000;
/** Between the death of a back end and the start of its successor. */
const AWAY_MS = 500;

const count = (text, word) => text.split(word).length - 1;

export class ThirdParty {
  /** What applications open: a node, a tag, an interface. @type {string | null} */
  node = null;
  /** The back end; null while it is dead. @type {import('./programs.mjs').Program | null} */
  program = null;
  /** @type {import('./programs.mjs').Program | null} */
  adapter = null;

  /**
   * @param {string} type type of the device, as `vlo attach` takes it
   * @param {(socket: string) => readonly string[]} command how the back end is started
   */
  constructor(type, command) {
    this.type = type;
    this.command = command;
    this.folder = folder(type);
    // Ordinary users read files in it.
    chmodSync(this.folder, 0o755);
    this.socket = join(this.folder, 'socket');
  }

  /** @param {...string} names */
  path(...names) {
    return join(this.folder, ...names);
  }

  /** Starts the back end; it listens afterwards. */
  async start() {
    // A predecessor that was killed could not remove its socket, which some cannot bind again.
    rmSync(this.socket, { force: true });
    this.program = start(this.command(this.socket));
    const isUp = () => existsSync(this.socket) || this.program.status !== null;
    await waitFor(isUp, `socket of ${this.program.command[0]}`, READY_MS);
    this.mustRun();
  }

  /**
   * Asks a back end of its own what the job wants to know of it. virtiofsd ends with its first
   * connection, so none is asked before it serves.
   * @template T
   * @param {(socket: string) => Promise<T>} action
   */
  async survey(action) {
    await this.start();
    try {
      return await action(this.socket);
    } finally {
      await this.kill();
    }
  }

  mustRun() {
    const { program } = this;
    if (program.status === null) return;
    throw new Error(`${program.command[0]} ended: ${program.status} ${program.stderr.trim()}`);
  }

  /** Shows the device to the kernel, over the module. */
  async attach(...words) {
    const { type, socket } = this;
    const options = ['--transport', 'loopback', '--name', `${type}0`, ...words];
    const { program, node } = await attach(type, socket, options);
    this.adapter = program;
    if (node === null) throw new Error(`no driver took the device: ${program.stderr}`);
    this.node = node;
    return node;
  }

  /** SIGKILL to the back end and all that it started. */
  async kill() {
    const { program } = this;
    program.killAll();
    await program.ended;
    this.program = null;
  }

  /** Kills the back end and starts it again; the adapter has found the successor afterwards. */
  async replace(awayMs = AWAY_MS) {
    const before = count(this.adapter.stderr, 'reconnected');
    await this.kill();
    await sleep(awayMs * PATIENCE);
    await this.start();
    const isBack = () =>
      count(this.adapter.stderr, 'reconnected') > before || this.adapter.status !== null;
    await waitFor(isBack, `adapter that reconnects: ${this.adapter.stderr}`, BACK_MS);
    this.mustBeAttached();
  }

  /** The adapter gives up when the kernel finds the device broken. */
  mustBeAttached() {
    const { status, stderr } = this.adapter;
    if (status !== null || /broken|failed:/.test(stderr.replace(/\d+ requests failed:/g, ''))) {
      throw new Error(`the device did not survive: ${stderr.trim()}`);
    }
  }

  /** Takes the device away, and then its back end, whatever state they are in. */
  async stop() {
    const status = this.adapter === null ? 0 : await this.adapter.stop();
    if (this.program !== null) {
      this.program.killAll();
      await this.program.ended;
    }
    if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${this.adapter.stderr}`);
  }
}
