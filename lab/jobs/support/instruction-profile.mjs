/**
 * The guest's side of the profile: it tells QEMU's plugin (lab/native/instruction-profile.c) when
 * to count, and writes the symbols and maps beside the counts, which name the functions.
 */

import { closeSync, existsSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run, waitFor } from './programs.mjs';
import { RUN } from './system.mjs';

const FOLDER = join(RUN, 'profile');
const COMMAND = { rest: 0, follow: 1, count: 2, write: 3 };
/** Until code is translated anew. */
const FOLLOW_MS = 50;
const WRITE_MS = 60_000;

export class Profile {
  #page = Buffer.alloc(36);
  #fd;
  #number = 0;
  #processes = {};
  #maps = {};

  constructor() {
    if (!existsSync(join(FOLDER, 'control'))) {
      throw new Error(
        'QEMU runs without the plugin: start with `npm run lab -- instructions -- --profile`',
      );
    }
    this.#page.writeUInt32LE(process.pid, 24);
    this.#fd = openSync(join(FOLDER, 'control'), 'r+');
    this.#tell(COMMAND.rest);
  }

  /**
   * Before fio starts for the first time, with all modules loaded: to read all symbols takes the
   * guest longer than fio works, and to write them is work of its own.
   */
  keepSymbols() {
    const symbols = readFileSync('/proc/kallsyms', 'utf8');
    writeFileSync(join(FOLDER, 'kallsyms'), symbols, { flush: true });
    const address = (name) => {
      const match = new RegExp(`^([0-9a-f]{16}) \\w ${name}$`, 'm').exec(symbols);
      if (match === null) throw new Error(`this kernel has no symbol ${name}`);
      return BigInt(`0x${match[1]}`);
    };
    this.#page.writeBigUInt64LE(address('__switch_to'), 8);
    this.#page.writeBigUInt64LE(address('init_task'), 16);
  }

  #tell(command) {
    this.#page.writeUInt32LE(command, 0);
    this.#page.writeUInt32LE(this.#number, 4);
    writeSync(this.#fd, this.#page, 0, this.#page.length, 0);
  }

  /**
   * Before the window, while fio works.
   * @param {Record<string, number | null>} processes their ids by their parts in it
   */
  async prepare(processes) {
    this.#processes = { ...processes, 'measuring process': process.pid };
    this.#maps = {};
    for (const [role, pid] of Object.entries(this.#processes)) {
      if (pid !== null) this.#maps[role] = readFileSync(`/proc/${pid}/maps`, 'utf8');
    }
    this.#number += 1;
    this.#tell(COMMAND.follow);
    // The plugin learns which task runs when another one does.
    const processors = Array.from({ length: availableParallelism() }, (_, id) => `${id}`);
    for (const id of processors) await run(['taskset', '--cpu-list', id, 'true']);
    await sleep(FOLLOW_MS);
  }

  begin() {
    this.#tell(COMMAND.count);
  }

  end() {
    this.#tell(COMMAND.write);
  }

  /**
   * After the window.
   * @param {{ subject: string, workload: string, requests: number, nsEach: number }} measured
   */
  async keep(measured) {
    // The guest stands still while the plugin writes: a file that is there is complete.
    const counts = join(FOLDER, `counts-${this.#number}`);
    await waitFor(() => existsSync(counts), 'counts of the profile', WRITE_MS);
    this.#tell(COMMAND.rest);
    const about = { ...measured, processes: this.#processes, maps: this.#maps };
    writeFileSync(join(FOLDER, `about-${this.#number}.json`), JSON.stringify(about));
  }

  close() {
    closeSync(this.#fd);
  }
}
