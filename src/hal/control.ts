/**
 * How `vlo status`, `down` and `restart` reach a running HAL: one JSON line each way, over a socket
 * in the run directory that its owner alone may use.
 */
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { ERROR_TABLE, type ErrorCode, VloError } from '../errors.js';
import { controlSocket } from './run-directory.js';

/** What can be asked. */
export type ControlRequest =
  | { readonly command: 'status' }
  | { readonly command: 'down' }
  | { readonly command: 'restart'; readonly name: string };

interface ControlReply {
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

/** Longest line that is taken, in bytes. */
const LINE_SIZE_MAX = 4096;
/** Longest time in milliseconds that an answer may take: `down` waits for all devices. */
const ANSWER_MS_MAX = 60_000;

/** Takes commands on a socket. @throws VloError VLO_RUN_DIR */
export async function serveControl(
  path: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<Server> {
  const server = createServer((socket) => serveClient(socket, handle));
  // Who may connect is said by the mode of the file, from its first moment.
  const mask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new VloError('VLO_RUN_DIR', `cannot listen on '${path}' (${code})`);
  } finally {
    process.umask(mask);
  }
  return server;
}

function serveClient(socket: Socket, handle: (request: ControlRequest) => Promise<unknown>): void {
  let text = '';
  socket.setEncoding('utf8');
  socket.on('error', () => socket.destroy());
  socket.on('data', (part: string) => {
    text += part;
    const end = text.indexOf('\n');
    if (end < 0 && text.length > LINE_SIZE_MAX) socket.destroy();
    if (end < 0) return;
    socket.pause();
    void answer(text.slice(0, end), handle).then((reply) =>
      socket.end(`${JSON.stringify(reply)}\n`),
    );
  });
}

async function answer(
  line: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<ControlReply> {
  try {
    return { result: (await handle(parseRequest(line))) ?? null };
  } catch (error) {
    if (!(error instanceof VloError)) throw error;
    return { error: { code: error.code, message: error.message } };
  }
}

function parseRequest(line: string): ControlRequest {
  let request: { command?: unknown; name?: unknown } | null = null;
  try {
    request = JSON.parse(line);
  } catch {
    // Falls through to the refusal.
  }
  const { command, name } = request ?? {};
  if (command === 'status' || command === 'down') return { command };
  if (command === 'restart' && typeof name === 'string') return { command, name };
  throw new VloError('VLO_USAGE', `the HAL knows no such command: ${line.slice(0, 80)}`);
}

/**
 * Asks the HAL of a run directory.
 * @throws VloError VLO_HAL_NOT_RUNNING when there is none; what the HAL answers
 */
export async function askHal(runDir: string, request: ControlRequest): Promise<unknown> {
  const socket = createConnection(controlSocket(runDir));
  socket.setTimeout(ANSWER_MS_MAX, () => socket.destroy());
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES') {
      throw new VloError('VLO_RUN_DIR', `the HAL in '${runDir}' belongs to another user`);
    }
    throw new VloError(
      'VLO_HAL_NOT_RUNNING',
      `no 'vlo up' runs with the run directory '${runDir}' (${code})`,
    );
  }
  socket.write(`${JSON.stringify(request)}\n`);
  for await (const line of createInterface({ input: socket })) {
    const { result, error } = JSON.parse(line) as ControlReply;
    if (error === undefined) return result;
    const code = error.code in ERROR_TABLE ? (error.code as ErrorCode) : 'VLO_SYSTEM';
    throw new VloError(code, error.message);
  }
  throw new VloError('VLO_HAL_NOT_RUNNING', `the HAL in '${runDir}' ended before it answered`);
}
