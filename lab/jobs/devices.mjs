/**
 * The jobs of the devices one after the other in one guest, which is what CI runs. Arguments are
 * theirs: `short` leaves out what takes minutes.
 */

import { check, group, skip } from './support/checks.mjs';
import { lackOf } from './support/drivers.mjs';
import { KERNEL } from './support/system.mjs';

const JOBS = ['console', 'gpio', 'input', 'can', 'sound'];

export default async function devices(words) {
  for (const name of JOBS) {
    const lack = lackOf(name, KERNEL);
    if (lack !== null) {
      await check(name, () => skip(lack));
      continue;
    }
    const { default: job } = await import(`./${name}.mjs`);
    await group(name, () => job(words));
  }
}
