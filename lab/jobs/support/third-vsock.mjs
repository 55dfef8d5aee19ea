/**
 * vhost-device-vsock: sockets of this kernel's AF_VSOCK, whose other ends are Unix sockets of the
 * back end. It connects to PATH_PORT for an application that connects to PORT of the host; a
 * program of the host's that connects to PATH and writes "CONNECT PORT" reaches an application that
 * listens.
 */

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATIENCE, start } from './programs.mjs';
import { modprobe } from './system.mjs';
import { cell, keepOffers } from './third-matrix.mjs';
import { ThirdParty } from './third-party.mjs';
import { probeVsock } from './third-probes.mjs';
import { offersOf } from './third-survey.mjs';

export const VSOCK = 'vhost-device-vsock';
const CID = 42;
const HOST_CID = 2;
const LISTEN_TRIES = 50;
const LISTEN_PAUSE_MS = 200;
const TRANSFER_MS = 30_000;
/**
 * What 8 connections send at a time. The daemon buffers 64 KiB of each. With more, one of them
 * often stops for good at a multiple of that, while both sides go on to tell of credit.
 */
const ECHO_SIZE = 48 * 1024;
const MIB = 2 ** 20;
const ANSWER = /^OK \d+\n/;
let lastPort = 5000;

/** A port that no connection had before. */
function nextPort() {
  lastPort += 1;
  return lastPort;
}

class Vsock extends ThirdParty {
  constructor() {
    super('vsock', (socket) => {
      rmSync(this.path('vm'), { force: true });
      return [VSOCK, '--vm', `guest-cid=${CID},socket=${socket},uds-path=${this.path('vm')}`];
    });
  }

  /** The Unix socket for applications that connect to a port. @param {number} port */
  portPath(port) {
    return `${this.path('vm')}_${port}`;
  }
}

/** Sends data over a connection to a program that sends it back. */
async function echo(socket, data) {
  const chunks = [];
  let length = 0;
  const done = new Promise((resolve, reject) => {
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= data.length) resolve();
    });
    socket.on('error', reject);
    socket.on('end', () => reject(new Error(`it ended after ${length} bytes`)));
  });
  socket.write(data);
  const limit = sleep(TRANSFER_MS * PATIENCE, 'late');
  const late = (await Promise.race([done, limit])) === 'late';
  socket.destroy();
  if (late) throw new Error(`${length} of ${data.length} bytes came back in time`);
  if (!Buffer.concat(chunks).equals(data)) throw new Error('other bytes came back');
}

/** An application connects to the host. */
async function outwards(vsock, data) {
  const port = nextPort();
  const server = createServer().listen(vsock.portPath(port));
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const application = start(['socat', `VSOCK-CONNECT:${HOST_CID}:${port}`, 'EXEC:cat']);
  const failed = application.ended.then((status) => {
    throw new Error(`socat: ${status} ${application.stderr.trim()}`);
  });
  failed.catch(() => {});
  const [socket] = await Promise.race([accepted, failed]);
  await echo(socket, data);
  server.close();
  application.killAll();
}

/** Connects to a port of an application's; null when it does not listen yet. */
async function reach(vsock, port) {
  const socket = createConnection(vsock.path('vm'));
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(`CONNECT ${port}\n`);
  const answer = await Promise.race([
    once(socket, 'data').catch(() => ['']),
    once(socket, 'close').then(() => ['']),
  ]);
  if (ANSWER.test(`${answer[0]}`)) return socket;
  socket.destroy();
  return null;
}

/** The host connects to an application. */
async function inwards(vsock, data) {
  const port = nextPort();
  const application = start(['socat', `VSOCK-LISTEN:${port}`, 'EXEC:cat']);
  let socket = null;
  for (let tries = 0; socket === null && tries < LISTEN_TRIES; tries += 1) {
    await sleep(LISTEN_PAUSE_MS);
    socket = await reach(vsock, port);
  }
  if (socket === null) throw new Error(`the application was not reached: ${application.stderr}`);
  await echo(socket, data);
  application.killAll();
}

async function bothWays(vsock, size) {
  await outwards(vsock, randomBytes(size));
  await inwards(vsock, randomBytes(size));
}

async function killed(vsock, rounds) {
  for (let round = 0; round < rounds; round += 1) {
    const transfer = outwards(vsock, randomBytes(64 * MIB)).then(
      () => 'ended well',
      (error) => error.message,
    );
    await sleep(500);
    await vsock.replace();
    const end = await transfer;
    if (end === 'ended well') throw new Error('the transfer was over too soon');
    await bothWays(vsock, MIB);
  }
  vsock.mustBeAttached();
  return `${rounds} times during a transfer; new connections work, both ways`;
}

async function use(device, put, isShort) {
  await put('data', 'an application connects', () => outwards(device, randomBytes(MIB)));
  await put('data', 'an application is connected to', () => inwards(device, randomBytes(MIB)));
  await put('load', '8 connections at a time, both ways', async () => {
    for (let round = 0; round < (isShort ? 2 : 10); round += 1) {
      for (const way of [outwards, inwards]) {
        await Promise.all(Array.from({ length: 8 }, () => way(device, randomBytes(ECHO_SIZE))));
      }
    }
  });
  await put('killed and back', 'killed and back', () => killed(device, isShort ? 1 : 5));
}

/** @param {{ isShort: boolean }} options */
export async function vsock({ isShort }) {
  const device = new Vsock();
  const put = (column, title, action) => cell(VSOCK, column, title, action);
  await modprobe('vmw_vsock_virtio_transport');
  await put('data', 'what it offers', async () => {
    const offers = await device.survey(offersOf);
    const port = nextPort();
    const server = createServer().listen(device.portPath(port));
    const lengths = await device.survey((socket) => probeVsock(socket, { cid: CID, port }));
    server.close();
    return keepOffers(VSOCK, offers, lengths);
  });
  await device.start();
  const isThere = await put('data', 'a socket device', () => device.attach());
  if (isThere) await use(device, put, isShort);
  await put('data', 'it goes', () => device.stop());
}
