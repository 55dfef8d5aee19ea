/**
 * The jobs of the devices one after the other in one guest, which is what CI runs. Arguments are
 * theirs: `short` leaves out what takes minutes.
 */

import { group } from './support/checks.mjs';

const JOBS = ['console', 'gpio', 'input', 'can', 'sound'];

export default async function devices(words) {
  for (const name of JOBS) {
    const { default: job } = await import(`./${name}.mjs`);
    await group(name, () => job(words));
  }
}
