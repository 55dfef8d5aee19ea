/** What the user transport shows to applications. */
export * from './can-interface.js';
export * from './console-terminals.js';
export * from './disk-file.js';
export * from './fuse-presentation.js';
export * from './gpio-lines.js';
export * from './input-node.js';
export * from './input-pipe.js';
export * from './presentation.js';
export * from './random-fifo.js';
export * from './random-file.js';
export * from './sound-pipes.js';
