/**
 * `npm start`: serves a disk that it creates in a folder of its own, prints the lines with which
 * other programs use it, and removes everything again when it is interrupted.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SIZE_MIB = 64;
const folder = mkdtempSync(join(tmpdir(), 'vlo-'));
const image = join(folder, 'disk.img');
const socket = join(folder, 'disk.sock');
writeFileSync(image, '');
truncateSync(image, SIZE_MIB * 1024 * 1024);

const vlo = fileURLToPath(new URL('../dist/cli/vlo.js', import.meta.url));
const serve = ['serve', 'blk', '--socket-path', socket, '--blk-file', image];
const child = spawn(process.execPath, [vlo, ...serve], { stdio: ['ignore', 'inherit', 'pipe'] });

child.stderr.on('data', (bytes) => {
  const text = String(bytes);
  process.stderr.write(text);
  if (text.includes('ready on')) process.stdout.write(usage());
});
// The child has the terminal's Ctrl-C too; this process stays to clean up behind it.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('exit', (status) => {
  rmSync(folder, { recursive: true, force: true });
  process.exitCode = status ?? 1;
});

function usage() {
  return `
A disk of ${SIZE_MIB} MiB is served at ${socket}
It is a standard vhost-user block device. Use it from a second terminal, for example

  with QEMU's tools (Debian 13: qemu-utils, qemu-block-extra):
    qemu-img bench -c 100000 -d 32 -s 4096 --image-opts \\
      driver=virtio-blk-vhost-user,path=${socket},cache.direct=on

  in a virtual machine, as /dev/vda (add your kernel or system disk):
    qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\
      -machine q35,memory-backend=mem -chardev socket,id=c0,path=${socket} \\
      -device vhost-user-blk-pci,chardev=c0

  in User-Mode Linux, as /dev/vda (Debian: user-mode-linux; its module virtio_blk is needed):
    linux.uml mem=512M root=/dev/root rootfstype=hostfs hostfs=/ ro init=/bin/sh \\
      virtio_uml.device=${socket}:2:1

Ctrl-C ends it and removes the disk. To keep one: vlo serve blk --help
`;
}
