/** The peers folder: whether it is there, and how to run a program in it. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { Child, type Result, type Workspace } from './process.ts';

export const PROJECT = fileURLToPath(new URL('../../..', import.meta.url));
const ROOT = `${process.env.VLO_PEERS || '/var/cache/virtio-loopback/peers'}/root`;

/** Where peers see the folder of the test. */
export const inPeers = (name: string): string => `/sock/${name}`;

let reason: string | null | undefined;

/** Why the peer tests cannot run here, with the command that changes it; null when they can. */
export function peersAvailable(): string | null {
  reason ??= findReason();
  return reason;
}

function findReason(): string | null {
  if (process.getuid?.() !== 0) return 'peers run in a chroot, which needs root: run as root';
  const check = spawnSync(`${PROJECT}scripts/install-peers.sh`, ['--check'], { encoding: 'utf8' });
  if (check.status === 0) return null;
  const output = `${check.stdout ?? ''}${check.stderr ?? ''}`.trim();
  return `${output}\npeers are not installed: run scripts/install-peers.sh`;
}

/** describe() that needs the peers. Without them it is skipped with a reason; in CI it fails. */
export function describeWithPeers(name: string, define: () => void): void {
  const why = peersAvailable();
  if (why === null) {
    describe(name, define);
  } else if (process.env.CI) {
    test(name, () => expect.fail(why));
  } else {
    console.warn(`skipped: ${name}: ${why}`); // The default reporter keeps the reason to itself.
    test(name, (context) => context.skip(`${why}`));
  }
}

// Runs in namespaces of its own: no mount outlives the program, and killing `unshare` kills all in
// it. The shell stays as process 1, because a process 1 ignores the signals that it has no handler
// for, which User-Mode Linux cannot live with. $1 root, $2 folder of the test, $3 node, $4 project.
const ENTER = `
R=$1; S=$2; N=$3; P=$4; shift 4
mount --rbind /dev "$R/dev" && mount -t proc proc "$R/proc" && mount --bind "$S" "$R/sock" &&
mount -t tmpfs tmpfs "$R/tmp" && mount -t tmpfs tmpfs "$R/run" &&
touch "$R/run/node" && mount --bind "$N" "$R/run/node" &&
mkdir "$R/run/project" && mount --bind -o ro "$P" "$R/run/project" || exit 125
PATH=/usr/sbin:/usr/bin HOME=/tmp TMPDIR=/tmp chroot "$R" "$@"
exit $?`;

/**
 * Starts a program of the peers folder. It sees the test's folder as /sock, and Node as /run/node.
 */
export function spawnInPeers(ws: Workspace, command: readonly string[], input = false): Child {
  const enter = ['--mount', '--pid', '--fork', '--kill-child=KILL', '--propagation', 'private'];
  const args = [...enter, 'sh', '-c', ENTER, 'sh', ROOT, ws.dir, process.execPath, PROJECT];
  const name = command[0].split('/').at(-1) as string;
  const stdin = input ? 'pipe' : 'ignore';
  return ws.add(
    new Child(name, 'unshare', [...args, ...command], { stdio: [stdin, 'pipe', 'pipe'] }),
  );
}

/** Runs a program of the peers folder to its end, whatever its status. */
export function runInPeers(
  ws: Workspace,
  command: readonly string[],
  timeoutMs = 60_000,
): Promise<Result> {
  return spawnInPeers(ws, command).result(timeoutMs);
}

/** The same for a program that must succeed; gives its standard output. */
export async function mustRunInPeers(
  ws: Workspace,
  command: readonly string[],
  timeoutMs = 60_000,
): Promise<string> {
  const { status, stdout, stderr } = await runInPeers(ws, command, timeoutMs);
  expect(status, `${command.join(' ')}\n${stdout}\n${stderr}`).toBe(0);
  return stdout;
}
