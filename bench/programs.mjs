/** Child processes of the bench: ours and those of the peers folder, and the folder they share. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const PROJECT = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
const PEERS = `${process.env.VLO_PEERS || '/var/cache/virtio-loopback/peers'}/root`;
const SOCKET_PATH_MAX = 107;
/** What our device processes print on stderr when they listen. */
export const READY = /: ready on .*\n/;

/** @param {number} ms @returns {Promise<void>} */
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Why the peers cannot be used here, with the command that changes it; null when they can. */
export function whyNoPeers() {
  if (process.getuid?.() !== 0) return 'the peers run in a chroot, which needs root: run as root';
  const check = spawnSync(join(PROJECT, 'scripts/install-peers.sh'), ['--check'], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (check.status === 0) return null;
  const output = `${check.stdout ?? ''}${check.stderr ?? ''}`.trim();
  return `${output}\npeers are not installed: run scripts/install-peers.sh`;
}

/** One child process. It is killed when it takes too long, and when this process ends. */
export class Program {
  stdout = '';
  stderr = '';
  running = true;
  timedOut = false;

  /**
   * @param {string} title for messages
   * @param {readonly string[]} command
   * @param {{ timeoutMs: number, onOutput?: (program: Program) => void }} options
   */
  constructor(title, command, { timeoutMs, onOutput }) {
    this.title = title;
    this.started = performance.now();
    const stdio = ['ignore', 'pipe', 'pipe'];
    this.child = spawn(command[0], command.slice(1), { cwd: PROJECT, stdio });
    for (const name of ['stdout', 'stderr']) {
      this.child[name].setEncoding('utf8').on('data', (text) => {
        this[name] += text;
        onOutput?.(this);
      });
    }
    const timer = setTimeout(() => {
      this.timedOut = true;
      this.child.kill('SIGKILL');
    }, timeoutMs);
    timer.unref();
    /** Resolves with the status when the process, and all that share its output, have ended. */
    this.ended = new Promise((done) => {
      this.child.on('error', (error) => {
        this.stderr += `${error}\n`;
      });
      this.child.on('close', (status) => {
        clearTimeout(timer);
        this.running = false;
        done(status);
      });
    });
  }

  get pid() {
    return this.child.pid ?? -1;
  }

  /** @param {string} what */
  failure(what) {
    const late = this.timedOut ? ' (killed: took too long)' : '';
    const last = `${this.stdout}\n${this.stderr}`.trim().split('\n').slice(-8).join('\n    ');
    return new Error(`${this.title}: ${what}${late}\n    ${last}`);
  }

  /** Waits for the end, which has to be a success; gives the standard output. */
  async output() {
    const status = await this.ended;
    if (status !== 0) throw this.failure(`status ${status}`);
    return this.stdout;
  }

  /**
   * Waits until `ready` says so.
   * @param {() => boolean} ready
   * @param {number} timeoutMs
   */
  async until(ready, timeoutMs) {
    const end = performance.now() + timeoutMs;
    while (!ready()) {
      if (!this.running) throw this.failure('ended early');
      if (performance.now() > end) throw this.failure(`not ready within ${timeoutMs} ms`);
      await sleep(5);
    }
  }

  /** SIGTERM first where that is asked for; then SIGKILL. */
  async stop(gently = false) {
    if (gently && this.running) {
      this.child.kill('SIGTERM');
      await Promise.race([this.ended, sleep(3000)]);
    }
    if (this.running) this.child.kill('SIGKILL');
    await this.ended;
  }
}

// As in test/peers: namespaces of its own, so that no mount outlives the program, and the end of
// `unshare` is the end of all in it. $1 root of the peers, $2 folder that they see as /sock.
const ENTER = `
R=$1; S=$2; shift 2
mount --rbind /dev "$R/dev" && mount -t proc proc "$R/proc" && mount --rbind "$S" "$R/sock" &&
mount -t tmpfs tmpfs "$R/tmp" || exit 125
PATH=/usr/sbin:/usr/bin HOME=/tmp TMPDIR=/tmp chroot "$R" "$@"
exit $?`;

/** What is mounted below a folder, the last first. @param {string} folder */
function mountsBelow(folder) {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n');
  const points = lines.map((line) => line.split(' ')[4]);
  return points.filter((point) => point.startsWith(`${folder}/`)).reverse();
}

/** The temporary folder of a run, and the processes that work in it. */
export class Workbench {
  /** @type {Program[]} */
  #programs = [];
  #closed = false;

  /** @param {string | undefined} parent folder on the file system to measure on */
  constructor(parent) {
    this.dir = mkdtempSync(join(resolve(parent ?? tmpdir()), 'vlo-bench-'));
    const longest = this.path('00-theirs.sock');
    if (longest.length > SOCKET_PATH_MAX) {
      this.closeNow();
      throw new Error(`${this.dir}: too long a path for a socket; choose another --dir`);
    }
  }

  /** @param {string} name */
  path(name) {
    return join(this.dir, name);
  }

  /**
   * A program of the host. The kernel kills it if this process dies without a chance to clean up.
   * @param {readonly string[]} command
   * @param {{ timeoutMs?: number, bare?: boolean, onOutput?: (program: Program) => void }} options
   *   bare: without the wrapper that makes it die with us, whose start would be measured too
   */
  start(command, { timeoutMs = 60_000, bare = false, onOutput } = {}) {
    if (this.#closed) throw new Error('the bench is over');
    this.#programs = this.#programs.filter((program) => program.running);
    const wrapped = bare ? command : ['setpriv', '--pdeathsig', 'KILL', '--', ...command];
    const program = new Program(this.show(command), wrapped, { timeoutMs, onOutput });
    this.#programs.push(program);
    return program;
  }

  /**
   * A program of the peers folder, which sees the temporary folder as /sock.
   * @param {readonly string[]} command
   * @param {{ timeoutMs?: number }} options
   */
  startPeer(command, options = {}) {
    const enter = ['--mount', '--pid', '--fork', '--kill-child=KILL', '--propagation', 'private'];
    const shell = ['sh', '-c', ENTER, 'sh', PEERS, this.dir];
    const program = this.start(['unshare', ...enter, ...shell, ...command], options);
    program.title = this.show(command);
    return program;
  }

  /**
   * A program of the peers folder in the namespaces of another: it sees that one's mounts.
   * @param {number} pid of a process in there
   * @param {readonly string[]} command
   */
  startBeside(pid, command) {
    const enter = ['nsenter', '--target', `${pid}`, '--mount', '--root', '--wd=/'];
    const program = this.start([...enter, 'env', 'PATH=/usr/sbin:/usr/bin', ...command]);
    program.title = this.show(command);
    return program;
  }

  /**
   * A command as a reader would type it: no folder of this machine in it.
   * @param {readonly string[]} command
   */
  show(command) {
    return command
      .map((word) => (word === process.execPath ? 'node' : word))
      .map((word) => word.replaceAll(this.dir, 'DIR').replaceAll(`${PROJECT}/`, ''))
      .join(' ');
  }

  /** For the way out on a signal: kills at once and removes the folder. */
  closeNow() {
    this.#closed = true;
    for (const program of this.#programs) if (program.running) program.child.kill('SIGKILL');
    for (const mounted of mountsBelow(this.dir)) spawnSync('umount', ['--lazy', mounted]);
    rmSync(this.dir, { recursive: true, force: true });
  }

  async stopAll() {
    // Gently: who has mounted something takes it away again.
    for (const program of this.#programs.toReversed()) await program.stop(true);
  }

  async close() {
    await this.stopAll();
    this.closeNow();
  }
}

/** @typedef {{ program: Program, socket: string, command: string }} Server */

/**
 * Our back end.
 * @param {Workbench} bench
 * @param {string} name of the socket
 * @param {readonly string[]} more options
 * @returns {Promise<Server>}
 */
export async function startOurs(bench, name, more = []) {
  const socket = bench.path(`${name}.sock`);
  const files = ['--socket-path', socket, '--blk-file', bench.path('disk.img')];
  const command = [process.execPath, join(PROJECT, 'dist/bin/vlo.js'), 'serve', 'blk', ...files];
  command.push(...more);
  const program = bench.start(command, { timeoutMs: 900_000 });
  await program.until(() => READY.test(program.stderr), 10_000);
  return { program, socket, command: bench.show(command) };
}

/**
 * qemu-storage-daemon on the same file, with io_uring and a thread for requests.
 * @param {Workbench} bench
 * @param {string} name
 * @param {number} queues
 * @returns {Promise<Server>}
 */
export async function startTheirs(bench, name, queues = 1) {
  // The image is in use by our back end, too: hence no lock.
  const file = 'driver=file,filename=/sock/disk.img,node-name=f0,cache.direct=off,aio=io_uring';
  const address = `addr.type=unix,addr.path=/sock/${name}.sock`;
  const device = `type=vhost-user-blk,id=e0,node-name=d0,${address}`;
  const command = ['qemu-storage-daemon', '--object', 'iothread,id=io0'];
  command.push(
    '--blockdev',
    `${file},locking=off`,
    '--blockdev',
    'driver=raw,file=f0,node-name=d0',
  );
  command.push('--export', `${device},writable=on,iothread=io0,num-queues=${queues}`);
  command.push('--pidfile', `/sock/${name}.pid`);
  const program = bench.startPeer(command, { timeoutMs: 900_000 });
  const pidFile = bench.path(`${name}.pid`);
  await program.until(() => existsSync(pidFile) && statSync(pidFile).size > 0, 10_000);
  return { program, socket: bench.path(`${name}.sock`), command: bench.show(command) };
}
