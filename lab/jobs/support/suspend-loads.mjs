/**
 * What the job `suspend` suspends under: devices with clients at work. Each load has `open()`,
 * `count()` of what was done so far, `check()`, which throws when a client has failed, `close()`,
 * which compares what there is to compare, and `processes()`: the device's own.
 */

import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { skip } from './checks.mjs';
import { run, start, waitFor } from './programs.mjs';
import { attach, folder, serve } from './stand.mjs';
import { Disk, Files, StackedDisk } from './suspend-disks.mjs';
import { Worker } from './suspend-worker.mjs';
import { modprobe } from './system.mjs';

const LOOPBACK = ['--transport', 'loopback'];
const VIRTIOFSD = '/usr/libexec/virtiofsd';
const READY_MS = 60_000;

const isThere = async (program) =>
  (await run(['sh', '-c', `command -v ${program}`], { status: null })).status === 0;

/** A back end that another project wrote, listening. */
async function startBackEnd(command, socket) {
  const program = start(command);
  await waitFor(() => existsSync(socket) || program.status !== null, 'socket', READY_MS);
  if (program.status !== null) throw new Error(`${command[0]}: ${program.stderr}`);
  return program;
}

/** A load with one device, one adapter and one client that counts. */
class Simple {
  processes() {
    return [this.device, this.adapter];
  }

  count() {
    return this.worker.count();
  }

  check() {
    this.worker.check();
  }

  async stopDevice() {
    for (const program of [this.adapter, this.device]) await program.stop();
  }

  async close() {
    const rounds = await this.worker.stop();
    await this.stopDevice();
    return `${rounds} rounds`;
  }
}

/** A shared folder: files that are written, renamed and read, and fio beside that. */
class Share extends Simple {
  /** @param {number} pause of fio after a request, in µs */
  constructor(pause) {
    super();
    this.pause = pause;
  }

  async open() {
    if (!existsSync(VIRTIOFSD)) skip('virtiofsd is not in the root');
    await modprobe('virtiofs');
    const stand = folder('share');
    const socket = join(stand, 'socket');
    const shared = join(stand, 'shared');
    mkdirSync(shared);
    const command = [VIRTIOFSD, '--shared-dir', shared, '--socket-path', socket];
    this.device = await startBackEnd([...command, '--log-level', 'warn'], socket);
    ({ program: this.adapter, node: this.tag } = await attach('fs', socket, LOOPBACK));
    this.files = new Files(join(stand, 'mount'));
    await run(['mount', '-t', 'virtiofs', this.tag, this.files.mounted]);
    await this.files.use(false, this.pause);
    const once =
      'echo $round >"$1/new" && mv "$1/new" "$1/now" && read -r text <"$1/now" && ((text == round))';
    this.worker = new Worker(once, { words: [this.files.mounted] });
    return this.tag;
  }

  check() {
    super.check();
    this.files.fio.check();
  }

  async close() {
    const rounds = await this.worker.stop();
    const detail = await this.files.release();
    await this.stopDevice();
    return `${rounds} rounds, ${detail}`;
  }
}

/** passt hands packets for it to the loopback interface of its own namespace. */
const GATEWAY = '192.0.2.1';
const GUEST = '192.0.2.2';
const FILE_BYTES = 256 * 1024;
const inside = ['ip', 'netns', 'exec', 'suspend-in'];
const outside = ['ip', 'netns', 'exec', 'suspend-out'];

/** A network: a file that is fetched again and again, and iperf3 beside that. */
class Network extends Simple {
  async open() {
    if (!(await isThere('passt'))) skip('passt is not in the root');
    await modprobe('virtio_net');
    await modprobe('dummy');
    const stand = folder('network');
    const socket = join(stand, 'socket');
    await this.makeNamespaces();
    const command = ['passt', '--vhost-user', '--foreground', '--quiet', '--ipv4-only'];
    this.device = await startBackEnd([...outside, ...command, '--socket', socket], socket);
    ({ program: this.adapter, node: this.node } = await attach('net', socket, LOOPBACK));
    await this.configure();
    const file = join(stand, 'file');
    const size = [`bs=${FILE_BYTES}`, 'count=1'];
    await run(['dd', 'if=/dev/urandom', `of=${file}`, ...size, 'status=none']);
    this.servers = [
      start([...outside, 'busybox', 'httpd', '-f', '-p', '80', '-h', stand]),
      start([...outside, 'iperf3', '-s']),
    ];
    this.stream = start([...inside, 'iperf3', '-c', GATEWAY, '-t', '36000', '-b', '20M']);
    const once = 'curl --silent --show-error --fail --max-time 60 "$1" | cmp - "$2"';
    const words = [`http://${GATEWAY}/file`, file];
    this.worker = new Worker(once, { first: 'set -o pipefail', words, within: inside });
    return this.node;
  }

