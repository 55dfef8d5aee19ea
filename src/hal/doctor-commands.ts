/** The commands that `vlo doctor` suggests, in the words of the machine's distribution. */
import type { Finding } from './doctor.js';
import { type Machine, moduleState } from './doctor-machine.js';

/** Package managers, with the command that installs. */
const INSTALL = {
  apt: 'apt-get install -y',
  dnf: 'dnf install -y',
  apk: 'apk add',
  pacman: 'pacman -S --needed',
  zypper: 'zypper install -y',
} as const;

/** A package manager that the doctor knows. */
export type PackageManager = keyof typeof INSTALL;

const MANAGER_BY_ID: Readonly<Record<string, PackageManager>> = {
  debian: 'apt',
  ubuntu: 'apt',
  fedora: 'dnf',
  rhel: 'dnf',
  centos: 'dnf',
  alpine: 'apk',
  arch: 'pacman',
  suse: 'zypper',
  opensuse: 'zypper',
};

/** A field of /etc/os-release without its quotes; empty when it is not there. */
export function releaseField(machine: Machine, field: string): string {
  const text = machine.readText('/etc/os-release') ?? machine.readText('/usr/lib/os-release') ?? '';
  const value = new RegExp(`^${field}=(.*)$`, 'm').exec(text)?.[1].trim() ?? '';
  return value.replace(/^(["'])(.*)\1$/, '$2');
}

/** The machine's package manager; null when its distribution is not known here. */
export function packageManager(machine: Machine): PackageManager | null {
  const ids = `${releaseField(machine, 'ID')} ${releaseField(machine, 'ID_LIKE')}`.split(' ');
  // openSUSE calls itself opensuse-leap, opensuse-tumbleweed and so on.
  const known = ids.map((id) => MANAGER_BY_ID[id.split('-', 1)[0]]);
  return known.find((manager) => manager !== undefined) ?? null;
}

/** Packages by manager; one that is missing is not known to have what is wanted. */
export type Packages = Readonly<Partial<Record<PackageManager, string>>>;

/** The same package, or packages, under every manager. */
export function everywhere(names: string): Record<PackageManager, string> {
  return { apt: names, dnf: names, apk: names, pacman: names, zypper: names };
}

/** A command for root: as it is when this user is root, else with sudo. */
export function asRoot(machine: Machine, command: string): string {
  return machine.userId === 0 ? command : `sudo ${command}`;
}

/** The command that installs packages; where they are not known, a sentence as a comment. */
export function installCommand(machine: Machine, what: string, packages: Packages): string {
  const manager = packageManager(machine);
  const names = manager === null ? undefined : packages[manager];
  if (manager !== null && names !== undefined)
    return asRoot(machine, `${INSTALL[manager]} ${names}`);
  return `# install ${what} with this system's package manager, or from its source`;
}

/** The command that loads modules; null when the running kernel lacks one of them. */
export function loadCommand(machine: Machine, ...modules: string[]): string | null {
  const states = modules.map((module) => moduleState(machine, module));
  if (states.includes('none')) return null;
  const command = `modprobe ${modules.length > 1 ? '--all ' : ''}${modules.join(' ')}`;
  if (!states.includes('unknown')) return asRoot(machine, command);
  return `# no modules here; in a container, on its host: ${command}`;
}

export function yes(detail: string): Finding {
  return { state: 'yes', detail, command: null };
}

export function no(detail: string, command: string | null = null): Finding {
  return { state: 'no', detail, command };
}

export function partly(detail: string, command: string | null = null): Finding {
  return { state: 'partly', detail, command };
}

/** A device file that a check opens. */
export interface DeviceFile {
  readonly path: string;
  /** Module of the kernel that makes it. */
  readonly module: string;
  /** Command for root that lets this user open it. */
  readonly permit: string;
}

/** Opens a device: what that says, and the command that helps. */
export function probeDevice(machine: Machine, device: DeviceFile): Finding {
  const { path, module } = device;
  const error = machine.tryOpen(path);
  switch (error) {
    case null:
    case 'EBUSY': // Somebody else uses it: it is there, and we may.
      return yes(path);
    case 'EACCES':
      return no(`${path}: no permission (EACCES)`, asRoot(machine, device.permit));
    case 'EPERM':
      return no(
        `${path}: forbidden (EPERM), as containers do for devices that they were not given`,
        `# start the container with --device ${path}`,
      );
    default: {
      const command = loadCommand(machine, module);
      const why = command === null ? `; this kernel comes without the module ${module}` : '';
      const what = error === 'ENOENT' ? 'is not there' : 'cannot be opened';
      return no(`${path} ${what} (${error})${why}`, command);
    }
  }
}
