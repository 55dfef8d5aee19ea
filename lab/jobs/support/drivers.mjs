/** Drivers of Linux that Debian lacks: the host builds them for the jobs that need them. */

/** Where the source of each is, and the first of the lab's kernels whose source has it. */
export const DRIVERS = {
  'gpio-virtio': { source: 'drivers/gpio/gpio-virtio.c', since: '6.1' },
  virtio_can: { source: 'drivers/net/can/virtio_can.c', since: '7.2' },
};

/** The jobs that do nothing without a driver. */
const NEEDED_BY = { gpio: ['gpio-virtio'], machine: ['gpio-virtio'], can: ['virtio_can'] };
/** The jobs that leave out what a driver is missing for. */
const USED_BY = { devices: ['gpio-virtio', 'virtio_can'] };

const numbersOf = (version) => version.split('.', 2).map((part) => Number.parseInt(part, 10));

/** True for a kernel as old as that, or newer. @param {string} release @param {string} version */
export function isSince(release, version) {
  const [major, minor] = numbersOf(release);
  const [leastMajor, leastMinor] = numbersOf(version);
  return major > leastMajor || (major === leastMajor && minor >= leastMinor);
}

/**
 * Why a kernel cannot run a job, or null.
 * @param {string} job
 * @param {string} release
 */
export function lackOf(job, release) {
  const name = (NEEDED_BY[job] ?? []).find((driver) => !isSince(release, DRIVERS[driver].since));
  if (name === undefined) return null;
  return `${job} needs the driver ${name}, which is in Linux ${DRIVERS[name].since} and newer`;
}

/** Drivers that a job finds beside our module. @param {string} job @param {string} release */
export const driversFor = (job, release) =>
  [...(NEEDED_BY[job] ?? []), ...(USED_BY[job] ?? [])].filter((name) =>
    isSince(release, DRIVERS[name].since),
  );
