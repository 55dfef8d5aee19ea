/** The module's own tests, a check for each. See kernel/selftests. */

import { check, skip } from './support/checks.mjs';
import { selftestResults } from './support/selftests.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';

function judge({ outcome, words }) {
  if (outcome === 'skipped') skip(words);
  if (outcome === 'failed') throw new Error(words);
  return words;
}

export default async function selftests() {
  let results = [];
  await check('the module loads', async () => {
    await modprobe('virtio_rng');
    await insertModule();
  });
  await check('the tests run', async () => {
    results = await selftestResults();
    return `${results.length} tests`;
  });
  for (const result of results) await check(result.name, () => judge(result));
  await check('the module goes', () => removeModule());
}
