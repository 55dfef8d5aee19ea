/** Chips for the job `gpio`: the kernel's gpio-sim, and the simulated one of a device process. */

import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { run } from './programs.mjs';

const CONFIGFS = '/sys/kernel/config';
const PLACE = `${CONFIGFS}/gpio-sim/lab`;
const BANK = `${PLACE}/bank0`;

/** A chip of the kernel's gpio-sim: what its lines sense is set in sysfs. */
export class KernelChip {
  /** @param {string} label @param {readonly string[]} names one for each line, empty for none */
  static async make(label, names) {
    await run(['mount', '-t', 'configfs', 'none', CONFIGFS], { status: null });
    mkdirSync(BANK, { recursive: true });
    writeFileSync(`${BANK}/num_lines`, `${names.length}`);
    writeFileSync(`${BANK}/label`, label);
    for (const [line, name] of names.entries()) {
      if (name === '') continue;
      mkdirSync(`${BANK}/line${line}`);
      writeFileSync(`${BANK}/line${line}/name`, name);
    }
    const chip = new KernelChip();
    chip.names = names;
    chip.plug();
    return chip;
  }

  plug() {
    writeFileSync(`${PLACE}/live`, '1');
    /** `gpiochip1`, for example. */
    this.name = readFileSync(`${BANK}/chip_name`, 'utf8').trim();
    const device = readFileSync(`${PLACE}/dev_name`, 'utf8').trim();
    this.folder = `/sys/devices/platform/${device}/${this.name}`;
  }

  /** Takes it away, whoever uses it. */
  unplug() {
    writeFileSync(`${PLACE}/live`, '0');
  }

  /** What an input senses. */
  pull(line, value) {
    writeFileSync(`${this.folder}/sim_gpio${line}/pull`, value === 1 ? 'pull-up' : 'pull-down');
  }

  /** What is on the line, driven by whoever drives it. */
  value(line) {
    return Number(readFileSync(`${this.folder}/sim_gpio${line}/value`, 'utf8'));
  }

  remove() {
    this.unplug();
    for (const [line, name] of this.names.entries()) {
      if (name !== '') rmdirSync(`${BANK}/line${line}`);
    }
    rmdirSync(BANK);
    rmdirSync(PLACE);
  }
}

/** The socket of a simulated chip: one command at a time. */
export class Control {
  constructor(path) {
    this.socket = createConnection(path);
    this.answers = createInterface({ input: this.socket })[Symbol.asyncIterator]();
  }

  async say(command) {
    this.socket.write(`${command}\n`);
    const { value } = await this.answers.next();
    const reply = JSON.parse(value);
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply;
  }

  close() {
    this.socket.destroy();
  }
}
