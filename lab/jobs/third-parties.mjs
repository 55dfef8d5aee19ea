/**
 * Back ends that other projects wrote, behind this kernel's own drivers over the loopback module:
 * virtiofsd, passt, vhost-device-vsock and qemu-storage-daemon; and one of ours that pins memory.
 * Ends with a matrix of what worked, and with what each back end offers. Arguments: `short` for less
 * of each; names of those that are to be tried, such as `passt` (default: all).
 *
 *   npm run lab -- third-parties --cpus 4 [-- short]
 */

import { check, group } from './support/checks.mjs';
import { run } from './support/programs.mjs';
import { waitForNoDevices } from './support/stand.mjs';
import { insertModule, removeModule } from './support/system.mjs';
import { FIXED, fixed } from './support/third-fixed.mjs';
import { addParty, printMatrix } from './support/third-matrix.mjs';
import { PASST, passt } from './support/third-passt.mjs';
import { STORAGE, storage } from './support/third-storage.mjs';
import { VIRTIOFSD, VIRTIOFSD_PROGRAM, virtiofsd } from './support/third-virtiofs.mjs';
import { VSOCK, vsock } from './support/third-vsock.mjs';

/** By name: what asks for the version, and what is tried. */
const PARTIES = [
  { name: VIRTIOFSD, program: VIRTIOFSD_PROGRAM, action: virtiofsd },
  { name: PASST, program: PASST, action: passt },
  { name: VSOCK, program: VSOCK, action: vsock },
  { name: STORAGE, program: STORAGE, action: storage },
  { name: FIXED, program: null, action: fixed },
];

/** The first word with a digit of what `--version` prints. */
async function versionOf(program) {
  if (program === null) return 'ours';
  const { stdout } = await run([program, '--version']);
  return /\S*\d\S*/.exec(stdout)?.[0] ?? '';
}

export default async function thirdParties(words) {
  const isShort = words.includes('short');
  const names = words.filter((word) => word !== 'short');
  const parties = PARTIES.filter(({ name }) => names.length === 0 || names.includes(name));
  const isLoaded = await check('the module loads', () => insertModule());
  if (!isLoaded) return;
  for (const { name, program, action } of parties) {
    await group(name, async () => {
      addParty(name, await versionOf(program));
      await action({ isShort });
    });
  }
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
  printMatrix();
}
