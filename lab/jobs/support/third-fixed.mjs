/** A back end that pins the memory of the device: see fixed-buffers.mjs. */

import { fact } from './checks.mjs';
import { runFio } from './fio.mjs';
import { makeImage } from './stand.mjs';
import { modprobe } from './system.mjs';
import { cell } from './third-matrix.mjs';
import { ThirdParty } from './third-party.mjs';

export const FIXED = 'io_uring with fixed buffers';
const IMAGE_BYTES = 32 * 2 ** 20;
const READY_MS = 30_000;

/** What became of each region: lines of the back end. */
const regionsOf = (text) => text.match(/(?<=region ).*/g) ?? [];

export async function fixed() {
  const device = new ThirdParty('blk', (socket) => [
    ...['node', 'lab/jobs/support/fixed-buffers.mjs', '--socket', socket],
    ...['--image', device.path('image')],
  ]);
  await modprobe('virtio_blk');
  makeImage(device.path('image'), IMAGE_BYTES);
  await device.start();
  await device.program.waitForOutput(/ready/, READY_MS);
  const isThere = await cell(FIXED, 'data', 'the memory of the device is pinned', async () => {
    await device.attach();
    const regions = regionsOf(device.program.stderr);
    fact('fixed buffers', regions);
    // Rings may be in memory of their own that is not for pins; data may not.
    if (!regions.some((text) => text.endsWith('registered'))) throw new Error(regions.join('; '));
    return regions.join('; ');
  });
  if (isThere) {
    await cell(FIXED, 'data', 'I/O from and to it', async () => {
      const { requests } = await runFio({
        ...{ name: 'fixed', filename: device.node, rw: 'randwrite', bsrange: '4k-128k' },
        ...{ size: '8m', iodepth: 8, verify: 'crc32c' },
      });
      return `${requests} requests, verified`;
    });
  }
  await cell(FIXED, 'data', 'it goes', () => device.stop());
}
