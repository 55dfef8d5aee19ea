/** A disk of qemu-storage-daemon over VDUSE, which it speaks itself: no adapter on its way. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run, start, waitFor } from './programs.mjs';
import { qemuBlockdevs } from './stand.mjs';

const READY_MS = 60_000;

/** The disk that the kernel made of a VDUSE device. */
function diskOf(name) {
  const folder = `/sys/bus/vdpa/devices/${name}`;
  const device = readdirSync(folder).find((entry) => /^virtio\d+$/.test(entry));
  const block = device === undefined ? '' : join(folder, device, 'block');
  return existsSync(block) ? readdirSync(block)[0] : undefined;
}

/**
 * Serves an image, and tells the kernel to use it. Needs the modules vduse and virtio_vdpa.
 * @param {string} name the name of the VDUSE device
 * @param {string} image
 * @param {'threads' | 'io_uring' | 'null'} storage
 */
export async function exportOverVduse(name, image, storage = 'threads') {
  const program = start([
    'qemu-storage-daemon',
    ...qemuBlockdevs(image, storage),
    '--export',
    `type=vduse-blk,id=export,node-name=disk,writable=on,num-queues=1,queue-size=256,name=${name}`,
  ]);
  const isThere = () => existsSync(`/dev/vduse/${name}`) || program.status !== null;
  await waitFor(isThere, 'VDUSE device of QEMU', READY_MS);
  await run(['vdpa', 'dev', 'add', 'name', name, 'mgmtdev', 'vduse']);
  const disk = await waitFor(() => diskOf(name), 'disk over VDUSE', READY_MS);
  return { program, node: `/dev/${disk}` };
}