  async makeNamespaces() {
    const lines = [
      'netns add suspend-out',
      'netns add suspend-in',
      '-n suspend-out link set lo up',
      '-n suspend-in link set lo up',
      '-n suspend-out link add up0 type dummy',
      `-n suspend-out addr add ${GUEST}/24 dev up0`,
      '-n suspend-out link set up0 up',
      `-n suspend-out route add default via ${GATEWAY}`,
    ];
    for (const line of lines) await run(['ip', ...line.split(' ')]);
  }

  async configure() {
    await run(['ip', 'link', 'set', this.node, 'netns', 'suspend-in']);
    await run(['ip', '-n', 'suspend-in', 'addr', 'add', `${GUEST}/24`, 'dev', this.node]);
    await run(['ip', '-n', 'suspend-in', 'link', 'set', this.node, 'up']);
  }

  check() {
    super.check();
    const { status, stdout, stderr } = this.stream;
    if (status !== null) throw new Error(`iperf3 ended with ${status}: ${stderr || stdout}`);
  }

  async close() {
    this.check();
    const rounds = await this.worker.stop();
    for (const program of [this.stream, ...this.servers]) await program.stop();
    await this.stopDevice();
    for (const name of ['suspend-in', 'suspend-out']) await run(['ip', 'netns', 'del', name]);
    return `${rounds} files of ${FILE_BYTES / 1024} KiB`;
  }
}

/** A port whose other end is a terminal: a question and an answer at a time. */
class Console extends Simple {
  async open() {
    await modprobe('virtio_console');
    const stand = folder('console');
    const socket = join(stand, 'socket');
    const terminal = join(stand, 'terminal');
    this.device = await serve('console', socket, ['--port', `talk,chardev=pty,path=${terminal}`]);
    ({ program: this.adapter, node: this.node } = await attach('console', socket, LOOPBACK));
    if (this.node === null) throw new Error('no driver made a port in time');
    const answer =
      'exec 3<>"$1"; stty raw -echo <&3; while read -r l <&3; do echo "yes $l" >&3; done';
    this.other = start(['bash', '-c', answer, 'other', terminal]);
    const once = 'echo $round >&3; read -r -t 60 text <&3; [[ $text == "yes $round" ]]';
    this.worker = new Worker(once, { first: 'exec 3<>"$1"', words: [this.node] });
    return this.node;
  }

  async close() {
    const rounds = await this.worker.stop();
    this.other.killAll();
    await this.stopDevice();
    return `${rounds} questions and answers`;
  }
}

/** A sound card that plays silence, two seconds at a time. */
class Sound extends Simple {
  async open() {
    // All is emulated: see the job `sound`.
    await modprobe('virtio_snd', 'msg_timeout_ms=30000');
    const stand = folder('sound');
    const socket = join(stand, 'socket');
    this.device = await serve('sound', socket, ['--audio-backend', 'null']);
    ({ program: this.adapter, node: this.node } = await attach('sound', socket, LOOPBACK));
    const [, card] = /controlC(\d+)$/.exec(this.node ?? '') ?? [];
    if (card === undefined) throw new Error(`the node is '${this.node}'`);
    const once = 'aplay -q -D "hw:$1,0" -f S16_LE -r 48000 -c 2 -t raw -d 2 /dev/zero';
    this.worker = new Worker(once, { words: [card] });
    return this.node;
  }
}

/** fio leaves the processors to other loads. */
const SHARED_PAUSE_US = 10_000;
const pauseFor = (isAlone) => (isAlone ? 0 : SHARED_PAUSE_US);

/** By name; whether the load is the only one. @type {Record<string, (isAlone: boolean) => any>} */
export const LOADS = {
  blk: (isAlone) => new Disk(pauseFor(isAlone)),
  'blk on blk': (isAlone) => new StackedDisk(pauseFor(isAlone)),
  net: () => new Network(),
  fs: (isAlone) => new Share(pauseFor(isAlone)),
  console: () => new Console(),
  sound: () => new Sound(),
};
