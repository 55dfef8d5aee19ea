/** FUSE: the protocol as one table, the channel to the kernel, mounts. */
export * from './channel.js';
export * from './constants.js';
export * from './messages.js';
export * from './mount.js';
export * from './ring.js';
