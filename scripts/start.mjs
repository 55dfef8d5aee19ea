/** `npm start`: the demonstration, and how to go on from there. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const vlo = fileURLToPath(new URL('../dist/bin/vlo.js', import.meta.url));
const demo = spawn(process.execPath, [vlo, 'demo', ...process.argv.slice(2)], { stdio: 'inherit' });

// The demonstration has the terminal's Ctrl-C too; this process stays until it has cleaned up.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => demo.kill('SIGTERM'));
demo.on('exit', (status) => {
  if (status === 0) process.stdout.write(NEXT);
  process.exitCode = status ?? 1;
});

const NEXT = `
How to go on
  devices of a file, until Ctrl-C:     npx vlo up examples/hal.yaml
  what this machine offers, or lacks:  npx vlo doctor
  a disk for other programs:
    truncate -s 64M /tmp/disk.img
    npx vlo serve blk --socket-path /tmp/disk.sock --blk-file /tmp/disk.img

That disk is a standard vhost-user block device. Then, from a second terminal,
  with QEMU's tools (Debian 13: qemu-utils, qemu-block-extra):
    qemu-img bench -c 100000 -d 32 -s 4096 --image-opts \\
      driver=virtio-blk-vhost-user,path=/tmp/disk.sock,cache.direct=on
  in a virtual machine, as /dev/vda (add your kernel or system disk):
    qemu-system-x86_64 -m 1G -machine q35,memory-backend=mem \\
      -object memory-backend-memfd,id=mem,size=1G,share=on \\
      -chardev socket,id=c0,path=/tmp/disk.sock \\
      -device vhost-user-blk-pci,chardev=c0
  in User-Mode Linux, as /dev/vda (Debian: user-mode-linux):
    linux.uml mem=512M root=/dev/root rootfstype=hostfs hostfs=/ ro \\
      init=/bin/sh virtio_uml.device=/tmp/disk.sock:2:1
`;
