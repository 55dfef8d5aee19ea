/** System calls, mappings and descriptors: the only folder that knows the foreign interface. */
export * from './buffer.js';
export * from './evdev.js';
export * from './eventfd.js';
export * from './fd.js';
export * from './file.js';
export * from './io-uring.js';
export { ERRNO, errnoName } from './libc.js';
export * from './mapping.js';
export * from './memfd.js';
export * from './mount.js';
export * from './netlink.js';
export * from './notify.js';
export * from './process.js';
export * from './unix-socket.js';
export * from './watch.js';
