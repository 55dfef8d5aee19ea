/**
 * What applications open of a device of the kernel module: found in sysfs, where its driver hangs
 * whatever it makes below the device.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 20;
/** How long to wait, in ms, for the name of a console's port: not all have one. */
const PORT_MS_MAX = 500;
/** A driver's nodes lie a few folders below the device: `virtio0/sound/card0/controlC0`. */
const DEPTH_MAX = 5;

/** Names below `/dev` that stand for a type, where its driver makes more than one; else any fits. */
const PATTERNS: Readonly<Record<string, RegExp>> = {
  blk: /^vd[a-z]+$/,
  console: /^vport/,
  input: /^input\/event/,
  sound: /^snd\/controlC/,
  gpu: /^dri\/card/,
  gpio: /^gpiochip\d+$/,
};

/** Folders of classes whose members are network interfaces: they have names and no nodes. */
const NETWORK = 'net';

/** Roots of the file systems that are looked into; for tests. */
export interface NodeRoots {
  readonly sys: string;
  readonly dev: string;
}
const ROOTS: NodeRoots = { sys: '/sys', dev: '/dev' };

/** Waits until the device's driver has made something, and says what; null when told to stop. */
export async function findNode(
  type: string,
  id: number,
  signal: AbortSignal,
  roots: NodeRoots = ROOTS,
): Promise<string | null> {
  for (;;) {
    const node = lookForNode(type, id, roots);
    if (node !== null && /\/vport/.test(node)) await settlePort(roots, node);
    if (node !== null || signal.aborted) return node;
    await sleep(PAUSE_MS, undefined, { signal }).catch(() => {});
  }
}

/** A port has a node before its driver has told the device of it. Its name comes afterwards. */
async function settlePort({ sys }: NodeRoots, node: string): Promise<void> {
  const name = join(sys, 'class/virtio-ports', basename(node), 'name');
  for (let left = PORT_MS_MAX; left > 0 && !existsSync(name); left -= PAUSE_MS) {
    await sleep(PAUSE_MS);
  }
}

/** What is there now. */
export function lookForNode(type: string, id: number, roots: NodeRoots = ROOTS): string | null {
  const folder = join(roots.sys, 'devices/platform', `virtio-loopback.${id}`);
  const device = list(folder).find((name) => /^virtio\d+$/.test(name));
  if (device === undefined || !existsSync(join(folder, device, 'driver'))) return null;
  const place = join(folder, device);
  if (type === 'rng') return lookForRandom(roots);
  if (type === 'fs') return lookForTag(roots, device);
  const [network] = list(join(place, NETWORK));
  if (network !== undefined) return network;
  const name = lookBelow(place, PATTERNS[type] ?? /./, DEPTH_MAX);
  // Devices without a node of their own (vsock, crypto): that a driver has them is all there is.
  if (name === null) return type === 'vsock' ? node(roots, 'vsock') : null;
  return node(roots, type === 'console' ? (terminalOf(roots, basename(name)) ?? name) : name);
}

/**
 * The terminal of a port that is one: it has a node of its own, by which alone it can be used. The
 * driver numbers terminals in the order in which they came; null for a port that is none.
 */
function terminalOf({ sys }: NodeRoots, port: string): string | null {
  const folder = join(sys, 'kernel/debug/virtio-ports');
  const order = (name: string): number => {
    const text = read(join(folder, name));
    const isTerminal = /^is_console: yes$/m.test(text);
    return isTerminal ? Number(/^console_vtermno: (\d+)$/m.exec(text)?.[1]) : Number.NaN;
  };
  const own = order(port);
  if (Number.isNaN(own)) return null;
  return `hvc${files(folder).filter((name) => order(name) < own).length}`;
}

/** The path of a node, once it is there. */
function node({ dev }: NodeRoots, name: string): string | null {
  const path = join(dev, name);
  return existsSync(path) ? path : null;
}

/** The generator has one node for all sources; the kernel lists those that it has. */
function lookForRandom(roots: NodeRoots): string | null {
  const available = read(join(roots.sys, 'class/misc/hw_random/rng_available'));
  return /\bvirtio_rng/.test(available) ? node(roots, 'hwrng') : null;
}

/** A shared file system is mounted by its tag: `mount -t virtiofs TAG /mnt`. */
function lookForTag({ sys }: NodeRoots, device: string): string | null {
  const folder = join(sys, 'fs/virtiofs');
  for (const name of list(folder)) {
    const isOurs = realPath(join(folder, name, 'device')).endsWith(`/${device}`);
    const tag = read(join(folder, name, 'tag')).trim();
    if (isOurs && tag !== '') return tag;
  }
  return null;
}

/** The name below `/dev` of the first device at or below a folder, the shallowest first. */
function lookBelow(folder: string, pattern: RegExp, depth: number): string | null {
  const folders = list(folder).map((name) => join(folder, name));
  for (const path of folders) {
    const name = /^DEVNAME=(.+)$/m.exec(read(join(path, 'uevent')))?.[1];
    if (name !== undefined && pattern.test(name)) return name;
  }
  if (depth === 0) return null;
  for (const path of folders) {
    const found = lookBelow(path, pattern, depth - 1);
    if (found !== null) return found;
  }
  return null;
}

/** Folders in a folder; links, which lead elsewhere, are none. Empty for one that is not there. */
function list(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch {
    return [];
  }
}

function files(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return '';
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
