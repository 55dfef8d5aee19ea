/** User-Mode Linux: the kernel's own virtio drivers as a front end, natively, in seconds. */

import { writeFileSync } from 'node:fs';
import { inPeers, spawnInPeers } from './peers.ts';
import type { Workspace } from './process.ts';

export interface UmlDevice {
  /** Socket in the workspace. */
  readonly socket: string;
  readonly virtioId: number;
}

export interface UmlResult {
  /** Status of the script; null when it did not come to its end. */
  readonly status: number | null;
  /** All that came out: the kernel's messages (warnings and worse), then the script's. */
  readonly console: string;
}

/**
 * Boots, loads the modules, runs a bash script with /sock as the workspace, and powers off. The
 * script has the peers folder as its root, read-only; /tmp is its own, and file systems can be
 * mounted on /mnt.
 */
export async function runUml(
  ws: Workspace,
  devices: readonly UmlDevice[],
  script: string,
  { modules = ['virtio_blk'], timeoutMs = 60_000 } = {},
): Promise<UmlResult> {
  writeFileSync(ws.path('uml-script'), script);
  const child = spawnInPeers(ws, [
    '/opt/uml/linux',
    ...['mem=256M', 'quiet', 'root=/dev/root', 'rootfstype=hostfs', 'hostfs=/', 'ro'],
    ...['init=/opt/uml/init', `vlo.modules=${modules.join(',')}`, 'con=null', 'con0=fd:0,fd:1'],
    ...devices.map((d, i) => `virtio_uml.device=${inPeers(d.socket)}:${d.virtioId}:${i + 1}`),
  ]);
  const { stdout, stderr } = await child.result(timeoutMs);
  const status = /^@@STATUS (\d+)/m.exec(stdout);
  return { status: status ? Number(status[1]) : null, console: `${stdout}\n${stderr}` };
}
