/**
 * One process behind one device or a group of them, kept alive.
 *
 *   start ─► starting ─► serving ─► (it dies) ─► waiting for the next start ─► starting …
 *                │                                        │ too many deaths
 *                └── stop ─► stopped                      └─► given up
 *
 * Sockets of our own processes listen from the start to the end of the unit: a driver that
 * reconnects while the next process starts waits in the backlog.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { lstatSync, unlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { assert, VloError } from '../errors.js';
import { type Fd, listenUnix } from '../native/index.js';
import type { DeviceConfig } from './config-model.js';
import { type DeviceOrder, READY_FD } from './device-task.js';
import { identify, type ProcessIdentity } from './process-identity.js';
import { RestartPolicy } from './restart-policy.js';

const PROGRAM = fileURLToPath(new URL('./device-main.js', import.meta.url));
/** Time in milliseconds that a process gets to end by itself. */
const STOP_MS_MAX = 3000;
/** Time in milliseconds that a process gets until it serves. */
const START_MS_MAX = 30_000;
/** Pause between two looks for the socket of a third party's program, in milliseconds. */
const LOOK_MS = 10;
/** Front ends that may wait for a process that is being replaced. */
const BACKLOG = 16;

/** A device of a unit. */
export interface UnitDevice {
  readonly config: DeviceConfig;
  readonly socket: string;
}

export interface UnitEvents {
  log(line: string): void;
  /** A process serves all devices of the unit. */
  onServing(): void;
  /** The process is gone; another one follows. */
  onDeath(): void;
  /** It was given up, for this reason. */
  onGivenUp(error: VloError): void;
}

export class DeviceUnit {
  readonly devices: readonly UnitDevice[];
  /** The process that runs now. */
  identity: ProcessIdentity | null = null;
  /** Starts after the first. */
  restartCount = 0;
  private readonly name: string;
  private readonly events: UnitEvents;
  private readonly policy: RestartPolicy;
  private listeners: Fd[] = [];
  private child: ChildProcess | null = null;
  private ended: Promise<void> = Promise.resolve();
  private isLaunched = false;
  private isStopping = false;
  private lastComplaint = '';
  private readonly aborter = new AbortController();

  constructor(devices: readonly UnitDevice[], events: UnitEvents) {
    this.devices = devices;
    this.events = events;
    this.name = devices.map(({ config }) => config.name).join('+');
    this.policy = new RestartPolicy(devices[0]!.config.restart);
  }

  /** Listens, and starts the first process. @throws SystemError */
  start(): void {
    if (this.isOwn) this.listeners = this.devices.map(({ socket }) => listenUnix(socket, BACKLOG));
    this.launch();
  }

  private get isOwn(): boolean {
    return this.devices[0]!.config.source.kind === 'own';
  }

  private launch(): void {
    if (this.isLaunched) this.restartCount += 1;
    this.isLaunched = true;
    const child = this.isOwn ? this.spawnOwn() : this.spawnCommand();
    this.child = child;
    this.lastComplaint = '';
    this.pass(child);
    const startedAt = Date.now();
    let servingAt = 0;
    let failure: string | null = null;
    this.ended = new Promise((resolve) => {
      child.on('error', (error) => {
        failure = error.message;
      });
      child.on('close', (status, signal) => {
        this.identity = null;
        this.child = null;
        resolve();
        const how = failure ?? (signal === null ? `status ${status}` : `signal ${signal}`);
        this.died(how, servingAt === 0 ? 0 : Date.now() - servingAt);
      });
    });
    this.identity = child.pid === undefined ? null : identify(child.pid);
    const serving = (): void => {
      if (this.child !== child || servingAt !== 0) return;
      servingAt = Date.now();
      clearTimeout(late);
      this.events.onServing();
    };
    const late = setTimeout(() => {
      this.events.log(`${this.name}: not ready after ${Date.now() - startedAt} ms: ending it`);
      child.kill('SIGKILL');
    }, START_MS_MAX);
    child.once('close', () => clearTimeout(late));
    // Without a process (too many open files, say) there is no pipe either.
    if (this.isOwn) child.stdio?.[READY_FD]?.once('data', serving);
    else void this.whenListening(child).then((isThere) => isThere && serving());
  }

