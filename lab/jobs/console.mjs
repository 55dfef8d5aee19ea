/**
 * The console device under the kernel's virtio_console, over the loopback module: a dialogue, bulk
 * data both ways, comings and goings, a device that dies, terminals, and many ports.
 */

import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  createReadStream,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
} from 'node:fs';
import { connect as connectSocket } from 'node:net';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { openPty } from '../../dist/native/index.js';
import { libc } from '../../dist/native/libc.js';
import { check, figure } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, folder, serve, waitForNoDevices } from './support/stand.mjs';
import { ARCH, insertModule, modprobe, removeModule } from './support/system.mjs';

const MIB = 2 ** 20;
const BULK_SIZE = 64 * MIB;
const BLOCK = 32768;
const RATE_SIZE = 16 * MIB;
const F_SETFL = 4;
const { O_RDWR } = constants;
const LOOPBACK = ['--transport', 'loopback'];
const IS_FOREIGN = ARCH !== 'x86-64';
const CHECK = { timeout: IS_FOREIGN ? 240_000 : 100_000 };

/** A client of a port's Unix socket: what it heard, and a way to say something. */
class Client {
  heard = Buffer.alloc(0);
  isClosed = false;

  constructor(path) {
    this.socket = connectSocket(path);
    this.socket.on('data', (bytes) => {
      this.heard = Buffer.concat([this.heard, bytes]);
    });
    this.socket.on('close', () => {
      this.isClosed = true;
    });
    this.socket.on('error', () => {});
  }

  say(text) {
    this.socket.write(text);
  }

  hears(pattern) {
    return waitFor(() => pattern.test(this.heard.toString('latin1')), `${pattern} on the port`);
  }

  async close() {
    this.socket.end();
    await waitFor(() => this.isClosed, 'end of the connection');
  }
}

/** Adapters that run. */
const adapters = new Set();

/** A console in service: its process, its adapter, its node. */
async function stand(ports, words = []) {
  const place = folder('console');
  const socket = join(place, 'socket');
  const specs = ports.map(([name, backend, more = '']) =>
    [name, `chardev=${backend}`, `path=${join(place, name)}`].join(',').concat(more),
  );
  const options = specs.flatMap((spec) => ['--port', spec]);
  const device = await serve('console', socket, options);
  const { program, node } = await attach('console', socket, [...LOOPBACK, ...words]);
  adapters.add(program);
  return { place, socket, options, device, program, node, path: (name) => join(place, name) };
}

async function end({ program, device }) {
  adapters.delete(program);
  await program.stop();
  await device.stop();
}

/** Runs a check; one that fails leaves no port in the way of the next. */
async function checkPort(name, action) {
  await check(name, action, CHECK);
  for (const program of adapters) await program.stop().catch(() => {});
  adapters.clear();
}

const nameOf = (node) =>
  readFileSync(`/sys/class/virtio-ports/${node.split('/').at(-1)}/name`, 'utf8').trim();

/** Somebody logs in: a shell behind the kernel's port, a person at the device's socket. */
async function logIn() {
  const console = await stand([['org.example.getty', 'unix']]);
  const { node } = console;
  if (!/^\/dev\/vport\d+p0$/.test(node ?? '')) throw new Error(`the node is '${node}'`);
  await waitFor(() => existsSync(`/sys/class/virtio-ports/${node.split('/').at(-1)}/name`), 'name');
  if (nameOf(node) !== 'org.example.getty') throw new Error(`the name is '${nameOf(node)}'`);
  const client = new Client(console.path('org.example.getty'));
  const shell = start([
    'bash',
    '-c',
    `exec <>"$1" >&0
     printf 'login: '; read -r name
     printf 'Password: '; read -r word
     [[ $word == secret ]] || exit 3
     printf 'Welcome, %s\\n$ ' "$name"
     while read -r line; do [[ $line == exit ]] && break; eval "$line"; printf '$ '; done
     printf 'bye\\n'`,
    'bash',
    node,
  ]);
  await client.hears(/login: $/);
  client.say('ada\n');
  await client.hears(/Password: $/);
  client.say('secret\n');
  await client.hears(/Welcome, ada\n\$ $/);
  client.say('echo $((6 * 7))\n');
  await client.hears(/\n?42\n\$ $/);
  client.say('exit\n');
  await client.hears(/bye\n$/);
  if ((await shell.ended) !== 0) throw new Error(`the shell ended with ${shell.status}`);
  await client.close();
  await end(console);
  return node;
}

