/**
 * The console device under the kernel's virtio_console, over the loopback module: a dialogue, bulk
 * data both ways, comings and goings, a device that dies, and what is refused.
 */

import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { connect as connectSocket } from 'node:net';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { check, fact, skip } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, folder, serve, VLO, waitForNoDevices } from './support/stand.mjs';
import { ARCH, insertModule, KERNEL, modprobe, removeModule } from './support/system.mjs';

const MIB = 2 ** 20;
const BULK_SIZE = 64 * MIB;
const BLOCK = 32768;
const HAS_BOUNCE = !(ARCH === 'riscv64' && KERNEL.startsWith('6.12'));
const LOOPBACK = [...['--transport', 'loopback'], ...(HAS_BOUNCE ? [] : ['--memory', 'direct'])];
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

/** A console in service: its process, its adapter, its node. */
async function stand(ports, words = []) {
  const place = folder('console');
  const socket = join(place, 'socket');
  const specs = ports.map(([name, backend, more = '']) =>
    [name, `backend=${backend}`, `path=${join(place, name)}`].join(',').concat(more),
  );
  const options = specs.flatMap((spec) => ['--port', spec]);
  const device = await serve('console', socket, options);
  const { program, node } = await attach('console', socket, [...LOOPBACK, ...words]);
  return { place, socket, options, device, program, node, path: (name) => join(place, name) };
}

async function end({ program, device }) {
  await program.stop();
  await device.stop();
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

export default async function job() {
  await check('the module loads', async () => {
    await modprobe('virtio_console');
    await insertModule();
  });
  await check('a dialogue, both ways', logIn, CHECK);
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