  private spawnOwn(): ChildProcess {
    const first = READY_FD + 1;
    const tasks = this.devices.map(({ config }, index) => {
      const { name, type, source } = config;
      assert(source.kind === 'own', 'a unit holds devices of our own, or one of somebody else');
      return { name, type, options: source.options, run: source.run, fd: first + index };
    });
    const order: DeviceOrder = { parent: process.pid, tasks };
    const sockets = this.listeners.map((listener) => listener.number);
    return spawn(process.execPath, [PROGRAM, JSON.stringify(order)], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', ...sockets],
      // A session of its own: Ctrl-C reaches the HAL alone, which ends everything in order.
      detached: true,
    });
  }

  private spawnCommand(): ChildProcess {
    const { config, socket } = this.devices[0]!;
    const command = config.source.kind === 'command' ? config.source.command : [];
    // Its predecessor's file would let us connect to nobody.
    removeSocket(socket);
    const [program, ...args] = command.map((part) => part.replaceAll('{socket}', socket));
    return spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  }

  /** What a device process writes goes to the log, with its name. */
  private pass(child: ChildProcess): void {
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on('line', (line) => {
        this.lastComplaint = line;
        this.events.log(line.startsWith(`${this.name}: `) ? line : `${this.name}: ${line}`);
      });
    }
  }

  /**
   * Waits until a third party's program has made its socket; false when it ended first. Nobody
   * connects to try it: many back ends serve one front end, and end when it leaves.
   */
  private async whenListening(child: ChildProcess): Promise<boolean> {
    while (this.child === child) {
      const file = lstatSync(this.devices[0]!.socket, { throwIfNoEntry: false });
      if (file?.isSocket() === true) return true;
      await sleep(LOOK_MS);
    }
    return false;
  }

  private died(how: string, servedMs: number): void {
    if (this.isStopping) return;
    this.events.log(`${this.name}: its process ended (${how})`);
    const delayMs = this.policy.died(Date.now(), servedMs);
    if (delayMs === null) {
      this.closeListeners();
      const why = this.lastComplaint === '' ? how : this.lastComplaint;
      const message = `the process of ${this.name} died too often; the last time: ${why}`;
      this.events.onGivenUp(new VloError('VLO_DEVICE_START', message));
      return;
    }
    this.events.onDeath();
    void this.launchLater(delayMs);
  }

  private async launchLater(delayMs: number): Promise<void> {
    const { signal } = this.aborter;
    if (delayMs > 0) await sleep(delayMs, undefined, { signal }).catch(() => {});
    if (!this.isStopping && this.child === null) this.launch();
  }

  /** Ends the process; the next one starts at once, also after the unit was given up. */
  async restart(): Promise<void> {
    this.policy.forgive();
    if (this.isOwn && this.listeners.length === 0) {
      this.listeners = this.devices.map(({ socket }) => listenUnix(socket, BACKLOG));
    }
    if (this.child === null) {
      this.launch();
      return;
    }
    await this.endChild();
  }

  private async endChild(): Promise<void> {
    const { child } = this;
    if (child === null) return;
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
    await this.ended;
    clearTimeout(timer);
  }

  /** Ends the process for good, and takes the sockets away. Idempotent. */
  async stop(): Promise<void> {
    this.isStopping = true;
    this.aborter.abort();
    await this.endChild();
    this.closeListeners();
  }

  private closeListeners(): void {
    for (const listener of this.listeners.splice(0)) listener.close();
    for (const { socket } of this.devices) removeSocket(socket);
  }
}

function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was not there, or its own program took it away.
  }
}
