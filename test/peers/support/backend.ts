/**
 * Device processes under test. Ours by default; VLO_TEST_BACKEND=qsd puts qemu-storage-daemon in
 * our place, which proves the tests themselves: what it cannot do (below) is left out then, and
 * only then.
 */

import { existsSync, statSync } from 'node:fs';
import { expect } from 'vitest';
import { inPeers, PROJECT, spawnInPeers } from './peers.ts';
import { Child, until, type Workspace } from './process.ts';

export const USING_QSD = process.env.VLO_TEST_BACKEND === 'qsd';

/** What only our back end can do: for test.skipIf. */
export const LACKS = {
  packed: USING_QSD,
  rng: USING_QSD,
  /**
   * No INFLIGHT_SHMFD in qemu-storage-daemon: requests that complete out of order are lost on a
   * kill.
   */
  inflight: USING_QSD,
  /**
   * libblkio sends one request for any length, and qemu-storage-daemon refuses more than 16 MiB.
   */
  longZeroes: USING_QSD,
};

export interface BlkOptions {
  /** File in the workspace. */
  readonly image: string;
  readonly socket?: string;
  readonly readOnly?: boolean;
  readonly numQueues?: number;
  /** false: the packed ring is not offered, so that a front end has to take the split one. */
  readonly packed?: boolean;
}

export interface Backend {
  /** Name of the socket in the workspace. */
  readonly socket: string;
  readonly child: Child;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGTERM, and the status has to be 0. */
  stop(): Promise<void>;
}

/** Our program with these arguments; waits for the line on stderr that says it is ready. */
export async function startVlo(
  ws: Workspace,
  args: readonly string[],
  socket: string,
): Promise<Backend> {
  const program = `${PROJECT}dist/bin/vlo.js`;
  if (!existsSync(program)) throw new Error(`${program} is missing: run npm run build`);
  const child = ws.add(
    new Child(`vlo ${args.slice(0, 2).join(' ')}`, process.execPath, [program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    }),
  );
  await child.waitFor(/\n/, 10_000, 'stderr');
  return {
    socket,
    child,
    kill: () => child.kill(),
    async stop() {
      child.signal('SIGTERM');
      const { status } = await child.result(10_000);
      expect(status, `status of vlo after SIGTERM\n${child.tail()}`).toBe(0);
    },
  };
}

/** A block device of the back end under test. */
export function startBlk(ws: Workspace, options: BlkOptions): Promise<Backend> {
  if (USING_QSD) return startQsd(ws, options);
  const socket = options.socket ?? 'blk.sock';
  const args = ['serve', 'blk', '--socket-path', ws.path(socket)];
  args.push('--blk-file', ws.path(options.image));
  if (options.readOnly) args.push('--read-only');
  if (options.numQueues) args.push('--num-queues', String(options.numQueues));
  if (options.packed === false) args.push('--no-packed');
  return startVlo(ws, args, socket);
}

/** An entropy device of ours. */
export function startRng(ws: Workspace, socket = 'rng.sock'): Promise<Backend> {
  return startVlo(ws, ['serve', 'rng', '--socket-path', ws.path(socket)], socket);
}

/** qemu-storage-daemon's vhost-user-blk: the back end that our front end is tested against, too. */
export async function startQsd(ws: Workspace, options: BlkOptions): Promise<Backend> {
  const socket = options.socket ?? 'blk.sock';
  const writable = options.readOnly ? 'off' : 'on';
  const file = inPeers(options.image);
  // locking=off: after a migration, and after a kill, two processes hold the same image for a
  // moment.
  const child = spawnInPeers(ws, [
    'qemu-storage-daemon',
    ...['--object', 'iothread,id=io0'],
    '--blockdev',
    `driver=file,filename=${file},node-name=f0,discard=unmap,locking=off`,
    ...['--blockdev', 'driver=raw,file=f0,node-name=d0,discard=unmap'],
    '--export',
    `type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=${inPeers(socket)},` +
      `writable=${writable},iothread=io0,num-queues=${options.numQueues ?? 1}`,
    ...['--pidfile', inPeers(`${socket}.pid`)],
  ]);
  await until('qemu-storage-daemon is ready', 10_000, () => {
    if (!child.running) throw new Error(`qemu-storage-daemon ended early\n${child.tail()}`);
    const pidFile = ws.path(`${socket}.pid`);
    return existsSync(pidFile) && statSync(pidFile).size > 0;
  });
  return { socket, child, kill: () => child.kill(), stop: () => child.kill() };
}
