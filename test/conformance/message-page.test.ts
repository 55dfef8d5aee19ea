/** The generated page of vhost-user messages is the one that the tables give. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { renderMessagePage } from '../../scripts/message-page.mjs';
import { BACK_END_MESSAGES, FRONT_END_MESSAGES } from '../../src/vhost-user/messages.js';
import { describeSizes } from '../../src/vhost-user/messages-layout.js';
import { LAYOUTS } from '../../src/vhost-user/messages-payloads.js';

test('docs/reference/vhost-user-messages.md is current', () => {
  const path = new URL('../../docs/reference/vhost-user-messages.md', import.meta.url);
  const expected = renderMessagePage({
    frontEnd: FRONT_END_MESSAGES,
    backEnd: BACK_END_MESSAGES,
    layouts: LAYOUTS,
    describeSizes,
  });
  const isCurrent = readFileSync(path, 'utf8') === expected;
  expect(isCurrent, 'the page is stale: run npm run docs:messages').toBe(true);
});
