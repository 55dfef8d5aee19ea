/** The generated pages of messages are those that the tables give. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { renderFusePage } from '../../scripts/fuse-page.mjs';
import { renderMessagePage } from '../../scripts/message-page.mjs';
import { FUSE_MAJOR, FUSE_MESSAGES, FUSE_MINOR } from '../../src/fuse/index.js';
import { errnoName } from '../../src/native/index.js';
import { FileMount } from '../../src/present/file-mount.js';
import { BACK_END_MESSAGES, FRONT_END_MESSAGES } from '../../src/vhost-user/messages.js';
import { describeSizes } from '../../src/vhost-user/messages-layout.js';
import { LAYOUTS } from '../../src/vhost-user/messages-payloads.js';

function expectCurrent(name: string, expected: string): void {
  const path = new URL(`../../docs/reference/${name}`, import.meta.url);
  const isCurrent = readFileSync(path, 'utf8') === expected;
  expect(isCurrent, 'the page is stale: run npm run docs:messages').toBe(true);
}

test('docs/reference/vhost-user-messages.md is current', () => {
  const expected = renderMessagePage({
    frontEnd: FRONT_END_MESSAGES,
    backEnd: BACK_END_MESSAGES,
    layouts: LAYOUTS,
    describeSizes,
  });
  expectCurrent('vhost-user-messages.md', expected);
});

test('docs/reference/fuse-messages.md is current', () => {
  const sources = { FUSE_MAJOR, FUSE_MINOR, FUSE_MESSAGES, FileMount, errnoName };
  expectCurrent('fuse-messages.md', renderFusePage(sources));
});
