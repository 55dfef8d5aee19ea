/** Checks of what the user transport shows devices through: FUSE, loop devices, TAP, vcan, PTY. */
import { dirname } from 'node:path';
import type { Check, Finding } from './doctor.js';
import {
  asRoot,
  everywhere,
  installCommand,
  loadCommand,
  no,
  partly,
  probeDevice,
  yes,
} from './doctor-commands.js';
import {
  CAPABILITY,
  findProgram,
  hasCapability,
  isAtLeast,
  type Machine,
} from './doctor-machine.js';

const FUSE_URING = '/sys/module/fuse/parameters/enable_uring';

function kernelHasFuse(machine: Machine): boolean {
  return /^nodev\s+fuse$/m.test(machine.readText('/proc/filesystems') ?? '');
}

function probeFuse(machine: Machine): Finding {
  if (kernelHasFuse(machine)) return yes('in /proc/filesystems');
  const command = loadCommand(machine, 'fuse');
  if (command === null) return no('this kernel comes without the module fuse');
  return no('not in /proc/filesystems', command);
}

function probeDevFuse(machine: Machine): Finding {
  const device = { path: '/dev/fuse', module: 'fuse', permit: 'chmod 666 /dev/fuse' };
  const found = probeDevice(machine, device);
  if (found.state === 'yes' || machine.exists(device.path) || !kernelHasFuse(machine)) return found;
  // FUSE is there and only its device file is missing, as in a container with a /dev of its own.
  return no(found.detail.split(';')[0], asRoot(machine, 'mknod -m 666 /dev/fuse c 10 229'));
}

function probeFusermount(machine: Machine): Finding {
  const path = findProgram(machine, 'fusermount3');
  if (machine.userId === 0) {
    const found = path ?? 'missing';
    if (hasCapability(machine, CAPABILITY.sysAdmin)) return yes(`${found}; root does without it`);
    const command = '# start the container with --cap-add SYS_ADMIN';
    return no(`${found}; root does without it, but mounting needs CAP_SYS_ADMIN`, command);
  }
  if (path === null) {
    return no('fusermount3 is missing', installCommand(machine, 'fuse3', everywhere('fuse3')));
  }
  if (machine.isSetUserId(path)) return yes(path);
  return no(`${path} is not setuid root`, asRoot(machine, `chmod u+s ${path}`));
}

async function probeFuseUring(machine: Machine): Promise<Finding> {
  const value = machine.readText(FUSE_URING)?.trim();
  if (value === undefined) {
    if (!kernelHasFuse(machine)) return no('FUSE itself is not there');
    const { kernelRelease } = machine;
    if (!isAtLeast(kernelRelease, 6, 14)) return no(`needs Linux 6.14; this is ${kernelRelease}`);
    return no('this kernel is built without it (CONFIG_FUSE_IO_URING)');
  }
  if (value !== 'Y') {
    const command = `echo 1 | ${asRoot(machine, `tee ${FUSE_URING}`)}`;
    return no('switched off (enable_uring is N)', command);
  }
  if (await machine.tryIoUring()) return yes('switched on');
  return no('switched on, but io_uring itself cannot be used');
}

function probeLoop(machine: Machine): Finding {
  const path = '/dev/loop-control';
  const found = probeDevice(machine, { path, module: 'loop', permit: 'vlo up' });
  if (found.state !== 'yes' || hasCapability(machine, CAPABILITY.sysAdmin)) return found;
  return partly(`${path}; mounting needs CAP_SYS_ADMIN`, asRoot(machine, 'vlo up'));
}

function probeRunDirectory(machine: Machine): Finding {
  const { userId, environment } = machine;
  const instead = 'vlo up --run-dir "$HOME/.vlo"';
  const base = userId === 0 ? '/run' : environment.XDG_RUNTIME_DIR;
  if (base === undefined || base === '') {
    return no('XDG_RUNTIME_DIR is not set: name a folder with --run-dir', instead);
  }
  const path = `${base.replace(/\/+$/, '')}/vlo`;
  if (machine.isWritable(machine.exists(path) ? path : dirname(path))) return yes(path);
  return no(`${path} cannot be written: name another folder with --run-dir`, instead);
}

function probeTap(machine: Machine): Finding {
  const path = '/dev/net/tun';
  const found = probeDevice(machine, { path, module: 'tun', permit: `chmod 666 ${path}` });
  if (found.state !== 'yes' || hasCapability(machine, CAPABILITY.netAdmin)) return found;
  return partly(
    `${path}; without CAP_NET_ADMIN only interfaces that were made for this user`,
    asRoot(machine, `ip tuntap add dev vlo0 mode tap user ${machine.userId}`),
  );
}

function probeVcan(machine: Machine): Finding {
  const path = '/sys/module/vcan';
  if (!machine.exists(path)) {
    const command = loadCommand(machine, 'vcan');
    if (command === null) return no('this kernel comes without the module vcan');
    return no(`${path} is not there`, command);
  }
  if (hasCapability(machine, CAPABILITY.netAdmin)) return yes(path);
  return partly(`${path}; making an interface needs CAP_NET_ADMIN`, asRoot(machine, 'vlo up'));
}

function probeUinput(machine: Machine): Finding {
  // Given to one user only: who can open it can type for everybody.
  const permit = `chown ${machine.userId} /dev/uinput`;
  return probeDevice(machine, { path: '/dev/uinput', module: 'uinput', permit });
}

function probePty(machine: Machine): Finding {
  const path = '/dev/ptmx';
  const error = machine.tryOpen(path);
  if (error === null) return yes(path);
  if (error === 'EACCES') {
    return no(`${path}: no permission (EACCES)`, asRoot(machine, `chmod 666 ${path}`));
  }
  const command = asRoot(machine, 'mount -t devpts -o ptmxmode=666 devpts /dev/pts');
  return no(`${path} cannot be opened (${error})`, command);
}

/** The user transport, in the order of the report. */
export const USER_CHECKS: readonly Check[] = [
  {
    id: 'fuse',
    title: 'FUSE in the kernel',
    gives: 'disks as files that any program opens',
    probe: probeFuse,
  },
  {
    id: 'dev-fuse',
    title: '/dev/fuse',
    gives: 'disks as files that any program opens',
    probe: probeDevFuse,
  },
  {
    id: 'fusermount3',
    title: 'fusermount3',
    gives: 'FUSE without root: it mounts and unmounts for other users',
    probe: probeFusermount,
  },
  {
    id: 'fuse-io-uring',
    title: 'FUSE over io_uring',
    gives: 'fewer system calls for each request to a FUSE file',
    probe: probeFuseUring,
  },
  {
    id: 'loop',
    title: 'loop devices',
    gives: 'mounts of the file systems in disks',
    probe: probeLoop,
  },
  {
    id: 'run-directory',
    title: 'run directory',
    gives: 'sockets and presentations in a place that is found by itself',
    probe: probeRunDirectory,
  },
  {
    id: 'tap',
    title: 'TAP',
    gives: 'network devices as interfaces of this machine',
    probe: probeTap,
  },
  {
    id: 'vcan',
    title: 'vcan',
    gives: 'CAN controllers as interfaces of this machine',
    probe: probeVcan,
  },
  {
    id: 'uinput',
    title: 'uinput',
    gives: 'input devices as keyboards and pointers of this machine',
    probe: probeUinput,
  },
  {
    id: 'pty',
    title: 'PTY',
    gives: 'consoles as terminals that any program opens',
    probe: probePty,
  },
];
