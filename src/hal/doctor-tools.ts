/** Checks of programs that work together with our devices, or that measure them. */
import { basename } from 'node:path';
import type { Check, Finding } from './doctor.js';
import {
  everywhere,
  installCommand,
  no,
  packageManager,
  partly,
  releaseField,
  yes,
} from './doctor-commands.js';
import { findProgram, findPrograms, isAtLeast, type Machine } from './doctor-machine.js';

/** First release of QEMU whose vhost-user is good for all that we serve. */
const QEMU_MAJOR_MIN = 5;

interface QemuNames {
  readonly suffix: string;
  /** Package of Debian; the others' follow a rule, or have one package for all. */
  readonly apt: string;
  readonly pacman: string;
  readonly zypper: string;
}

const QEMU_BY_ARCHITECTURE: Readonly<Record<string, QemuNames>> = {
  x64: {
    suffix: 'x86_64',
    apt: 'qemu-system-x86',
    pacman: 'qemu-system-x86',
    zypper: 'qemu-x86',
  },
  arm64: {
    suffix: 'aarch64',
    apt: 'qemu-system-arm',
    pacman: 'qemu-system-aarch64',
    zypper: 'qemu-arm',
  },
  riscv64: {
    suffix: 'riscv64',
    apt: 'qemu-system-misc',
    pacman: 'qemu-system-riscv',
    zypper: 'qemu-extra',
  },
};

/** Debian 12 and older split and build some packages in another way. */
function isOldDebian(machine: Machine): boolean {
  const version = Number.parseInt(releaseField(machine, 'VERSION_ID'), 10);
  return releaseField(machine, 'ID') === 'debian' && version <= 12;
}

/** Version in the first lines of what a program prints; null when it does not run. */
async function versionOf(machine: Machine, program: string): Promise<string | null> {
  const { status, output } = await machine.run(program, ['--version']);
  if (status !== 0) return null;
  return /\d+\.\d+(\.\d+)?/.exec(output)?.[0] ?? 'unknown version';
}

/** A program that is there and runs: its path and version. */
async function probeProgram(
  machine: Machine,
  name: string,
  install: () => string,
): Promise<Finding> {
  const path = findProgram(machine, name);
  if (path === null) return no('not found', install());
  const version = await versionOf(machine, path);
  return version === null ? partly(`${path} does not run`) : yes(`${version}, ${path}`);
}

async function probeQemu(machine: Machine): Promise<Finding> {
  const names = QEMU_BY_ARCHITECTURE[machine.architecture] ?? QEMU_BY_ARCHITECTURE.x64;
  const own = findProgram(machine, `qemu-system-${names.suffix}`);
  // Red Hat's is out of the way, as it is for libvirt only.
  const kvm = '/usr/libexec/qemu-kvm';
  const path = own ?? (machine.exists(kvm) ? kvm : findPrograms(machine, /^qemu-system-\w+$/)[0]);
  if (path === undefined) {
    const { apt, pacman, zypper, suffix } = names;
    const packages = { apt, dnf: 'qemu-kvm', apk: `qemu-system-${suffix}`, pacman, zypper };
    return no('not found', installCommand(machine, 'QEMU', packages));
  }
  const [version, devices] = await Promise.all([
    versionOf(machine, path),
    machine.run(path, ['-device', 'help']),
  ]);
  if (version === null) return partly(`${path} does not run`);
  const found = `${version}, ${path}`;
  if (!isAtLeast(version, QEMU_MAJOR_MIN, 0)) {
    return partly(`${found}: version ${QEMU_MAJOR_MIN} or newer is needed`);
  }
  // Nothing is concluded from a list that came too late.
  const lacksDevices = devices.status === 0 && !devices.output.includes('vhost-user');
  return lacksDevices ? partly(`${found}: built without vhost-user`) : yes(found);
}

/** Folders in which distributions keep the modules of QEMU. */
function qemuModuleFolders(machine: Machine): string[] {
  const triples = ['x86_64', 'aarch64', 'riscv64'].map((name) => `/usr/lib/${name}-linux-gnu`);
  const folders = [...triples, '/usr/lib64', '/usr/lib', '/usr/local/lib'];
  return folders
    .map((folder) => `${folder}/qemu`)
    .filter((folder) => machine.list(folder).some((name) => /^block-.*\.so$/.test(name)));
}

