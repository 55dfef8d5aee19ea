/** Checks of the machine itself: kernel, Node, rights, limits, memory, io_uring. */
import type { Check, Finding } from './doctor.js';
import { asRoot, no, partly, yes } from './doctor-commands.js';
import { CAPABILITY, hasCapability, isAtLeast, type Machine } from './doctor-machine.js';

/** Architectures that koffi has prebuilt files for. */
const ARCHITECTURES = ['x64', 'arm64', 'riscv64'];
const NODE_MAJOR_MIN = 20;
const NODE_MINOR_MIN = 19;
/** Descriptors that one device takes: its socket, its memory, eventfds of its queues. */
const DESCRIPTORS_PER_DEVICE = 10;
const DESCRIPTORS_MIN = 1024;
/** A device is a process of its own, and Node takes about 50 MiB for each. */
const MEMORY_MIN_MIB = 256;

function probeKernel(machine: Machine): Finding {
  const { architecture, isLittleEndian, kernelRelease } = machine;
  const order = isLittleEndian ? 'little-endian' : 'big-endian';
  const found = `${kernelRelease} on ${architecture}, ${order}`;
  if (!isLittleEndian) return no(`${found}: only little-endian machines are served`);
  if (ARCHITECTURES.includes(architecture)) return yes(found);
  return partly(`${found}: tested on ${ARCHITECTURES.join(', ')} only`);
}

function probeNode(machine: Machine): Finding {
  const { nodeVersion } = machine;
  if (isAtLeast(nodeVersion, NODE_MAJOR_MIN, NODE_MINOR_MIN)) return yes(nodeVersion);
  const needed = `${NODE_MAJOR_MIN}.${NODE_MINOR_MIN}`;
  return no(`${nodeVersion}, and ${needed} is needed`, asRoot(machine, 'npx --yes n 24'));
}

async function probeKoffi(machine: Machine): Promise<Finding> {
  const reason = await machine.tryKoffi();
  return reason === null ? yes('koffi is loaded') : no(reason, 'npm rebuild koffi');
}

function probePrivileges(machine: Machine): Finding {
  const isAdministrator = hasCapability(machine, CAPABILITY.sysAdmin);
  const found = `user ${machine.userId}, ${isAdministrator ? 'with' : 'without'} CAP_SYS_ADMIN`;
  if (isAdministrator) return yes(found);
  if (machine.userId !== 0) return no(found, 'sudo vlo up');
  return partly(found, '# start the container with --cap-add SYS_ADMIN');
}

function memoryMib(machine: Machine, field: string): number {
  const text = machine.readText('/proc/meminfo') ?? '';
  return Number(new RegExp(`^${field}:\\s*(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN) / 1024;
}

function probeResources(machine: Machine): Finding {
  const [total, available] = ['MemTotal', 'MemAvailable'].map((name) => memoryMib(machine, name));
  const size = (mib: number): string => `${(mib / 1024).toFixed(1)} GiB`;
  const count = machine.processorCount;
  const processors = count === 1 ? '1 processor' : `${count} processors`;
  if (Number.isNaN(available)) return yes(processors);
  const found = `${processors}, ${size(available)} of ${size(total)} free`;
  if (available < MEMORY_MIN_MIB) return partly(`${found}: room for very few devices`);
  return count > 1 ? yes(found) : partly(`${found}: drivers and devices take turns`);
}

function probeOpenFiles(machine: Machine): Finding {
  const text = machine.readText('/proc/self/limits') ?? '';
  const limit = /^Max open files\s+(\w+)/m.exec(text)?.[1];
  if (limit === undefined) return partly('the limit is not known: /proc/self/limits is missing');
  if (limit === 'unlimited') return yes('unlimited');
  const devices = Math.floor(Number(limit) / DESCRIPTORS_PER_DEVICE);
  const found = `${limit}, room for about ${devices} devices`;
  if (Number(limit) >= DESCRIPTORS_MIN) return yes(found);
  return partly(found, asRoot(machine, 'prlimit --pid $$ --nofile=65536'));
}

async function probeMemfd(machine: Machine): Promise<Finding> {
  const reason = await machine.tryMemfd();
  return reason === null ? yes('created and sealed') : no(reason);
}

async function probeIoUring(machine: Machine): Promise<Finding> {
  if (await machine.tryIoUring()) return yes('created');
  const instead = 'threads are used instead';
  const disabled = machine.readText('/proc/sys/kernel/io_uring_disabled')?.trim() ?? null;
  const isRefused =
    disabled === '2' || (disabled === '1' && !hasCapability(machine, CAPABILITY.sysAdmin));
  if (isRefused) {
    const command = asRoot(machine, 'sysctl kernel.io_uring_disabled=0');
    return no(`switched off by kernel.io_uring_disabled=${disabled}; ${instead}`, command);
  }
  const status = machine.readText('/proc/self/status') ?? '';
  if (/^Seccomp:\s*2$/m.test(status)) {
    return no(
      `forbidden by a seccomp filter, as containers have; ${instead}`,
      '# start the container with a seccomp profile that allows io_uring',
    );
  }
  return no(`this kernel does not offer what is needed; ${instead}`);
}

/** The machine, in the order of the report. */
export const MACHINE_CHECKS: readonly Check[] = [
  {
    id: 'kernel',
    title: 'Linux kernel',
    gives: 'a machine that the project is tested on',
    probe: probeKernel,
  },
  { id: 'node', title: 'Node.js', gives: 'everything: vlo runs on it', probe: probeNode },
  {
    id: 'koffi',
    title: 'foreign calls',
    gives: 'everything: system calls that Node does not have',
    probe: probeKoffi,
  },
  {
    id: 'privileges',
    title: 'privileges',
    gives: 'mounts, loop devices, TAP interfaces, and the kernel transports',
    probe: probePrivileges,
  },
  {
    id: 'resources',
    title: 'processors, memory',
    gives: 'a device process that runs beside its driver, for each device',
    probe: probeResources,
  },
  {
    id: 'open-files',
    title: 'open files',
    gives: `more devices in one HAL: each takes about ${DESCRIPTORS_PER_DEVICE} descriptors`,
    probe: probeOpenFiles,
  },
  {
    id: 'memfd',
    title: 'memfd with seals',
    gives: 'everything: the memory that drivers and devices share',
    probe: probeMemfd,
  },
  {
    id: 'io-uring',
    title: 'io_uring',
    gives: 'faster disks: one system call for a batch of requests',
    probe: probeIoUring,
  },
];
