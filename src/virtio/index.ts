/** The virtio 1.x core: identifiers, memory, chains, and both sides of split and packed rings. */
export { Chain } from './chain.js';
export { ChainReader, ChainWriter, type Segment } from './cursor.js';
export * from './device-queue.js';
export * from './driver-queue.js';
export * from './fault.js';
export * from './features.js';
export * from './memory-map.js';
export { PackedDeviceQueue } from './packed-device-queue.js';
export { PackedDriverQueue } from './packed-driver-queue.js';
export { SplitDeviceQueue } from './split-device-queue.js';
export { SplitDriverQueue } from './split-driver-queue.js';
export * from './struct.js';
