/**
 * A libblkio client with several queues, which qemu-img and nbdkit do not offer. Runs inside the
 * peers folder:
 *   node blkio-client.mjs SOCKET QUEUES DEPTH BLOCK ROUNDS
 * Writes blocks with content of their own over all queues at once, reads each through another
 * queue, compares, and prints one line of JSON. Any error ends it with status 1.
 */

import koffi from 'koffi';

const [path, ...numbers] = process.argv.slice(2);
const [queues, depth, block, rounds] = numbers.map(Number);

const lib = koffi.load('libblkio.so.1');
const blkio = koffi.opaque('blkio');
const blkioq = koffi.opaque('blkioq');
const region = koffi.struct('region', {
  addr: 'uintptr_t',
  iova: 'uintptr_t',
  len: 'size_t',
  fdOffset: 'int64_t',
  fd: 'int',
  flags: 'uint32_t',
});
const handle = koffi.pointer(blkio);
const queue = koffi.pointer(blkioq);
const create = lib.func('blkio_create', 'int', ['str', koffi.out(koffi.pointer(handle))]);
const setStr = lib.func('blkio_set_str', 'int', [handle, 'str', 'str']);
const setInt = lib.func('blkio_set_int', 'int', [handle, 'str', 'int']);
const getInt = lib.func('blkio_get_int', 'int', [handle, 'str', koffi.out('int *')]);
const connect = lib.func('blkio_connect', 'int', [handle]);
const start = lib.func('blkio_start', 'int', [handle]);
const alloc = lib.func('blkio_alloc_mem_region', 'int', [
  handle,
  koffi.out(koffi.pointer(region)),
  'size_t',
]);
const map = lib.func('blkio_map_mem_region', 'int', [handle, koffi.pointer(region)]);
const getQueue = lib.func('blkio_get_queue', queue, [handle, 'int']);
const lastError = lib.func('blkio_get_error_msg', 'str', []);
const transfer = ['uint64_t', 'uintptr_t', 'size_t', 'uintptr_t', 'uint32_t'];
const read = lib.func('blkioq_read', 'void', [queue, ...transfer]);
const write = lib.func('blkioq_write', 'void', [queue, ...transfer]);
const doIo = lib.func('blkioq_do_io', 'int', [queue, 'void *', 'int', 'int', 'void *']);

function check(result, what) {
  if (result < 0) throw new Error(`${what}: ${lastError()}`);
  return result;
}

const out = [null];
check(create('virtio-blk-vhost-user', out), 'create');
const b = out[0];
check(setStr(b, 'path', path), 'path');
check(connect(b), 'connect');
const max = [0];
check(getInt(b, 'max-queues', max), 'max-queues');
check(setInt(b, 'num-queues', queues), `num-queues (device has ${max[0]})`);
check(start(b), 'start');

// The upper half takes what is read, the lower half holds what is written.
const slots = queues * depth;
const memory = {};
check(alloc(b, memory, 2 * slots * block), 'allocate');
check(map(b, memory), 'map');
const bytes = new Uint8Array(koffi.view(BigInt(memory.addr), 2 * slots * block));
const address = BigInt(memory.addr);
const q = Array.from({ length: queues }, (_, i) => getQueue(b, i));

// struct blkio_completion: user data, error message, result; padded well beyond any version's size.
const completion = Buffer.alloc(128);
function finishAll(count) {
  for (let i = 0; i < queues; i++) {
    for (let n = 0; n < count; n++) {
      check(doIo(q[i], completion, 1, 1, null), 'do_io');
      const result = completion.readInt32LE(16);
      if (result !== 0) throw new Error(`queue ${i}: request failed with ${result}`);
    }
  }
}

let requests = 0;
const began = Date.now();
for (let round = 0; round < rounds; round++) {
  for (let slot = 0; slot < slots; slot++) {
    const content = bytes.subarray(slot * block, (slot + 1) * block);
    for (let i = 0; i < block; i += 64) content[i] = (round * 31 + slot * 7 + (i >> 6)) & 0xff;
    write(q[slot % queues], slot * block, address + BigInt(slot * block), block, 0, 0);
  }
  finishAll(depth);
  bytes.fill(0xee, slots * block);
  for (let slot = 0; slot < slots; slot++) {
    const to = address + BigInt((slots + slot) * block);
    read(q[(slot + 1) % queues], slot * block, to, block, 0, 0);
  }
  finishAll(depth);
  const half = Buffer.from(bytes.buffer, bytes.byteOffset);
  const differs = half.compare(half, 0, slots * block, slots * block, 2 * slots * block);
  if (differs !== 0) throw new Error(`round ${round}: what was read is not what was written`);
  requests += 2 * slots;
}
const seconds = (Date.now() - began) / 1000;
console.log(JSON.stringify({ maxQueues: max[0], queues, requests, seconds }));
process.exit(0);
