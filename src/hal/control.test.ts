/** Commands over the socket of a HAL. */
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { VloError } from '../errors.js';
import { askHal, type ControlRequest, serveControl } from './control.js';

let folder: string;
let path: string;
let server: Server | null = null;
let requests: ControlRequest[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vlo-control-'));
  path = join(folder, 'control.sock');
  requests = [];
  server = await serveControl(path, async (request) => {
    requests.push(request);
    if (request.command === 'status') return { devices: ['ü'] };
    if (request.command !== 'restart') return undefined;
    throw new VloError('VLO_NAME_UNKNOWN', `there is no device '${request.name}'`);
  });
});
afterEach(() => {
  server?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Sends a text as it is; what comes back until the other side ends. */
async function send(...parts: (string | Buffer)[]): Promise<string> {
  const socket: Socket = createConnection(path);
  let text = '';
  socket.setEncoding('utf8').on('data', (part) => {
    text += part;
  });
  // The other side may have gone while we write.
  socket.on('error', () => {});
  for (const part of parts) socket.write(part);
  await new Promise((resolve) => socket.once('close', resolve));
  return text;
}

test('its owner alone may use the socket', () => {
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('each request gets its answer', async () => {
  expect(await askHal(folder, { command: 'status' })).toEqual({ devices: ['ü'] });
  expect(await askHal(folder, { command: 'down' })).toBeNull();
  expect(requests).toEqual([{ command: 'status' }, { command: 'down' }]);
});

test('an error keeps its code and its text', async () => {
  await expect(askHal(folder, { command: 'restart', name: 'x' })).rejects.toMatchObject({
    code: 'VLO_NAME_UNKNOWN',
    message: expect.stringContaining("there is no device 'x'"),
    exitStatus: 2,
  });
});

test.each(['hello', '', '{', 'null', '5', '[]', '{"command":"fly"}', '{"command":"restart"}'])(
  'junk is refused: %j',
  async (line) => {
    const reply = JSON.parse(await send(`${line}\n`));
    expect(reply.error.code).toBe('VLO_USAGE');
    expect(requests).toEqual([]);
  },
);

test('bytes that are no text, and keys of objects, are junk too', async () => {
  expect(await send(Buffer.from([0xff, 0xfe, 0x00, 0x0a]))).toContain('VLO_USAGE');
  expect(await send('{"command":"__proto__"}\n')).toContain('VLO_USAGE');
});

test('a request may come in pieces', async () => {
  const half = '{"command":"sta';
  const socket = createConnection(path);
  socket.write(half);
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket.write('tus"}\n');
  const reply = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
  expect(JSON.parse(String(reply))).toEqual({ result: { devices: ['ü'] } });
  socket.destroy();
});

test('a line without an end is cut off, and a client that leaves is forgotten', async () => {
  expect(await send('x'.repeat(100_000))).toBe('');
  const socket = createConnection(path);
  await new Promise((resolve) => socket.write('{"comm', resolve));
  socket.destroy();
  const asked = createConnection(path);
  await new Promise((resolve) => asked.write('{"command":"status"}\n', resolve));
  asked.destroy();
  expect(await askHal(folder, { command: 'down' })).toBeNull();
});

test('a second command on a connection is not taken', async () => {
  const reply = await send('{"command":"status"}\n{"command":"down"}\n');
  expect(reply.trim().split('\n')).toHaveLength(1);
  expect(requests).toEqual([{ command: 'status' }]);
});

test('nobody is there', async () => {
  const none = join(folder, 'none');
  const notRunning = expect.objectContaining({ code: 'VLO_HAL_NOT_RUNNING', exitStatus: 1 });
  await expect(askHal(none, { command: 'status' })).rejects.toEqual(notRunning);
  await new Promise((resolve) => server!.close(resolve));
  server = null;
  await expect(askHal(folder, { command: 'status' })).rejects.toEqual(notRunning);
  writeFileSync(path, '');
  await expect(askHal(folder, { command: 'status' })).rejects.toEqual(notRunning);
});

test('a HAL that ends before it answers is not running', async () => {
  await new Promise((resolve) => server!.close(resolve));
  server = createServer((socket) => socket.resume().once('data', () => socket.destroy()));
  await new Promise<void>((resolve) => server!.listen(path, resolve));
  await expect(askHal(folder, { command: 'status' })).rejects.toMatchObject({
    code: 'VLO_HAL_NOT_RUNNING',
    message: expect.stringContaining('ended before it answered'),
  });
});

test('the socket cannot be made', async () => {
  await expect(serveControl(join(folder, 'none', 's'), async () => null)).rejects.toMatchObject({
    code: 'VLO_RUN_DIR',
  });
});
