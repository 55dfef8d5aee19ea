/**
 * What Linux's console driver asks of a machine whose device is a process. It waits for the device
 * in a loop that gives the processor to nobody:
 *
 * - for each output of a console (`/dev/hvcN`), with interrupts off. A device process may need an
 *   interrupt on that processor to go on (or to be moved away from it), and both wait for ever.
 *   The features in `device-types.ts` and {@link refuseConsole} keep consoles away.
 * - for each control message, as when a port is opened or closed, with interrupts on. Each port may
 *   so take a processor, and whoever opens another one waits behind it in the same way: one
 *   processor has to be left for the device.
 */
import { readdirSync, realpathSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { VloError } from '../../errors.js';

const MULTIPORT = 1n << 1n;
const PORTS = '/sys/class/virtio-ports';
/** Two queues for each port, and two for control messages. */
const countPorts = (queueCount: number): number => (queueCount >> 1) - 1;

/** @throws VloError VLO_TRANSPORT_UNAVAILABLE for a console that drivers take for a terminal */
export function refuseConsole(type: string, features: bigint): void {
  if (type !== 'console' || (features & MULTIPORT) !== 0n) return;
  throw new VloError(
    'VLO_TRANSPORT_UNAVAILABLE',
    'a console without ports would be /dev/hvcN, whose driver waits for the device with interrupts ' +
      'off and can stop this machine for good: give it ports (vlo serve console --port <name>), or ' +
      "use the transport 'user'",
  );
}

/**
 * Checks, before a console is made, that its ports and those of the others leave a processor free.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE
 */
export function checkProcessors(
  queueCount: number,
  processorCount = cpus().length,
  folder = PORTS,
): void {
  const portCount = countPorts(queueCount);
  const othersCount = existingPorts(folder);
  if (portCount + othersCount < processorCount) return;
  const others = othersCount === 0 ? '' : ` beside the ${othersCount} that there are`;
  throw new VloError(
    'VLO_TRANSPORT_UNAVAILABLE',
    `${portCount} console ports${others} need ${portCount + othersCount + 1} processors, and this ` +
      `machine has ${processorCount}: the kernel's driver keeps one busy for each port that is being ` +
      "opened, and the device needs one; use fewer ports, or the transport 'user'",
  );
}

/** Ports of consoles of the module. Those of a hypervisor wait for nobody here. */
function existingPorts(folder: string): number {
  try {
    return readdirSync(folder).filter((name) =>
      realpathSync(join(folder, name)).includes('/virtio-loopback.'),
    ).length;
  } catch {
    return 0;
  }
}
