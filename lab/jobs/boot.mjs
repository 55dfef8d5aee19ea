/** The guest itself: Node, koffi, fio and the kernel module work in it. */

import { existsSync, statSync } from 'node:fs';
import { check, fact, skip } from './support/checks.mjs';
import { run } from './support/programs.mjs';
import { insertModule, KERNEL, MODULE, modprobe, removeModule } from './support/system.mjs';

/** fio with the better of the two engines that the kernel has; returns its name. */
async function readWithFio() {
  const words = ['--name=boot', '--filename=/tmp/fio', '--rw=randrw', '--bs=4k', '--size=1M'];
  const verify = ['--verify=crc32c', '--iodepth=8'];
  for (const engine of ['io_uring', 'libaio']) {
    const { status } = await run(['fio', ...words, ...verify, `--ioengine=${engine}`], {
      status: engine === 'libaio' ? 0 : null,
    });
    if (status === 0) return engine;
  }
}

/** With --no-module there is none to check. */
const withModule = (action) => () =>
  existsSync(MODULE) ? action() : skip('the host built no module');

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
  await check('fio reads what it wrote', readWithFio);
  await check(
    'the module loads',
    withModule(() => insertModule()),
  );
  await check(
    '/dev/virtio-loopback is there',
    withModule(() => {
      if (!statSync('/dev/virtio-loopback').isCharacterDevice()) throw new Error('no device');
    }),
  );
  await check(
    'the module goes',
    withModule(() => removeModule()),
  );
}
