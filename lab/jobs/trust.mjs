/**
 * May people trust the module: no data of other requests reaches an application, a back end reaches
 * nothing after its session, and there is no way around the rules for devices, memory and RAM.
 *
 *   npm run lab -- trust [-- data session memory policy lockdown]
 */

import { check } from './support/checks.mjs';
import { waitForNoDevices } from './support/stand.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';
import { checkData } from './support/trust-data.mjs';
import { checkMemory } from './support/trust-memory.mjs';
import { checkLockdown, checkPolicy, openNode } from './support/trust-policy.mjs';
import { checkSession } from './support/trust-session.mjs';

/**
 * Not virtio_rng: Linux 5.10 stops its thread twice when the only source of entropy goes, and
 * crashes.
 */
const DRIVERS = ['virtio_blk', 'virtio_console', 'virtio_net'];
/** In this order: a lockdown cannot be taken back. */
const PARTS = {
  data: checkData,
  session: checkSession,
  memory: checkMemory,
  policy: checkPolicy,
  lockdown: checkLockdown,
};

/** @param {readonly string[]} words the parts to run (default: all) */
export default async function trust(words) {
  const names = words.length === 0 ? Object.keys(PARTS) : words;
  await check('the module loads', async () => {
    for (const name of DRIVERS) await modprobe(name);
    await insertModule();
    openNode();
  });
  for (const name of names) await PARTS[name]();
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
