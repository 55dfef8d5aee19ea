/** The device kit: declare a device, and the core serves it. */
export { Alarm } from './alarm.js';
export { ByteBacklog } from './byte-backlog.js';
export { type ByteEnd, ByteStream, GONE } from './byte-stream.js';
export { CHANNELS, type QueueEvent } from './channels.js';
export * from './define.js';
export * from './device-process.js';
export { HeldRequests, NO_PLACE } from './held-requests.js';
export { LOST, MessageFifo } from './message-fifo.js';
export { RecordStore } from './record-store.js';
export { ServedQueue } from './served-queue.js';
export { POLL_US_DEFAULT, POLL_US_MAX, QueueService } from './service.js';
