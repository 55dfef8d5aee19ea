/**
 * Wakes a guest that has suspended itself, over QEMU's monitor, a while after it fell asleep. QEMU
 * says when a guest is suspended to RAM. Of a guest that only idles QEMU knows nothing: its kernel
 * says so on the console, and the power button wakes it.
 */

import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const SLEEP_MS = 3000;
const POLL_MS = 100;
const CHUNK = 65536;
/** The last line of a kernel that suspends to idle, with its debug messages on. */
const IDLES = /PM: suspend-to-idle\r?\n/g;

/** Counts how often a pattern comes in a file that grows. */
class Watch {
  #path;
  #position = 0;
  #rest = '';
  #chunk = Buffer.alloc(CHUNK);

  constructor(path) {
    this.#path = path;
  }

  /** How often it came since the last call. @param {RegExp} pattern */
  count(pattern) {
    if (!existsSync(this.#path)) return 0;
    const fd = openSync(this.#path, 'r');
    const length = readSync(fd, this.#chunk, 0, CHUNK, this.#position);
    closeSync(fd);
    this.#position += length;
    const lines = this.#rest + this.#chunk.toString('latin1', 0, length);
    const end = lines.lastIndexOf('\n') + 1;
    this.#rest = lines.slice(end);
    return lines.slice(0, end).match(pattern)?.length ?? 0;
  }
}

export class Waker {
  #folder = mkdtempSync(join(tmpdir(), 'vlo-lab-'));
  #timers = new Set();
  #watch;
  #poll;
  /** @type {import('node:net').Socket | null} */
  #monitor = null;
  #text = '';

  /** @param {string} console the file with what came over the guest's console */
  constructor(console) {
    this.path = join(this.#folder, 'monitor');
    this.#watch = new Watch(console);
    this.#poll = setInterval(() => this.#look(), POLL_MS);
  }

  /** QEMU's words. */
  arguments() {
    return ['-qmp', `unix:${this.path},server=on,wait=off`];
  }

  #look() {
    if (this.#monitor === null && existsSync(this.path)) this.#connect();
    for (let left = this.#watch.count(IDLES); left > 0; left -= 1) {
      this.#later('system_powerdown');
    }
  }

  #connect() {
    this.#monitor = connect(this.path).setEncoding('utf8');
    // It ends with QEMU.
    this.#monitor.on('error', () => {});
    this.#monitor.on('data', (text) => this.#hear(text));
    this.#say('qmp_capabilities');
  }

  #hear(text) {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      if (JSON.parse(line).event === 'SUSPEND') this.#later('system_wakeup');
    }
  }

  #later(command) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#say(command);
    }, SLEEP_MS);
    this.#timers.add(timer);
  }

  #say(command) {
    this.#monitor?.write(`${JSON.stringify({ execute: command })}\n`);
  }

  end() {
    clearInterval(this.#poll);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#monitor?.destroy();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