/** Moves a file through a port both ways; the checksums are those of the file. */
async function moveBulk() {
  const console = await stand([['bulk', 'unix']]);
  const { node } = console;
  const file = join(console.place, 'data');
  await run(['dd', 'if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${BULK_SIZE / MIB}`]);
  const [sum] = (await run(['sha256sum', file])).stdout.split(' ');
  const client = connectSocket(console.path('bulk'));
  const hash = createHash('sha256');
  let size = 0;
  client.on('data', (bytes) => {
    hash.update(bytes);
    size += bytes.length;
  });
  const outMs = await timed(async () => {
    await run(['dd', `if=${file}`, `of=${node}`, `bs=${BLOCK}`]);
    await waitFor(() => size === BULK_SIZE, `${BULK_SIZE} bytes on the socket`);
  });
  const heard = hash.digest('hex');
  if (heard !== sum) throw new Error(`to the device: sha256 ${sum} became ${heard}`);
  const reader = start(['sh', '-c', `head -c ${BULK_SIZE} "$1" | sha256sum`, 'sh', node]);
  const inMs = await timed(async () => {
    createReadStream(file, { highWaterMark: 65536 }).pipe(client, { end: false });
    await reader.ended;
  });
  if (!reader.stdout.startsWith(sum)) {
    throw new Error(`from the device: sha256 ${sum} became ${reader.stdout}`);
  }
  client.destroy();
  await end(console);
  return `${rate(BULK_SIZE, outMs)} to the device, ${rate(BULK_SIZE, inMs)} back, sums included`;
}

/** Milliseconds that an action takes. */
async function timed(action) {
  const startedAt = performance.now();
  await action();
  return performance.now() - startedAt;
}

const rate = (size, ms) => `${(size / MIB / (ms / 1000)).toFixed(1)} MiB/s`;

/** A pseudo-terminal alone, open on both sides. */
function openTerminal() {
  const { fd, path } = openPty();
  libc.fcntl(fd.number, F_SETFL, O_RDWR); // Who reads waits for it.
  const other = openSync(path, O_RDWR);
  return { fd, path, close: () => [fd.close(), closeSync(other)] };
}

/** The same bytes through a port whose other end is a terminal, and through a terminal alone. */
async function compareWithTerminal() {
  const console = await stand([['rate', 'pty']]);
  const file = join(console.place, 'data');
  await run(['dd', 'if=/dev/zero', `of=${file}`, 'bs=1M', `count=${RATE_SIZE / MIB}`]);
  const write = (to) => run(['dd', `if=${file}`, `of=${to}`, `bs=${BLOCK}`]);
  const count = (from) => `head -c ${RATE_SIZE} ${from} | wc -c`;
  const rates = { port: [], terminal: [] };
  for (let round = 0; round < 3; round += 1) {
    const reader = start(['sh', '-c', count('"$1"'), 'sh', console.path('rate')]);
    // The terminal is looked at now and then: the port is open soon after.
    await waitFor(() => isOpen(console.node), 'open port');
    rates.port.push(await timed(() => Promise.all([write(console.node), reader.ended])));
    if (reader.stdout.trim() !== `${RATE_SIZE}`) throw new Error(`${reader.stdout} bytes`);
    const terminal = openTerminal();
    const stdio = [terminal.fd.number, 'pipe', 'pipe'];
    const other = start(['sh', '-c', count('')], { stdio });
    rates.terminal.push(await timed(() => Promise.all([write(terminal.path), other.ended])));
    terminal.close();
    if (other.stdout.trim() !== `${RATE_SIZE}`) throw new Error(`${other.stdout} bytes`);
  }
  await end(console);
  const median = (list) => list.toSorted((a, b) => a - b)[1];
  const [port, terminal] = [median(rates.port), median(rates.terminal)];
  return figure('console', 'MiB/s', toMiBs(port), toMiBs(terminal), 'pty');
}

const toMiBs = (ms) => RATE_SIZE / MIB / (ms / 1000);

/** The device says that somebody is at its end: writing would not wait. */
function isOpen(node) {
  const name = node.split('/').at(-1);
  const text = readFileSync(`/sys/kernel/debug/virtio-ports/${name}`, 'utf8');
  return /host_connected: (1|yes)/.test(text);
}

/** Either end comes and goes; nothing that is said meanwhile is lost. */
async function comeAndGo() {
  const console = await stand([['visits', 'unix']]);
  const { node } = console;
  if (isOpen(node)) throw new Error('a port is open at whose end nobody is');
  if (readFileSync(node, 'utf8') !== '') throw new Error('somebody said something');
  for (let round = 0; round < 3; round += 1) {
    const client = new Client(console.path('visits'));
    client.say(`round ${round}\n`); // While the kernel's end is closed.
    await waitFor(() => isOpen(node), 'open port');
    const shell = start(['bash', '-c', 'exec <>"$1" >&0; read -r l; echo "heard $l"', 'x', node]);
    await client.hears(new RegExp(`^heard round ${round}\n$`));
    if ((await shell.ended) !== 0) throw new Error(shell.stderr);
    await client.close();
    await waitFor(() => !isOpen(node), 'closed port');
  }
  await end(console);
  return '3 visits';
}

/** A device that is killed: its successor goes on with the port that an application has open. */
async function outliveDevice() {
  const console = await stand([['lasting', 'unix']]);
  const { node, socket, options, device } = console;
  const shell = start([
    ...['bash', '-c', 'exec <>"$1" >&0; while read -r l; do echo "heard $l"; done', 'x', node],
  ]);
  let client = new Client(console.path('lasting'));
  client.say('one\n');
  await client.hears(/heard one\n$/);
  device.kill('SIGKILL');
  await device.ended;
  const successor = await serve('console', socket, options);
  client = new Client(console.path('lasting'));
  client.say('two\n');
  await client.hears(/heard two\n$/);
  // Before the client leaves: the shell ends when nobody is at the other end any more.
  if (shell.status !== null) throw new Error('the application lost its port');
  await client.close();
  await shell.stop();
  await end({ program: console.program, device: successor });
  return 'the application noticed nothing';
}

/** A console without ports, whose end is a Unix socket. */
async function terminalStand() {
  const place = folder('terminal');
  const socket = join(place, 'socket');
  const options = ['--chardev', 'unix', '--path', join(place, 'end')];
  const device = await serve('console', socket, options);
  const { program, node } = await attach('console', socket, LOOPBACK);
  adapters.add(program);
  if (!/^\/dev\/hvc\d$/.test(node ?? '')) throw new Error(`the node is '${node}'`);
  return { place, socket, options, device, program, node };
}

/** A shell on /dev/hvcN, and the kernel's own messages there. */
async function useTerminal() {
  const console = await terminalStand();
  const client = new Client(join(console.place, 'end'));
  const shell = start([
    ...['bash', '-c', 'exec <>"$1" >&0; while read -r l; do echo "heard $l"; done', 'x'],
    console.node,
  ]);
  client.say('one\n');
  await client.hears(/heard one\r?\n$/);
  const size = 200_000;
  const before = client.heard.length;
  console.device.kill('SIGSTOP'); // All of it is kept for the device.
  await run(['sh', '-c', `head -c ${size} /dev/zero | tr '\\0' x > ${console.node}`]);
  console.device.kill('SIGCONT');
  await waitFor(() => client.heard.length >= before + size, `${size} bytes of output`);
  await shell.stop();
  await client.close();
  await end(console);
  return `${console.node}, ${size} bytes`;
}

/** The driver sends with interrupts off; a device process that stands still stops nothing. */
async function outlastTerminal() {
  const console = await terminalStand();
  const client = new Client(join(console.place, 'end'));
  await waitFor(() => existsSync(console.node), 'node');
  console.device.kill('SIGSTOP');
  const since = performance.now();
  const send = (text) => run(['sh', '-c', `echo ${text} > ${console.node}`], { timeout: 20_000 });
  for (let i = 0; i < 20; i += 1) await send(`stopped${i}`);
  const ms = performance.now() - since;
  console.device.kill('SIGCONT');
  await client.hears(/stopped0\r?\n[\s\S]*stopped19\r?\n$/);
  console.device.kill('SIGKILL');
  await console.device.ended;
  await send('meanwhile');
  const successor = await serve('console', console.socket, console.options);
  const other = new Client(join(console.place, 'end'));
  await waitFor(async () => {
    await send('again');
    return /again/.test(other.heard.toString('latin1'));
  }, 'output at the successor');
  await other.close();
  await end({ program: console.program, device: successor });
  return `20 lines in ${ms.toFixed(0)} ms to a process that was stopped`;
}

/** Programs open more ports than there are processors, all at once. */
async function openMany() {
  const count = cpus().length + 2;
  const names = Array.from({ length: count }, (_, index) => `p${index}`);
  const console = await stand(names.map((name) => [name, 'unix']));
  const clients = names.map((name) => new Client(console.path(name)));
  const [, number] = /vport(\d+)p/.exec(console.node);
  const nodes = names.map((_, index) => `/dev/vport${number}p${index}`);
  for (const node of nodes) await waitFor(() => existsSync(node) && isOpen(node), `open ${node}`);
  for (let round = 0; round < 5; round += 1) {
    const all = nodes.map((node) => run(['sh', '-c', `echo round${round} > ${node}`]));
    await Promise.all(all);
  }
  for (const client of clients) await client.hears(/^(round\d\n){5}$/);
  for (const client of clients) await client.close();
  await end(console);
  return `${count} ports on ${cpus().length} processors`;
}

/** A port for people is a plain one over this transport; no /dev/hvcN comes with it. */
async function demote() {
  const consoles = () => readdirSync('/dev').filter((name) => /^hvc/.test(name)).length;
  const before = consoles();
  const console = await stand([['tty', 'pty', ',console']]);
  await console.device.waitForOutput(/no console here/);
  if (consoles() !== before) throw new Error('there is a /dev/hvcN');
  await end(console);
  return console.node;
}

export default async function job() {
  await check('the module loads', async () => {
    await modprobe('virtio_console');
    await insertModule();
  });
  await checkPort('a dialogue, both ways', logIn);
  await checkPort(`${BULK_SIZE / MIB} MiB through a port, both ways`, moveBulk);
  if (!IS_FOREIGN) await checkPort('throughput, beside a pty', compareWithTerminal);
  await checkPort('either end comes and goes', comeAndGo);
  await checkPort('a device that is killed', outliveDevice);
  await checkPort('a terminal, /dev/hvcN', useTerminal);
  await checkPort('a terminal whose device stands still, and dies', outlastTerminal);
  await checkPort('more ports than processors', openMany);
  await checkPort('a console port is a plain one', demote);
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
