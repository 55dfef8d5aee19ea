/** Commands for lines over a Unix socket: a line of words each, answered by lines of JSON. */
import { rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { VloError } from '../../errors.js';
import { listenAt } from '../../vhost-user/index.js';
import { LineCommands, type LineHost } from './line-commands.js';

/** Longest command in bytes. */
const COMMAND_SIZE_MAX = 65536;
/** Bytes of answers that a client may leave unread before it is told no more. */
const UNREAD_SIZE_MAX = 2 ** 20;

/** Serves lines on a socket that its owner alone may use. */
export class LineSocket {
  private readonly host: LineHost;
  private readonly path: string;
  private readonly server: Server;
  private readonly clients = new Set<Socket>();

  /** @throws VloError VLO_SOCKET_IN_USE or VLO_SOCKET_PATH */
  constructor(host: LineHost, path: string) {
    this.host = host;
    this.path = path;
    this.server = createServer((socket) => this.serve(socket));
    // A client that cannot be accepted (no descriptors are left) tries again.
    this.server.on('error', () => {});
    const mask = process.umask(0o177);
    try {
      this.server.listen({ fd: listenAt(path).take() });
    } finally {
      process.umask(mask);
    }
  }

  private serve(socket: Socket): void {
    this.clients.add(socket);
    const commands = new LineCommands(this.host, (reply) => {
      if (socket.destroyed) return;
      socket.write(`${JSON.stringify(reply)}\n`);
      if (socket.writableLength > UNREAD_SIZE_MAX) socket.destroy();
    });
    let text = '';
    let last = Promise.resolve();
    socket.setEncoding('utf8');
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.clients.delete(socket);
      commands.close();
    });
    socket.on('data', (part: string) => {
      const lines = (text + part).split('\n');
      text = lines.pop()!;
      if (text.length > COMMAND_SIZE_MAX) socket.destroy();
      // The next commands are taken when these are done.
      socket.pause();
      last = last.then(async () => {
        for (const line of lines) if (!socket.destroyed) await commands.say(line);
        socket.resume();
      });
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

/** The other end: says one command, and gives all answers until `signal` ends it. */
export async function* sayToLines(
  path: string,
  command: string,
  signal?: AbortSignal,
): AsyncGenerator<Record<string, unknown>> {
  const socket = createConnection(path);
  const abort = (): void => void socket.destroy();
  signal?.addEventListener('abort', abort);
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', (error: NodeJS.ErrnoException) => {
        const message = `nothing answers on '${path}' (${error.code}): is the device attached?`;
        reject(new VloError('VLO_DISCONNECTED', message));
      });
    });
    socket.on('error', () => socket.destroy());
    socket.write(`${command}\n`);
    for await (const line of createInterface({ input: socket })) {
      const reply = JSON.parse(line) as Record<string, unknown>;
      if (typeof reply.error === 'string') throw new VloError('VLO_REQUEST_INVALID', reply.error);
      yield reply;
    }
  } finally {
    signal?.removeEventListener('abort', abort);
    socket.destroy();
  }
}
