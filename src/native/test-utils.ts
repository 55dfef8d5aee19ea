/** What several tests of this folder need. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'vitest';
import { openFdCount } from './fd.js';
import { mappingCounts } from './mapping.js';

setFlagsFromString('--expose-gc');
/** Collects garbage now. */
export const collectGarbage = runInNewContext('gc') as () => void;

/** Waits until `condition` holds, giving finalizers and the event loop their turns. */
export async function eventually(condition: () => boolean, timeoutMs = 5000): Promise<void> {
  for (const end = Date.now() + timeoutMs; Date.now() < end; ) {
    if (condition()) return;
    collectGarbage();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(condition()).toBe(true);
}

/** Runs `work` and checks that it leaves neither descriptors nor mappings behind. */
export async function expectNoLeaks(work: () => void | Promise<void>): Promise<void> {
  collectGarbage();
  const fds = openFdCount();
  const { live } = mappingCounts();
  await work();
  expect(openFdCount()).toBe(fds);
  expect(mappingCounts().live).toBe(live);
}
