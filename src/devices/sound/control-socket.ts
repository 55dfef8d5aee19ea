/** A Unix socket that takes commands: a line each, answered by a line of JSON. */
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { listenAt } from '../../vhost-user/index.js';
import type { SoundDevice } from './device.js';

/** Longest command, in characters. */
const COMMAND_SIZE_MAX = 1024;
const HELP = "'jack NUMBER on|off' or 'status' is needed";

/** What a command is answered. */
function answer({ jacks, streams }: SoundDevice, line: string): object {
  const [verb, number = '', word = ''] = line.trim().split(/\s+/);
  if (verb === 'status') {
    return {
      streams: streams.map(({ id, state, direction, errno, counters }) => ({
        ...{ id, direction: direction === 0 ? 'playback' : 'capture', state, errno },
        ...counters,
      })),
      jacks: jacks.infos.map((_, id) => (jacks.isConnected(id) ? 'on' : 'off')),
    };
  }
  if (verb !== 'jack' || !/^\d{1,4}$/.test(number) || !['on', 'off'].includes(word)) {
    return { error: HELP };
  }
  if (jacks.setPlugged(Number(number), word === 'on')) return { ok: true };
  return { error: `there is no jack ${number}; there are ${jacks.infos.length}` };
}

/** Serves commands on a socket that its owner alone may use. */
export class ControlSocket {
  private readonly device: SoundDevice;
  private readonly path: string;
  private readonly server: Server;
  private readonly clients = new Set<Socket>();

  /** @throws VloError VLO_SOCKET_IN_USE or VLO_SOCKET_PATH */
  constructor(device: SoundDevice, path: string) {
    this.device = device;
    this.path = path;
    this.server = createServer((socket) => this.serve(socket));
    const mask = process.umask(0o177);
    try {
      this.server.listen({ fd: listenAt(path).take() });
    } finally {
      process.umask(mask);
    }
  }

  private serve(socket: Socket): void {
    this.clients.add(socket);
    let text = '';
    socket.setEncoding('utf8');
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.clients.delete(socket));
    socket.on('data', (part: string) => {
      const lines = (text + part).split('\n');
      text = lines.pop()!;
      for (const line of lines) socket.write(`${JSON.stringify(answer(this.device, line))}\n`);
      // Nor does one that never reads its answers get more of them.
      if (Math.max(text.length, socket.writableLength / 64) > COMMAND_SIZE_MAX) socket.destroy();
    });
  }

  /** Ends all connections, and takes the socket's file away. Idempotent. */
  close(): void {
    if (!this.server.listening) return;
    // While it still listens, nobody takes the file for a stale one and puts another there.
    rmSync(this.path, { force: true });
    this.server.close();
    for (const client of this.clients) client.destroy();
  }
}
