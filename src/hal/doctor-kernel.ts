/** Checks of the transports that end at the kernel's own virtio drivers. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VLO } from '../transports/loopback/uapi.js';
import type { Check, Finding } from './doctor.js';
import {
  asRoot,
  installCommand,
  loadCommand,
  no,
  partly,
  probeDevice,
  yes,
} from './doctor-commands.js';
import { findProgram, isAtLeast, type Machine, moduleState } from './doctor-machine.js';

const LOOPBACK = '/dev/virtio-loopback';
const VDUSE = '/dev/vduse/control';

/** The folder with the module's source, as it was installed with this program. */
const SOURCE = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'kernel');

/** The oldest kernel that the module is for. */
const KERNEL_MIN = [5, 10] as const;

/** Builds the module for the running kernel, and loads it. */
function buildCommand(machine: Machine, unload: boolean): string {
  const load = `${unload ? 'rmmod virtio_loopback && ' : ''}insmod ${SOURCE}/virtio_loopback.ko`;
  return asRoot(machine, `sh -c 'make -C ${SOURCE} && ${load}'`);
}

function probeLoopback(machine: Machine): Finding {
  const error = machine.tryOpen(LOOPBACK);
  if (error === 'EACCES') {
    return no(`${LOOPBACK}: no permission (EACCES)`, asRoot(machine, 'vlo up'));
  }
  if (error === null) return probeVersion(machine);
  if (error !== 'ENOENT') return no(`${LOOPBACK} cannot be opened (${error})`);
  if (moduleState(machine, 'virtio_loopback') === 'loadable') {
    return no(`${LOOPBACK} is not there (ENOENT)`, loadCommand(machine, 'virtio_loopback'));
  }
  const why = `${LOOPBACK} is not there (ENOENT), and the module is not installed`;
  return buildProblem(machine) ?? no(why, buildCommand(machine, false));
}

/** Why the module cannot be built here, and what helps; null when it can. */
function buildProblem(machine: Machine): Finding | null {
  const { kernelRelease } = machine;
  if (!isAtLeast(kernelRelease, ...KERNEL_MIN)) {
    return no(`the module needs Linux ${KERNEL_MIN.join('.')}; this is ${kernelRelease}`);
  }
  if (machine.exists(`/lib/modules/${kernelRelease}/build`)) return null;
  const headers = `linux-headers-${kernelRelease}`;
  return no(
    `${LOOPBACK} is not there (ENOENT), and the headers to build the module are not installed`,
    installCommand(machine, headers, { apt: `${headers} build-essential` }),
  );
}

/** The first number of the module's version is that of its interface. */
function probeVersion(machine: Machine): Finding {
  const version = machine.readText('/sys/module/virtio_loopback/version')?.trim() ?? 'unknown';
  if (version.split('.')[0] === `${VLO.ABI_VERSION}`) return yes(`${LOOPBACK}, module ${version}`);
  const wanted = `this program needs ${VLO.ABI_VERSION}.x`;
  return no(`the module is of version ${version}; ${wanted}`, buildCommand(machine, true));
}

function probeVduse(machine: Machine): Finding {
  const found = probeDevice(machine, { path: VDUSE, module: 'vduse', permit: 'vlo up' });
  const lacksBus = moduleState(machine, 'virtio_vdpa') === 'none';
  if (found.state === 'yes') {
    if (machine.exists('/sys/bus/vdpa/drivers/virtio_vdpa')) return found;
    if (lacksBus) return no(`${VDUSE}; this kernel comes without the module virtio_vdpa`);
    return partly(`${VDUSE}; virtio_vdpa is not loaded`, loadCommand(machine, 'virtio-vdpa'));
  }
  // There, but not for this user; or a kernel without VDUSE, as the detail says already.
  if (machine.exists(VDUSE) || moduleState(machine, 'vduse') === 'none') return found;
  // Devices are no use without the bus driver that hands them to virtio's drivers.
  if (lacksBus) return no(`${found.detail}; this kernel comes without the module virtio_vdpa`);
  return no(found.detail, loadCommand(machine, 'vduse', 'virtio-vdpa'));
}

function probeVdpaProgram(machine: Machine): Finding {
  const path = findProgram(machine, 'vdpa');
  if (path !== null) return yes(path);
  const iproute = 'iproute2';
  const packages = { apt: iproute, dnf: 'iproute', apk: iproute, pacman: iproute, zypper: iproute };
  return no('not found', installCommand(machine, 'iproute2', packages));
}

/** The kernel transports, in the order of the report. */
export const KERNEL_CHECKS: readonly Check[] = [
  {
    id: 'loopback',
    title: 'virtio_loopback',
    gives: "every device type through the kernel's own virtio drivers",
    probe: probeLoopback,
  },
  {
    id: 'vduse',
    title: 'VDUSE',
    gives: "disks and networks through the kernel's own virtio drivers, without our module",
    probe: probeVduse,
  },
  {
    id: 'vdpa',
    title: 'vdpa program',
    gives: 'VDUSE devices looked at and removed by hand',
    probe: probeVdpaProgram,
  },
];
