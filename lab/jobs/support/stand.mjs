/** A device process, an adapter, and what the kernel made of them. */

import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { run, start, waitFor } from './programs.mjs';

export const VLO = ['node', 'dist/bin/vlo.js'];
const READY_MS = 180_000;

/** A folder for one check, on tmpfs. */
export function folder(name) {
  mkdirSync('/tmp/stand', { recursive: true });
  return mkdtempSync(join('/tmp/stand', `${name}-`));
}

/** A sparse file of `size` bytes. @param {string} path @param {number} size */
export function makeImage(path, size) {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

/** `vlo serve TYPE` on a socket, ready. */
export async function serve(type, socket, words) {
  const program = start([...VLO, 'serve', type, '--socket-path', socket, ...words]);
  await program.waitForOutput(/listening|ready/i, READY_MS);
  return program;
}

/**
 * What qemu-storage-daemon serves, as the node `disk`.
 * @param {string} image
 * @param {'threads' | 'io_uring' | 'null'} storage what it reads and writes the image with; null:
 *   there is nothing behind a disk of the image's size
 */
export const qemuBlockdevs = (image, storage = 'threads') =>
  storage === 'null'
    ? ['--blockdev', `driver=null-co,node-name=disk,size=${statSync(image).size},read-zeroes=on`]
    : [
        '--blockdev',
        `driver=file,node-name=file,filename=${image},discard=unmap,aio=${storage}`,
        ...['--blockdev', 'driver=raw,node-name=disk,file=file,discard=unmap,detect-zeroes=off'],
      ];

/** qemu-storage-daemon on a socket, ready. */
export async function serveWithQemu(socket, image, { queues = 1, storage = 'threads' } = {}) {
  const program = start([
    'qemu-storage-daemon',
    ...qemuBlockdevs(image, storage),
    '--export',
    `type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=${queues},` +
      `addr.type=unix,addr.path=${socket}`,
  ]);
  await waitFor(() => existsSync(socket) || program.status !== null, 'socket of QEMU', READY_MS);
  if (program.status !== null) throw new Error(`qemu-storage-daemon: ${program.stderr}`);
  return program;
}

/** A block device process of a kind. */
export const serveBlk = (kind, socket, image, { queues = 1 } = {}) =>
  kind === 'qemu'
    ? serveWithQemu(socket, image, { queues })
    : serve('blk', socket, ['--blk-file', image, '--num-queues', `${queues}`]);

/** `vlo attach`, ready: the program, and the node that applications open. */
export async function attach(type, socket, words = []) {
  const program = start([...VLO, 'attach', type, '--backend', socket, ...words]);
  await program.waitForOutput(/: ready/, READY_MS);
  const node = /ready at (\S+)/.exec(program.stderr)?.[1] ?? null;
  return { program, node };
}

/** The module's devices that there are. */
export const devicesLeft = () =>
  readdirSync('/sys/devices/platform').filter((name) => name.startsWith('virtio-loopback.'));

/** Waits until no device of the module is left. */
export const waitForNoDevices = (ms = 30_000) =>
  waitFor(() => devicesLeft().length === 0, 'end of all loopback devices', ms);

/** A checksum of a file or device as it is on the medium, not in the page cache. */
export async function checksum(path) {
  await run(['sync']);
  await run(['sh', '-c', 'echo 3 > /proc/sys/vm/drop_caches']);
  const { stdout } = await run(['sha256sum', path]);
  return stdout.split(' ')[0];
}
