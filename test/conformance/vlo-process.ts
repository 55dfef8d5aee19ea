/** The built `vlo` as a child process, and a HAL in a folder of its own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { DeviceStatus, HalStatus } from '../../src/hal/status.js';

export const VLO = fileURLToPath(new URL('../../dist/bin/vlo.js', import.meta.url));

/** A program with what it writes. */
export class Program {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly ended: Promise<number | null>;

  constructor(file: string, args: readonly string[], cwd: string) {
    this.child = spawn(process.execPath, [file, ...args], {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout!.setEncoding('utf8').on('data', (text) => {
      this.stdout += text;
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve) => this.child.on('close', resolve));
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal);
    return this.ended;
  }

  /** Waits for a text on stderr; ends early, with all of it, when the program does. */
  async says(text: string): Promise<void> {
    let isOver = false;
    void this.ended.then(() => {
      isOver = true;
    });
    await expect
      .poll(() => this.stderr.includes(text) || isOver, { timeout: 30_000, interval: 10 })
      .toBe(true);
    expect(this.stderr).toContain(text);
  }
}

export interface Outcome {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** A folder with files of devices, and the HALs that were brought up from it. */
export class HalFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'vlo-hal-'));
  readonly runDir = join(this.path, 'run');
  private readonly programs: Program[] = [];

  file(...names: string[]): string {
    return join(this.path, ...names);
  }

  write(devices: readonly string[], name = 'hal.yaml'): void {
    writeFileSync(this.file(name), `devices:\n${devices.map((line) => `  ${line}\n`).join('')}`);
  }

  start(...args: string[]): Program {
    const program = new Program(VLO, args, this.path);
    this.programs.push(program);
    return program;
  }

  /** Runs a command to its end. */
  async run(...args: string[]): Promise<Outcome> {
    const program = this.start(...args);
    const status = await program.ended;
    return { status, out: program.stdout, err: program.stderr };
  }

  /** Runs a command about the HAL in a run directory. */
  ask(command: string, ...args: string[]): Promise<Outcome> {
    return this.run(command, ...args, '--run-dir', this.runDir);
  }

  /** Brings up `hal.yaml`, or the devices that are given. */
  async up(devices: readonly string[] | null = null, runDir = this.runDir): Promise<Program> {
    if (devices !== null) this.write(devices);
    const program = this.start('up', '--run-dir', runDir);
    await program.says('run directory ');
    return program;
  }

  async status(runDir = this.runDir): Promise<HalStatus> {
    const { out, err } = await this.run('status', '--json', '--run-dir', runDir);
    expect(err).toBe('');
    return JSON.parse(out);
  }

  async device(name: string): Promise<DeviceStatus> {
    return (await this.status()).devices.find((device) => device.name === name)!;
  }

  /** Ends what a test that failed has left. */
  async remove(): Promise<void> {
    for (const { child } of this.programs) {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    }
    await Promise.all(this.programs.map(({ ended }) => ended));
    for (const mountPoint of mountsBelow(this.path)) execFileSync('umount', ['-l', mountPoint]);
    rmSync(this.path, { recursive: true, force: true });
  }
}

export function mountsBelow(path: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((mountPoint) => mountPoint.startsWith(`${path}/`));
}

export const pidsOf = (status: HalStatus): number[] =>
  status.devices.map(({ backEnd }) => backEnd.process!.pid);

export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return !/^\) Z/.test(stat.slice(stat.lastIndexOf(')')));
  } catch {
    return false;
  }
}
