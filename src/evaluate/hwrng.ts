/** The kernel's list of hardware random generators, of which one at a time is /dev/hwrng. */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { VloError } from '../errors.js';

export const HWRNG = '/dev/hwrng';
const FOLDER = '/sys/class/misc/hw_random';
const APPEAR_MS = 20_000;
const POLL_MS = 50;

/** Names of the generators that there are. */
export function listGenerators(): string[] {
  try {
    const text = readFileSync(`${FOLDER}/rng_available`, 'utf8');
    return text.split(/\s+/).filter((name) => name !== '' && name !== 'none');
  } catch {
    return [];
  }
}

/** Waits for a generator that was not there before, and gives its name. */
export async function newGenerator(before: readonly string[]): Promise<string> {
  for (let waited = 0; waited < APPEAR_MS; waited += POLL_MS) {
    const name = listGenerators().find((one) => !before.includes(one));
    if (name !== undefined) return name;
    await sleep(POLL_MS);
  }
  throw new VloError('VLO_BENCH_FAILED', `no new generator in ${FOLDER}/rng_available`);
}

/** Makes a generator the one that /dev/hwrng reads from. */
export function chooseGenerator(name: string): void {
  try {
    writeFileSync(`${FOLDER}/rng_current`, name);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new VloError('VLO_BENCH_FAILED', `${FOLDER}/rng_current does not take ${name}: ${code}`);
  }
}

/**
 * Reads for as long as it is let. Reads of few requests: the bytes that the kernel counts for the
 * process grow at the end of each.
 */
export const RNG_COMMAND: readonly string[] = ['dd', `if=${HWRNG}`, 'of=/dev/null', 'bs=512'];
