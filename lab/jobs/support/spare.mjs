/**
 * `vlo` that has started already and waits to be told what to do: one line of JSON, its arguments.
 * Under emulation Node takes seconds to start, and what was killed is to be back sooner than that.
 */

import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

// Not the one in dist/bin/: of that, no part can be loaded before.
const VLO = fileURLToPath(new URL('../../../dist/cli/vlo.js', import.meta.url));
await import('../../../dist/cli/attach.js');
await import('../../../dist/cli/serve.js');

const input = createInterface({ input: process.stdin });
input.once('line', async (line) => {
  input.close();
  process.stdin.destroy();
  process.argv = [process.argv[0], VLO, ...JSON.parse(line)];
  await import(VLO);
});
