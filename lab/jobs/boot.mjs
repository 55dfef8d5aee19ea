/** The guest itself: Node, koffi and the kernel module work in it. */

import { statSync } from 'node:fs';
import { check, fact } from './support/checks.mjs';
import { run } from './support/programs.mjs';
import { insertModule, KERNEL, modprobe, removeModule } from './support/system.mjs';

export default async function boot() {
  await check('the kernel is the one that was asked for', async () => {
    const { stdout } = await run(['uname', '-r']);
    if (stdout.trim() !== KERNEL) throw new Error(`${stdout.trim()}, not ${KERNEL}`);
    return KERNEL;
  });
  await check('node runs', async () => {
    const { stdout } = await run(['node', 'dist/bin/vlo.js', '--version']);
    fact('node', process.version);
    return `vlo ${stdout.trim()}, node ${process.version}`;
  });
  await check('koffi calls the C library', async () => {
    const call = "require('koffi').load('libc.so.6').func('int getpid()')() === process.pid";
    const { stdout } = await run(['node', '-p', call]);
    if (stdout.trim() !== 'true') throw new Error(`getpid() === process.pid: ${stdout.trim()}`);
  });
  await check('the virtio drivers of the kernel load', async () => {
    for (const name of ['virtio_blk', 'virtio_rng', 'ext4']) await modprobe(name);
  });
  await check('the module loads', () => insertModule());
  await check('/dev/virtio-loopback is there', () => {
    if (!statSync('/dev/virtio-loopback').isCharacterDevice()) throw new Error('no device');
  });
  await check('the module goes', () => removeModule());
}
