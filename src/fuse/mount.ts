/**
 * Makes and ends FUSE mounts: as root through /dev/fuse alone, as a user through `fusermount3`.
 *
 * The process that serves a mount must never look into it with a call that waits: it would wait
 * for itself.
 */
import { spawn, spawnSync } from 'node:child_process';
import { constants, openSync, readFileSync } from 'node:fs';
import { SystemError, VloError } from '../errors.js';
import { Fd, mount, receiveMessage, socketPair, unmount, waitReadable } from '../native/index.js';
import { FuseChannel } from './channel.js';

export interface FuseMountOptions {
  /** Longest read in bytes that the kernel may ask for. */
  readonly readSizeMax: number;
  /** What the mount is called in the list of mounts. */
  readonly source: string;
}

const DEVICE = '/dev/fuse';
const FUSERMOUNT = 'fusermount3';
/** Longest time in milliseconds that fusermount3 may take. */
const HELPER_MS_MAX = 5000;

/**
 * Mounts on a folder that is there.
 * @throws VloError VLO_FUSE_UNAVAILABLE with the reason, and the command that mends it
 */
export async function mountFuse(
  folder: string,
  { readSizeMax, source }: FuseMountOptions,
): Promise<FuseChannel> {
  const common = `default_permissions,max_read=${readSizeMax}`;
  if (process.geteuid?.() !== 0) return new FuseChannel(await mountAsUser(folder, source, common));
  const fd = openDevice();
  try {
    // Who else may use the files is said by their modes alone, as for any device node.
    const options = `fd=${fd.number},rootmode=40000,user_id=0,group_id=0,allow_other,${common}`;
    mount(source, folder, 'fuse.vlo', options);
    return new FuseChannel(fd);
  } catch (error) {
    fd.close();
    if (!(error instanceof SystemError)) throw error;
    const hint = error.errno === 'EPERM' ? ' (mounting needs CAP_SYS_ADMIN)' : '';
    throw unavailable(`cannot mount on '${folder}': ${error.errno}${hint}`);
  }
}

/** Why FUSE cannot be used here; null when it can. Nothing is mounted. */
export function whyNoFuse(): string | null {
  try {
    openDevice().close();
  } catch (error) {
    return (error as Error).message;
  }
  if (process.geteuid?.() === 0) return null;
  const { error } = spawnSync(FUSERMOUNT, ['--version'], { stdio: 'ignore', timeout: 2000 });
  return error === undefined ? null : NO_HELPER;
}

const NO_HELPER = `${FUSERMOUNT} is not installed: install the package fuse3`;

function unavailable(message: string): VloError {
  return new VloError('VLO_FUSE_UNAVAILABLE', message);
}

function openDevice(): Fd {
  const flags = constants.O_RDWR | constants.O_NONBLOCK;
  try {
    return new Fd(openSync(DEVICE, flags));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO') {
      throw unavailable(`the kernel has no FUSE (${DEVICE}: ${code}): modprobe fuse`);
    }
    throw unavailable(`${DEVICE} cannot be opened (${code}): chmod 666 ${DEVICE} as root`);
  }
}

/** fusermount3 opens the device, mounts, and sends the descriptor over a socket. */
async function mountAsUser(folder: string, source: string, options: string): Promise<Fd> {
  const [ours, theirs] = socketPair();
  try {
    const child = spawn(
      FUSERMOUNT,
      ['-o', `${options},nosuid,nodev,fsname=${source},subtype=vlo`, '--', folder],
      {
        stdio: ['ignore', 'ignore', 'pipe', theirs.number],
        env: { ...process.env, _FUSE_COMMFD: '3' },
      },
    );
    // Not spawn's own limit: its timer runs on when there is no such program.
    const late = setTimeout(() => child.kill(), HELPER_MS_MAX);
    child.once('close', () => clearTimeout(late));
    let complaint = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      complaint += text;
    });
    const status = await new Promise<number | null>((resolve, reject) => {
      child.on('error', (error: NodeJS.ErrnoException) => {
        const isMissing = error.code === 'ENOENT' || error.code === 'EACCES';
        reject(unavailable(isMissing ? NO_HELPER : `${FUSERMOUNT}: ${error.code}`));
      });
      child.on('close', resolve);
    });
    const fds: Fd[] = [];
    if (status === 0 && waitReadable([ours.number], 100) === 0) {
      receiveMessage(ours.number, new Uint8Array(16), fds);
    }
    const [fd, ...others] = fds;
    for (const other of others) other.close();
    if (fd === undefined) {
      const why = complaint.trim().replaceAll('\n', '; ') || `status ${status}`;
      throw unavailable(`${FUSERMOUNT} could not mount on '${folder}': ${why}`);
    }
    fd.setNonBlocking();
    return fd;
  } finally {
    ours.close();
    theirs.close();
  }
}

/**
 * Takes a mount away. What was written to it is flushed first.
 * @param isDetached also one that is in use, or whose server has died: what is open in it stays so
 * until it is closed
 * @returns false when nothing of ours is mounted there, or, not detached, somebody uses it
 */
export async function unmountFuse(folder: string, isDetached: boolean): Promise<boolean> {
  if (!fuseMountsBelow(folder).includes(folder)) return false;
  if (process.geteuid?.() === 0) return unmount(folder, isDetached);
  const flags = isDetached ? ['-u', '-z'] : ['-u'];
  const child = spawn(FUSERMOUNT, [...flags, '--', folder], { stdio: 'ignore' });
  return new Promise((resolve) => {
    child.on('error', () => resolve(false));
    child.on('close', (status) => resolve(status === 0));
  });
}

/** Mount points of this project at or below a folder, the deepest first. */
export function fuseMountsBelow(folder: string): string[] {
  const found: string[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [before, after] = line.split(' - ');
    if (after?.startsWith('fuse.vlo ') !== true) continue;
    // Blanks and the like are written as octal numbers.
    const path = before!
      .split(' ')[4]!
      .replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
        String.fromCharCode(Number.parseInt(digits, 8)),
      );
    if (path === folder || path.startsWith(`${folder}/`)) found.push(path);
  }
  return found.reverse();
}
