// Writes docs/reference/vhost-user-messages.md. Wants a build: `npm run docs:messages` makes one.
import { writeFileSync } from 'node:fs';
import { BACK_END_MESSAGES, FRONT_END_MESSAGES } from '../dist/vhost-user/messages.js';
import { describeSizes } from '../dist/vhost-user/messages-layout.js';
import { LAYOUTS } from '../dist/vhost-user/messages-payloads.js';
import { renderMessagePage } from './message-page.mjs';

const page = new URL('../docs/reference/vhost-user-messages.md', import.meta.url);
writeFileSync(
  page,
  renderMessagePage({
    frontEnd: FRONT_END_MESSAGES,
    backEnd: BACK_END_MESSAGES,
    layouts: LAYOUTS,
    describeSizes,
  }),
);
