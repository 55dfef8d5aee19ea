/** Event devices for jobs: who reads one, what was read, and scripts written as they run. */

import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, readlinkSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { start, waitFor } from './programs.mjs';

/** `struct input_event`: time in two words, type, code, value. */
const EVENT_SIZE = 24;

export const EV = { SYN: 0, KEY: 1, REL: 2, ABS: 3, MSC: 4, SW: 5, LED: 0x11 };
export const SYN = [EV.SYN, 0, 0];

/** Reads a node with a program of its own, into a file. */
export class Reader {
  /** @param {string} node @param {string} place a folder */
  static async open(node, place) {
    const reader = new Reader();
    readers += 1;
    reader.file = join(place, `events-${readers}`);
    reader.program = start(['sh', '-c', `exec cat ${node} >${reader.file}`]);
    const opened = () => {
      try {
        return readlinkSync(`/proc/${reader.program.pid}/fd/3`) === node;
      } catch {
        return false;
      }
    };
    await waitFor(opened, `reader of ${node}`, 20_000);
    return reader;
  }

  /** Bytes that are left out. */
  start = 0;

  get bytes() {
    return readFileSync(this.file).subarray(this.start);
  }

  get count() {
    return Math.floor((statSync(this.file).size - this.start) / EVENT_SIZE);
  }

  /** Waits for a report of one event, and leaves out all up to its end. */
  async skipTo(event) {
    const text = event.join(' ');
    const find = () => this.events().findIndex((seen) => seen.slice(0, 3).join(' ') === text);
    const at = await waitFor(() => find() + 1, `event ${text}`);
    await waitFor(() => this.count > at, 'end of its report');
    this.start += (at + 1) * EVENT_SIZE;
  }

  /** Events so far: type, code, value, and the kernel's time in seconds. */
  events() {
    const { bytes } = this;
    return Array.from({ length: Math.floor(bytes.length / EVENT_SIZE) }, (_, i) => {
      const at = i * EVENT_SIZE;
      const time = Number(bytes.readBigInt64LE(at)) + Number(bytes.readBigInt64LE(at + 8)) / 1e6;
      const code = bytes.readUInt16LE(at + 18);
      return [bytes.readUInt16LE(at + 16), code, bytes.readInt32LE(at + 20), time];
    });
  }

  /** Waits for as many events as were told, and compares them. */
  async expect(wanted, ms = 20_000) {
    await waitFor(() => this.count >= wanted.length, `${wanted.length} events`, ms).catch(() => {});
    const seen = this.events().map((event) => event.slice(0, 3).join(' '));
    const at = wanted.findIndex((event, i) => seen[i] !== event.join(' '));
    if (at < 0 && seen.length === wanted.length) return;
    const around = at < 0 ? 'all that were told, and more' : `'${seen[at]}', not '${wanted[at]}'`;
    throw new Error(`${seen.length} of ${wanted.length} events; event ${at}: ${around}`);
  }

  async close() {
    await this.program.stop();
  }
}
let readers = 0;

/** A script in a named pipe: lines are played as they are written. */
export class ScriptPipe {
  constructor(path, device) {
    this.path = path;
    execFileSync('mkfifo', [path]);
    this.fd = openSync(path, 'r+');
    this.device = device;
    this.introduce();
  }

  /** Each program that reads the script is told first what the device is. */
  introduce() {
    this.write({ device: this.device });
  }

  write(...lines) {
    for (const line of lines) writeSync(this.fd, `${JSON.stringify(line)}\n`);
  }

  close() {
    closeSync(this.fd);
  }
}

/**
 * Writes an event as a program does: sets a LED. With the end of its report, or the kernel would
 * show it to readers with the next one.
 */
export function writeEvent(node, type, code, value) {
  const bytes = Buffer.alloc(2 * EVENT_SIZE);
  bytes.writeUInt16LE(type, 16);
  bytes.writeUInt16LE(code, 18);
  bytes.writeInt32LE(value, 20);
  const fd = openSync(node, 'r+');
  try {
    writeSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
}
