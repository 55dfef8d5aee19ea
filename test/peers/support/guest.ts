/**
 * A QEMU guest under emulation: a Debian kernel and a busybox shell, typed into over a serial port.
 */

import { existsSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { expect } from 'vitest';
import { inPeers, spawnInPeers } from './peers.ts';
import { type Child, until, type Workspace } from './process.ts';

export interface GuestOptions {
  /** Distinguishes the files of several guests in one workspace. */
  readonly name?: string;
  readonly cpus?: number;
  readonly args: readonly string[];
  /** Start as the destination of a migration that comes in on this socket of the workspace. */
  readonly incoming?: string;
}

interface QmpReply {
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
}

/** A vhost-user device for the guest; the chardev connects again when the back end comes back. */
export function vhostUserDevice(device: string, id: string, socket: string, more = ''): string[] {
  const chardev = `socket,id=${id}-c,path=${inPeers(socket)},reconnect-ms=200`;
  return ['-chardev', chardev, '-device', `${device},id=${id},chardev=${id}-c${more}`];
}

export class Guest {
  readonly child: Child;
  readonly #ws: Workspace;
  readonly #name: string;
  #qmp: Socket | undefined;
  #qmpText = '';
  #commands = 0;

  private constructor(ws: Workspace, options: GuestOptions) {
    this.#ws = ws;
    this.#name = options.name ?? 'guest';
    const cpus = options.cpus ?? 2;
    const command = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-no-reboot'];
    command.push('-machine', 'q35,memory-backend=mem,hpet=off', '-accel', 'tcg,thread=multi');
    // vhost-user needs memory that can be shared.
    command.push('-object', 'memory-backend-memfd,id=mem,size=256M,share=on', '-m', '256M');
    command.push('-cpu', 'max', '-smp', String(cpus), '-display', 'none');
    command.push('-kernel', '/opt/guest/vmlinuz', '-initrd', '/opt/guest/initramfs.gz');
    command.push('-append', 'console=ttyS0 loglevel=6 quiet panic=-1 mitigations=off');
    command.push('-serial', `file:${inPeers(`${this.#name}.console`)}`, '-serial', 'stdio');
    command.push('-preconfig', '-qmp', `unix:${inPeers(`${this.#name}.qmp`)},server=on,wait=off`);
    if (options.incoming) command.push('-incoming', 'defer');
    this.child = spawnInPeers(ws, [...command, ...options.args], true);
  }

  /**
   * Boots to the shell, or, as the destination of a migration, to the point where it waits for one.
   */
  static async boot(ws: Workspace, options: GuestOptions): Promise<Guest> {
    const guest = new Guest(ws, options);
    await guest.#connectQmp();
    await guest.#createDevices();
    if (options.incoming) {
      await guest.qmp('migrate-incoming', { uri: `unix:${inPeers(options.incoming)}` });
    } else {
      await guest.child.waitFor(/@@READY/, 60_000);
    }
    return guest;
  }

  /** Runs shell commands; gives what they print and their status. */
  async run(
    script: string,
    timeoutMs = 20_000,
  ): Promise<{ readonly output: string; readonly status: number }> {
    const mark = `@@END-${this.#name}-${++this.#commands}`;
    const from = this.child.stdout.length;
    this.child.child.stdin?.write(`{\n${script}\n} </dev/null; echo "${mark} $?"\n`);
    const pattern = new RegExp(`${mark} (\\d+)`);
    const match = await until(`guest runs: ${script.slice(0, 200)}`, timeoutMs, () => {
      if (!this.child.running) throw new Error(`the guest ended early\n${this.child.tail()}`);
      return pattern.exec(this.child.stdout.slice(from));
    });
    const output = this.child.stdout.slice(from, from + match.index).replaceAll('\r', '');
    return { output, status: Number(match[1]) };
  }

  /** The same for commands that must succeed; gives what they print. */
  async must(script: string, timeoutMs = 60_000): Promise<string> {
    const { output, status } = await this.run(script, timeoutMs);
    expect(status, `guest: ${script}\n${output}\n${this.console()}`).toBe(0);
    return output.trim();
  }

  /** The kernel's messages. */
  console(): string {
    const file = this.#ws.path(`${this.#name}.console`);
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }

  /** A command of QEMU's monitor. */
  async qmp(execute: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const socket = this.#qmp as Socket;
    this.#qmpText = '';
    socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const reply = await until(`QMP ${execute}`, 30_000, () =>
      this.#qmpText
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as QmpReply)
        .find((r) => r.return !== undefined || r.error),
    );
    if (reply.error) throw new Error(`QMP ${execute}: ${reply.error.desc}`);
    return reply.return;
  }

  /** Ends the emulator, as a power cut would. */
  kill(): Promise<void> {
    return this.child.kill();
  }

  /**
   * A chardev that reconnects also makes its first connection in the background, and only
   * vhost-user-blk waits for it; the other devices fail to start without one. So the machine is
   * made when all are connected.
   */
  async #createDevices(): Promise<void> {
    await until('the back ends are connected', 10_000, async () => {
      const all = (await this.qmp('query-chardev')) as { label: string; filename: string }[];
      const ours = all.filter((c) => c.label.endsWith('-c'));
      return ours.every((c) => !c.filename.startsWith('disconnected'));
    });
    await this.qmp('x-exit-preconfig');
  }

  async #connectQmp(): Promise<void> {
    const path = this.#ws.path(`${this.#name}.qmp`);
    const connected = await until('QMP socket', 20_000, async () => {
      if (!this.child.running) throw new Error(`QEMU ended early\n${this.child.tail()}`);
      return existsSync(path) && (await tryConnect(path));
    });
    this.#qmp = connected.setEncoding('utf8').on('data', (text: string) => {
      this.#qmpText += text;
    });
    connected.on('error', () => undefined);
    await this.qmp('qmp_capabilities');
  }
}

function tryConnect(path: string): Promise<Socket | undefined> {
  return new Promise((done) => {
    const socket = connect(path);
    socket.once('connect', () => done(socket));
    socket.once('error', () => done(undefined));
  });
}
