/**
 * Disks as files of a FUSE mount. Such a mount is seen only in the namespace that it is made in, so
 * all that works with it, our Node included, runs from one script in one namespace.
 */

import { expect } from 'vitest';
import { inPeers, spawnInPeers } from './peers.ts';
import type { Child, Result, Workspace } from './process.ts';

export interface ScriptOptions {
  /**
   * Who the script runs as; root by default. Anyone else becomes the owner of the files in the
   * test's folder, may open /dev/fuse, and mounts with fusermount3.
   */
  readonly uid?: number;
}

// $1 uid, $2 script. The host's /dev/fuse is often for root only, and must stay so: the node that
// all may open is bound over it in this namespace. /sock is shared for `serve`; fio leaves files
// where it runs.
const PREPARE = `
mount -t sysfs -o ro sysfs /sys && mount --make-shared /sock && cd /tmp || exit 125
if [ "$1" = 0 ]; then exec bash -c "$2"; fi
mknod -m 666 /run/fuse c 10 229 && mount --bind /run/fuse /dev/fuse || exit 125
chown -R "$1:$1" /sock || exit 125
exec setpriv --reuid "$1" --regid "$1" --clear-groups bash -c "$2"`;

// What a script can call.
const FUNCTIONS = `
within() { # seconds command: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    if [ $SECONDS -gt $end ]; then echo "not in time: $*" >&2; return 1; fi
    sleep 0.02
  done
}
is_mounted() { grep -q " $1 " /proc/self/mounts; }
not_mounted() { ! is_mounted "$1"; }
serve() { # command: in the background, its pid into SERVER
  # When all is killed, the last process of a mount namespace unmounts what is left in it. Were that
  # the server of a disk which a file system or a loop device is on, it would wait for itself, for
  # ever. So as root it gets a namespace of its own, and shares only what is mounted below /sock.
  if [ $UID = 0 ]; then unshare --mount --propagation unchanged "$@" & else "$@" & fi
  SERVER=$!
}
attach_loop() { # [option of losetup]... file: the device's name into LOOP
  # The device is held open here and detached at once, which takes effect when nobody has it open:
  # so it does not outlive this namespace, even if all in here is killed.
  LOOP=$(losetup --find --show "$@") && exec {LOOP_FD}<>"$LOOP" && losetup --detach "$LOOP"
}
detach_loop() { exec {LOOP_FD}>&-; }
`;

/**
 * Starts a bash script that runs as one with all its programs: it sees the test's folder as /sock,
 * Node as /run/node and the project, read-only, as /run/project. It ends at the first command that
 * fails (set -e). It can call:
 *
 * - `serve COMMAND...`: starts what mounts a disk below /sock, and sets $SERVER to its pid. File
 *   systems on such a disk belong below /tmp or /mnt, or a killed test hangs in the kernel.
 * - `within SECONDS COMMAND...`: repeats the command until it succeeds
 * - `is_mounted PATH`, `not_mounted PATH`
 * - `attach_loop [OPTION]... FILE`: as root, a loop device, its name in $LOOP; `detach_loop`
 *
 * Its mounts, loop devices and processes end with it.
 */
export function spawnScriptInPeers(ws: Workspace, script: string, options?: ScriptOptions): Child {
  const all = `set -eu\n${FUNCTIONS}\n${script}`;
  return spawnInPeers(ws, ['bash', '-c', PREPARE, 'bash', String(options?.uid ?? 0), all]);
}

/** Runs such a script to its end, whatever its status. */
export function runScriptInPeers(
  ws: Workspace,
  script: string,
  options: ScriptOptions & { readonly timeoutMs?: number } = {},
): Promise<Result> {
  return spawnScriptInPeers(ws, script, options).result(options.timeoutMs ?? 60_000);
}

/** The same for a script that must succeed; gives its standard output. */
export async function mustRunScriptInPeers(
  ws: Workspace,
  script: string,
  options: ScriptOptions & { readonly timeoutMs?: number } = {},
): Promise<string> {
  const { status, stdout, stderr } = await runScriptInPeers(ws, script, options);
  expect(status, `${script}\n${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

export interface QsdFuseOptions {
  /** File in the workspace, raw. */
  readonly image: string;
  /** File in the workspace that the disk is to be seen as; made when it is not there. */
  readonly mountpoint: string;
  readonly readOnly?: boolean;
}

/**
 * Lines of a script that start qemu-storage-daemon's FUSE export and wait until it is mounted. Its
 * pid is in $SERVER then; `stopQsdFuse` ends it.
 */
export function startQsdFuse({ image, mountpoint, readOnly }: QsdFuseOptions): string {
  const at = inPeers(mountpoint);
  return `
touch ${at}
serve qemu-storage-daemon --object iothread,id=io0 \\
  --blockdev driver=file,filename=${inPeers(image)},node-name=f0,discard=unmap \\
  --blockdev driver=raw,file=f0,node-name=d0,discard=unmap \\
  --export type=fuse,id=e0,node-name=d0,mountpoint=${at},writable=${readOnly ? 'off' : 'on'},\\
allow-other=off,iothread=io0
within 10 is_mounted ${at}
`;
}

/** Lines that end it in an orderly way: all is in the image, and nothing is mounted any more. */
export const stopQsdFuse = ({ mountpoint }: QsdFuseOptions): string => `
kill $SERVER
wait $SERVER
within 10 not_mounted ${inPeers(mountpoint)}
`;
