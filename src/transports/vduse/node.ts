/** What sysfs says of a VDUSE device: whether a driver has it, and what applications open of it. */
import { existsSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 20;
/** Size of the pool where the kernel does not tell it, in bytes: before Linux 6.1. */
const POOL_SIZE = 64 * 2 ** 20;

/** Roots of the file systems that are looked into; for tests. */
export interface NodeRoots {
  readonly sys: string;
  readonly dev: string;
}
const ROOTS: NodeRoots = { sys: '/sys', dev: '/dev' };

/** Folders of the kinds of things that drivers make; network interfaces have names and no nodes. */
const KIND: Readonly<Record<string, { folder: string; hasNode: boolean }>> = {
  blk: { folder: 'block', hasNode: true },
  net: { folder: 'net', hasNode: false },
};

const busFolder = (name: string, { sys }: NodeRoots): string => join(sys, 'bus/vdpa/devices', name);

/** The device is on the vDPA bus. */
export const isOnBus = (name: string, roots: NodeRoots = ROOTS): boolean =>
  existsSync(busFolder(name, roots));

/** Name of the driver of the vDPA bus that has the device; null when none has. */
export function busDriver(name: string, roots: NodeRoots = ROOTS): string | null {
  try {
    return basename(realpathSync(join(busFolder(name, roots), 'driver')));
  } catch {
    return null;
  }
}

/** Status of the virtio device, as its driver wrote it; null when no driver has it. */
export function virtioStatus(name: string, roots: NodeRoots = ROOTS): number | null {
  const folder = virtioFolder(name, roots);
  if (folder === null || !existsSync(join(folder, 'driver'))) return null;
  const status = Number(read(join(folder, 'status')));
  return Number.isInteger(status) ? status : null;
}

/** Waits until the device's driver has made something, and says what; null when told to stop. */
export async function findNode(
  type: string,
  name: string,
  signal: AbortSignal,
  roots: NodeRoots = ROOTS,
): Promise<string | null> {
  for (;;) {
    const node = lookForNode(type, name, roots);
    if (node !== null || signal.aborted) return node;
    await sleep(PAUSE_MS, undefined, { signal }).catch(() => {});
  }
}

/** What is there now. */
export function lookForNode(type: string, name: string, roots: NodeRoots = ROOTS): string | null {
  const kind = KIND[type];
  const folder = virtioFolder(name, roots);
  if (kind === undefined || folder === null) return null;
  const [found] = list(join(folder, kind.folder));
  if (found === undefined) return null;
  if (!kind.hasNode) return found;
  const node = join(roots.dev, found);
  return existsSync(node) ? node : null;
}

function virtioFolder(name: string, roots: NodeRoots): string | null {
  const folder = busFolder(name, roots);
  const device = list(folder).find((entry) => /^virtio\d+$/.test(entry));
  return device === undefined ? null : join(folder, device);
}

/** Sets a limit of a device, or the size of its pool; a kernel too old for it has its own. */
export function writeSetting(
  name: string,
  setting: 'bounce_size' | 'msg_timeout',
  value: number,
): void {
  try {
    writeFileSync(join(ROOTS.sys, 'class/vduse', name, setting), `${value}`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Bytes of the pool of a device. */
export function readPoolSize(name: string, roots: NodeRoots = ROOTS): number {
  const size = Number(read(join(roots.sys, 'class/vduse', name, 'bounce_size')));
  return Number.isInteger(size) && size > 0 ? size : POOL_SIZE;
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
