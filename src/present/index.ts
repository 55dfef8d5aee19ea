/** What the user transport shows to applications. */
export * from './disk-file.js';
export * from './fuse-presentation.js';
export * from './input-node.js';
export * from './input-pipe.js';
export * from './presentation.js';
export * from './random-fifo.js';
export * from './random-file.js';
