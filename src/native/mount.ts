/** Mounting and unmounting file systems. */
import { check, libc } from './libc.js';

const MS_NOSUID = 2;
const MS_NODEV = 4;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

/**
 * Mounts a file system without set-user-id programs and device nodes.
 * @throws SystemError
 */
export function mount(source: string, target: string, type: string, options: string): void {
  check(libc.mount(source, target, type, MS_NOSUID | MS_NODEV, options), 'mount', target);
}

/**
 * Unmounts, on a thread of the pool: the file system may first have to write back, and its server
 * may be this process.
 * @param isDetached takes it out of the tree at once; it ends when nobody uses it any more
 * @returns false when nothing is mounted there, or, not detached, somebody uses it
 */
export function unmount(target: string, isDetached: boolean): Promise<boolean> {
  const flags = UMOUNT_NOFOLLOW | (isDetached ? MNT_DETACH : 0);
  return new Promise((resolve) => {
    libc.umount2.async(target, flags, (error, result) => resolve(error === null && result === 0));
  });
}
