// Writes to a disk behind a vhost-user socket, and reads it back:  node disk-driver.mjs SOCKET
import { BlkDriver } from 'virtio-loopback/devices';

const [, , path = '/tmp/disk.sock'] = process.argv;
const signal = AbortSignal.timeout(10_000);
const disk = await BlkDriver.connect({ path });
await disk.write(0, Buffer.from('Hello, disk!'.padEnd(512)), { signal });
await disk.flush({ signal });
const bytes = await disk.read(0, Buffer.alloc(512), { signal });
console.log(`${disk.size} bytes, beginning with '${bytes.toString().trim()}'`);
await disk.close();
