/**
 * Device processes on the host, for a job whose guest is a virtual machine that has them: QEMU is
 * their front end. Each has a folder `machine/NAME` that the guest sees, with its log; the lines
 * that the guest adds to `say` there go to the device, and its answers to `answers`.
 */

import { spawn } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DEVICES } from '../jobs/support/machine-devices.mjs';
import { LabError, PROJECT } from './places.mjs';

/** The jobs that have such devices. */
const DEVICES_OF = { machine: DEVICES };

const VLO = join(PROJECT, 'dist/bin/vlo.js');
const READY_MS = 30_000;
const STOP_MS = 10_000;
const POLL_MS = 20;
const CHUNK = 65536;

/** The rest of a file that grows, each time it is read. */
class Tail {
  #position = 0;
  #chunk = Buffer.alloc(CHUNK);

  constructor(path) {
    writeFileSync(path, '');
    this.fd = openSync(path, 'r');
  }

  read() {
    const length = readSync(this.fd, this.#chunk, 0, CHUNK, this.#position);
    this.#position += length;
    return Buffer.from(this.#chunk.subarray(0, length));
  }

  close() {
    closeSync(this.fd);
  }
}

/** One device process, and the way for the guest to say something to it. */
class HostDevice {
  /** Why it ended, when it did. @type {string | null} */
  status = null;

  /** @param {import('../jobs/support/machine-devices.mjs').MachineDevice} device */
  constructor(device, shared, sockets) {
    const { name, input, options, prepare, ring, type } = device;
    this.device = device;
    this.folder = join(shared, name);
    mkdirSync(this.folder);
    prepare?.(this.folder);
    this.log = join(this.folder, 'log');
    this.socket = join(sockets, name);
    this.control = join(sockets, `${name}.control`);
    const words = [
      'serve',
      type,
      '--socket-path',
      this.socket,
      ...options(this.folder, this.control),
    ];
    if (ring === 'split') words.push('--no-packed');
    // It ends with this process, however that ends.
    const command = ['--pdeathsig', 'KILL', process.execPath, VLO, ...words];
    const log = openSync(this.log, 'w');
    this.child = spawn('setpriv', command, { stdio: ['pipe', log, log] });
    closeSync(log);
    this.child.stdin.on('error', () => {});
    if (input !== undefined) this.child.stdin.write(`${input}\n`);
    this.ended = new Promise((done) => {
      this.child.on('error', (error) => done(error.message));
      this.child.on('exit', (code, signal) => done(`${code ?? signal}`));
    }).then((status) => {
      this.status = status;
    });
    this.said = new Tail(join(this.folder, 'say'));
  }

  /** Waits for its socket, without which QEMU does not start. */
  async ready() {
    const end = performance.now() + READY_MS;
    while (!/: ready on/.test(readFileSync(this.log, 'utf8'))) {
      if (this.status !== null || performance.now() > end) {
        throw new LabError(`${this.device.name} did not start: ${readFileSync(this.log, 'utf8')}`);
      }
      await sleep(POLL_MS);
    }
    this.listener = this.device.input === undefined ? this.#connect() : this.child.stdin;
  }

  #connect() {
    const answers = join(this.folder, 'answers');
    const socket = connect(this.control);
    socket.on('error', (error) => appendFileSync(this.log, `lab: ${error.message}\n`));
    socket.on('data', (data) => appendFileSync(answers, data));
    return socket;
  }

  passOn() {
    const said = this.said.read();
    if (said.length > 0) this.listener.write(said);
  }

  /** Ends it; returns what was wrong with it, or null. */
  async end() {
    const early = this.status;
    this.listener?.destroy();
    this.said.close();
    this.child.kill('SIGTERM');
    const inTime = await Promise.race([this.ended.then(() => true), sleep(STOP_MS, false)]);
    if (!inTime) this.child.kill('SIGKILL');
    await this.ended;
    const { name } = this.device;
    if (early !== null) return `${name} ended with ${early} while it was used: see ${this.log}`;
    if (!inTime) return `${name} did not end within ${STOP_MS / 1000} s of SIGTERM`;
    return this.status === '0' ? null : `${name} ended with ${this.status}: see ${this.log}`;
  }
}

/** The device processes of one guest. */
export class Machine {
  /** @type {HostDevice[]} */
  #devices = [];
  #timer;

  /**
   * Starts what a job has, and waits until QEMU may start.
   * @param {string} job
   * @param {string} run the folder of the run
   */
  static async start(job, run) {
    const machine = new Machine();
    const devices = DEVICES_OF[job] ?? [];
    if (devices.length === 0) return machine;
    const shared = join(run, 'guest/machine');
    mkdirSync(shared);
    // The path of a socket has to be short.
    machine.sockets = mkdtempSync(join(tmpdir(), 'vlo-lab-'));
    try {
      for (const device of devices) {
        machine.#devices.push(new HostDevice(device, shared, machine.sockets));
      }
      await Promise.all(machine.#devices.map((device) => device.ready()));
    } catch (error) {
      await machine.end();
      throw error;
    }
    machine.#timer = setInterval(() => {
      for (const device of machine.#devices) device.passOn();
    }, POLL_MS);
    return machine;
  }

  /** What QEMU is told. The processes map the guest's memory. @param {number} memory in MiB */
  arguments(memory) {
    if (this.#devices.length === 0) return [];
    return [
      ...['-object', `memory-backend-memfd,id=memory,size=${memory}M,share=on`],
      ...['-machine', 'memory-backend=memory'],
      ...this.#devices.flatMap(({ device: { name, model, slot, ring }, socket }) => [
        ...['-chardev', `socket,id=${name},path=${socket}`],
        '-device',
        `${model},chardev=${name},addr=${slot.toString(16)},packed=${ring === 'packed' ? 'on' : 'off'}`,
      ]),
    ];
  }

  /** Ends all; returns what was wrong with each. @returns {Promise<string[]>} */
  async end() {
    clearInterval(this.#timer);
    const devices = this.#devices.splice(0);
    const complaints = await Promise.all(devices.map((device) => device.end()));
    if (this.sockets !== undefined) rmSync(this.sockets, { recursive: true, force: true });
    return complaints.filter((complaint) => complaint !== null);
  }
}
