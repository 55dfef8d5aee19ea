// Reads random bytes from behind a vhost-user socket:  node random-driver.mjs SOCKET
import { RngDriver } from 'virtio-loopback/devices';

const [, , path = '/tmp/rng.sock'] = process.argv;
const rng = await RngDriver.connect({ path });
const bytes = await rng.read(new Uint8Array(16), { signal: AbortSignal.timeout(10_000) });
console.log(Buffer.from(bytes).toString('hex'));
await rng.close();
