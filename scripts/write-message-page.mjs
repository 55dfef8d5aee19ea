// Writes docs/reference/vhost-user-messages.md and fuse-messages.md. Wants a build:
// `npm run docs:messages` makes one.
import { writeFileSync } from 'node:fs';
import { FUSE_MAJOR, FUSE_MESSAGES, FUSE_MINOR } from '../dist/fuse/index.js';
import { errnoName } from '../dist/native/index.js';
import { FileMount } from '../dist/present/file-mount.js';
import { BACK_END_MESSAGES, FRONT_END_MESSAGES } from '../dist/vhost-user/messages.js';
import { describeSizes } from '../dist/vhost-user/messages-layout.js';
import { LAYOUTS } from '../dist/vhost-user/messages-payloads.js';
import { renderFusePage } from './fuse-page.mjs';
import { renderMessagePage } from './message-page.mjs';

const folder = new URL('../docs/reference/', import.meta.url);
writeFileSync(
  new URL('vhost-user-messages.md', folder),
  renderMessagePage({
    frontEnd: FRONT_END_MESSAGES,
    backEnd: BACK_END_MESSAGES,
    layouts: LAYOUTS,
    describeSizes,
  }),
);
writeFileSync(
  new URL('fuse-messages.md', folder),
  renderFusePage({ FUSE_MAJOR, FUSE_MINOR, FUSE_MESSAGES, FileMount, errnoName }),
);