async function probeQemuImg(machine: Machine): Promise<Finding> {
  const path = findProgram(machine, 'qemu-img');
  const packages = {
    apt: 'qemu-utils qemu-block-extra',
    dnf: 'qemu-img qemu-block-blkio',
  };
  const hint = isOldDebian(machine)
    ? '# move to Debian 13: the QEMU of this release is built without libblkio'
    : installCommand(machine, 'qemu-img and its libblkio driver', packages);
  if (path === null) return no('qemu-img was not found', hint);
  const folders = qemuModuleFolders(machine);
  const driver = folders.find((folder) => machine.exists(`${folder}/block-blkio.so`));
  if (driver !== undefined) return yes(`${path}, ${driver}/block-blkio.so`);
  // Where drivers are modules, the help names those that are not installed as well.
  const { output } = folders.length > 0 ? { output: '' } : await machine.run(path, ['--help']);
  if (output.includes('virtio-blk-vhost-user')) return yes(`${path}, with libblkio built in`);
  return partly(`${path}, without its libblkio driver`, hint);
}

/** User-Mode Linux has two usual names, and the short one may be anything. */
async function probeUserModeLinux(machine: Machine): Promise<Finding> {
  const names = ['linux.uml', 'linux'];
  for (const path of names.map((name) => findProgram(machine, name))) {
    if (path === null) continue;
    const { status, output } = await machine.run(path, ['--version']);
    const version = /^\d+\.\d+\S*/.exec(output.trim())?.[0];
    if (status === 0 && version !== undefined) return yes(`${version}, ${path}`);
  }
  if (machine.architecture !== 'x64') return no('exists for x86 only');
  return no('not found', installCommand(machine, 'User-Mode Linux', { apt: 'user-mode-linux' }));
}

function probeBackEnds(machine: Machine): Finding {
  const hidden = ['/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd', '/usr/lib/virtiofsd'];
  const paths = [
    ...findPrograms(machine, /^(virtiofsd|passt|vhost-device-[\w-]+)$/),
    ...hidden.filter((path) => machine.exists(path)),
  ];
  const names = [...new Set(paths.map((path) => basename(path)))];
  if (names.length > 0) return yes(names.join(', '));
  const inQemu = packageManager(machine) === 'apt' && isOldDebian(machine);
  const packages = everywhere(inQemu ? 'qemu-system-common passt' : 'virtiofsd passt');
  return no('none of virtiofsd, passt, vhost-device-*', installCommand(machine, 'them', packages));
}

/** Programs, in the order of the report. */
export const TOOL_CHECKS: readonly Check[] = [
  {
    id: 'qemu',
    title: 'QEMU with vhost-user',
    gives: 'our devices in virtual machines',
    probe: probeQemu,
  },
  {
    id: 'qemu-img',
    title: 'qemu-img with libblkio',
    gives: 'disk images copied, compared and measured through our block device, without a guest',
    probe: probeQemuImg,
  },
  {
    id: 'qemu-storage-daemon',
    title: 'qemu-storage-daemon',
    gives: "disks in qcow2 and other formats as a back end, and a peer for our front end's tests",
    probe: (machine) =>
      probeProgram(machine, 'qemu-storage-daemon', () => {
        const packages = { apt: 'qemu-system-common', dnf: 'qemu-img' };
        return installCommand(machine, 'qemu-storage-daemon (a part of QEMU)', packages);
      }),
  },
  {
    id: 'fio',
    title: 'fio',
    gives: 'measurements of disks with a tool that everybody knows',
    probe: (machine) =>
      probeProgram(machine, 'fio', () => installCommand(machine, 'fio', everywhere('fio'))),
  },
  {
    id: 'user-mode-linux',
    title: 'User-Mode Linux',
    gives: "the kernel's own virtio drivers against our devices, in seconds and without root",
    probe: probeUserModeLinux,
  },
  {
    id: 'back-ends',
    title: 'other back ends',
    gives: 'device types that others serve: shared folders, networks, buses',
    probe: probeBackEnds,
  },
];
