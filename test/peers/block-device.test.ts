/** A block device of the host (a loop device) as the image, through libblkio. */

import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { startVlo, USING_QSD } from './support/backend.ts';
import { describeWithPeers, inPeers, mustRunInPeers } from './support/peers.ts';
import { run, Workspace } from './support/process.ts';

const MiB = 1024 * 1024;

async function attachLoop(file: string): Promise<string> {
  const { status, stdout, stderr } = await run('losetup', ['--find', '--show', file]);
  expect(status, `losetup: ${stderr}`).toBe(0);
  const node = stdout.trim();
  onTestFinished(async () => {
    await run('losetup', ['--detach', node]);
  });
  return node;
}

describeWithPeers('a block device as the image', () => {
  for (const direct of [[], ['--direct']]) {
    test(`is written, read, zeroed and discarded ${direct.join('')}`, async (context) => {
      if (USING_QSD) context.skip('this is about our own back end');
      const ws = new Workspace();
      const file = ws.path(ws.sparse('disk.img', 16 * MiB));
      const node = await attachLoop(file);
      const socket = ['--socket-path', ws.path('blk.sock')];
      const backend = await startVlo(
        ws,
        ['serve', 'blk', ...socket, '--blk-file', node, ...direct],
        'blk.sock',
      );
      const image = `driver=virtio-blk-vhost-user,path=${inPeers('blk.sock')},cache.direct=on`;
      const commands = ['write -P 0x5a 4k 2M', 'read -P 0x5a 4k 2M', 'write -P 0x66 512 1536'];
      commands.push('write -z 64k 64k', 'read -P 0 64k 64k', 'write -z -u 1M 512k');
      commands.push('read -P 0 1M 512k', 'discard 128k 128k', 'flush');
      const args = commands.flatMap((command) => ['-c', command]);
      const out = await mustRunInPeers(ws, ['qemu-io', '--image-opts', image, ...args]);
      expect(out).not.toMatch(/failed|error|invalid/i);
      await backend.stop();
      await run('sync', []);
      const bytes = readFileSync(file);
      const holds = (from: number, to: number, byte: number): boolean =>
        bytes.subarray(from, to).every((value) => value === byte);
      expect(holds(512, 2048, 0x66)).toBe(true);
      expect(holds(4096, 65536, 0x5a)).toBe(true);
      expect(holds(65536, 2 * 65536, 0)).toBe(true);
      expect(holds(256 * 1024, MiB, 0x5a)).toBe(true);
      expect(holds(MiB, MiB + 512 * 1024, 0)).toBe(true);
    });
  }
});
