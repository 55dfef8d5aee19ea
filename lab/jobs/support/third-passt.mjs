/**
 * passt: a network interface whose packets become sockets of the namespace `outside`, which has a
 * route and an address that passt hands on. The interface itself is in the namespace `inside`.
 */

import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fact } from './checks.mjs';
import { run, start, waitFor } from './programs.mjs';
import { modprobe } from './system.mjs';
import { cell, keepOffers } from './third-matrix.mjs';
import { ThirdParty } from './third-party.mjs';
import { probeNet } from './third-probes.mjs';
import { offersOf } from './third-survey.mjs';

export const PASST = 'passt';
const ADDRESS = [192, 0, 2, 2];
/** passt takes packets for it to 127.0.0.1 of its own namespace. */
const GATEWAY = [192, 0, 2, 1];
const HOST = GATEWAY.join('.');
const FORWARDED_PORT = 8080;
const FILE_BYTES = 2 ** 20;
const LISTEN_MS = 10_000;
const TRANSFER_MS = 40_000;

/** Configures the interface as a DHCP server says. */
const DHCP_SCRIPT = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip link set "$interface" mtu "$mtu"
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "$ip, mtu $mtu"
`;

const within = (namespace, command) => ['ip', 'netns', 'exec', namespace, ...command];

async function makeNamespaces() {
  await modprobe('virtio_net');
  await modprobe('dummy');
  const lines = [
    'netns add outside',
    'netns add inside',
    '-n outside link set lo up',
    '-n inside link set lo up',
    '-n outside link add up0 type dummy',
    `-n outside addr add ${ADDRESS.join('.')}/24 dev up0`,
    '-n outside link set up0 up',
    `-n outside route add default via ${HOST}`,
  ];
  for (const line of lines) await run(['ip', ...line.split(' ')]);
  // passt asks the kernel for ping sockets as an ordinary user.
  const line = 'echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range';
  await run(within('outside', ['sh', '-c', line]));
}

class Network extends ThirdParty {
  constructor() {
    super('net', (socket) => [
      ...within('outside', ['passt', '--vhost-user', '--foreground', '--quiet', '--ipv4-only']),
      ...['--socket', socket, '--tcp-ports', `${FORWARDED_PORT}:80`],
    ]);
    this.www = this.path('www');
    this.script = this.path('dhcp.sh');
  }

  async prepare() {
    await makeNamespaces();
    mkdirSync(this.www);
    writeFileSync(this.script, DHCP_SCRIPT);
    chmodSync(this.script, 0o755);
    const file = `${this.www}/file`;
    await run([
      'dd',
      'if=/dev/urandom',
      `of=${file}`,
      `bs=${FILE_BYTES}`,
      'count=1',
      'status=none',
    ]);
    this.sum = (await run(['sha256sum', file])).stdout.split(' ')[0];
  }

  /** An HTTP server and an iperf3 in each place that somebody connects to. */
  async listen() {
    for (const namespace of ['outside', 'inside']) {
      const server = ['busybox', 'httpd', '-f', '-p', '80', '-h', this.www];
      start(within(namespace, server));
      start(within(namespace, ['iperf3', '-s']));
    }
    const ports = [':0050 ', ':1451 '];
    await waitFor(
      async () => {
        const { stdout } = await run(within('outside', ['cat', '/proc/net/tcp', '/proc/net/tcp6']));
        return ports.every((port) => stdout.includes(port));
      },
      'servers that listen',
      LISTEN_MS,
    );
  }
}

async function configure(network) {
  const { node, script } = network;
  await run(['ip', 'link', 'set', node, 'netns', 'inside']);
  await run(['ip', '-n', 'inside', 'link', 'set', node, 'up']);
  const client = ['busybox', 'udhcpc', '-i', node, '-s', script, '-q', '-n', '-f', '-t', '10'];
  const { stdout } = await run(within('inside', client));
  return `${node}: ${stdout.trim()}`;
}

async function ping() {
  const words = ['busybox', 'ping', '-c', '3', '-i', '0.2', '-W', '5', HOST];
  const { stdout } = await run(within('inside', words));
  const [, received] = /(\d+) packets received/.exec(stdout) ?? [];
  if (received !== '3') throw new Error(stdout);
  return `3 of 3 answers, ${/[\d.]+\/[\d.]+\/[\d.]+/.exec(stdout)?.[0]} ms`;
}

/** The same file through the network, in both directions. */
async function fetchFile(network) {
  const get = async (namespace, url) => {
    const line = `curl --silent --show-error --fail --max-time 20 ${url} | sha256sum`;
    const { stdout } = await run(within(namespace, ['bash', '-o', 'pipefail', '-c', line]));
    if (stdout.split(' ')[0] !== network.sum) throw new Error(`${url}: other bytes`);
  };
  await get('inside', `http://${HOST}/file`);
  await get('outside', `http://127.0.0.1:${FORWARDED_PORT}/file`);
  return '1 MiB, out and in';
}

/** Megabits a second, each way. */
async function rate(seconds) {
  const rates = {};
  for (const [way, words] of Object.entries({ out: [], in: ['-R'] })) {
    const client = ['iperf3', '-c', HOST, '-t', `${seconds}`, '--json', ...words];
    const { stdout } = await run(within('inside', client), { timeout: TRANSFER_MS });
    const { end } = JSON.parse(stdout);
    rates[way] = Math.round(end.sum_received.bits_per_second / 1e6);
    if (!(rates[way] > 0)) throw new Error(`${way}: nothing received`);
  }
  fact('passt: Mbit/s', rates);
  return `${rates.out} Mbit/s out, ${rates.in} Mbit/s in`;
}

/** Connections are the dead passt's, and end; new ones and all else work with its successor. */
async function killed(network, rounds) {
  for (let round = 0; round < rounds; round += 1) {
    const client = ['timeout', '20', 'iperf3', '-c', HOST, '-t', '4'];
    const transfer = start(within('inside', client));
    await sleep(1000);
    await network.replace();
    await ping();
    await fetchFile(network);
    if ((await transfer.ended) === 0) throw new Error('a transfer outlived its passt');
  }
  network.mustBeAttached();
  return `${rounds} times during a transfer`;
}

async function use(network, put, isShort) {
  await put('data', 'ping', ping);
  await put('data', 'curl, both ways', () => fetchFile(network));
  await put('load', 'iperf3, both ways', () => rate(isShort ? 2 : 10));
  await put('killed and back', 'killed and back', () => killed(network, isShort ? 1 : 5));
}

/** @param {{ isShort: boolean }} options */
export async function passt({ isShort }) {
  const network = new Network();
  const put = (column, title, action) => cell(PASST, column, title, action);
  await network.prepare();
  await put('data', 'what it offers', async () => {
    const offers = await network.survey(offersOf);
    const probe = (socket) => probeNet(socket, { address: ADDRESS, gateway: GATEWAY });
    const lengths = await network.survey(probe);
    return keepOffers(PASST, offers, lengths);
  });
  await network.start();
  const isThere = await put('data', 'an interface, and an address by DHCP', async () => {
    await network.attach();
    const text = await configure(network);
    await network.listen();
    return text;
  });
  if (isThere) await use(network, put, isShort);
  await put('data', 'it goes', () => network.stop());
}
