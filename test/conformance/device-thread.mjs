/**
 * The device of `threads.test.ts`: serves one ring from a thread of its own, sleeping when idle.
 */
import { workerData } from 'node:worker_threads';
import { consumeEvent, Mapping, waitReadable } from '../../dist/native/index.js';
import * as virtio from '../../dist/virtio/index.js';

const { features, size, memoryFd, memorySize, kickFd, callFd, state } = workerData;
const flags = new Int32Array(state);
const mapping = Mapping.shared(memoryFd, memorySize);
const memory = new virtio.MemoryMap();
memory.add(new virtio.MemoryRegion(mapping, 0, 0, 0, memorySize));
const layout = virtio.layoutQueue(size, features.packed);
const Queue = features.packed ? virtio.PackedDeviceQueue : virtio.SplitDeviceQueue;
const queue = new Queue({
  ...{ index: 0, size, features, memory, callFd, base: features.packed ? 0x80008000 : 0 },
  areas: virtio.layoutAreas(layout, mapping.bytes(0, memorySize)),
});

/** Adds one to each number that the driver wrote. */
function serve() {
  for (let chain = queue.pop(); chain !== null; chain = queue.pop()) {
    chain.writer.writeU32(chain.reader.readU32() + 1);
    queue.complete(chain);
  }
  queue.publish();
}

while (Atomics.load(flags, 0) === 0) {
  do {
    queue.suppressKicks();
    serve();
  } while (queue.armKicks());
  if (waitReadable([kickFd], 5000) < 0 && Atomics.load(flags, 0) === 0) {
    Atomics.store(flags, 1, 1); // A kick was lost: the driver would have kicked within 5 seconds.
    break;
  }
  consumeEvent(kickFd);
}
mapping.retire();
