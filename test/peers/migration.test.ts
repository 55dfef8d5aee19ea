/**
 * Live migration of a guest between two back end processes on the same image, under verified load.
 * Only block: QEMU does not let a guest with vhost-user-rng migrate.
 */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { LACKS, startBlk } from './support/backend.ts';
import { Guest, vhostUserDevice } from './support/guest.ts';
import { Load } from './support/load.ts';
import { describeWithPeers, inPeers } from './support/peers.ts';
import { sleep, until, Workspace } from './support/process.ts';

interface MigrationState {
  readonly status?: string;
  readonly 'error-desc'?: string;
}

async function migrate(from: Guest, socket: string): Promise<void> {
  await from.qmp('migrate-set-parameters', {
    'max-bandwidth': 1024 ** 3,
    'downtime-limit': 2000,
  });
  await from.qmp('migrate', { uri: `unix:${inPeers(socket)}` });
  await until('migration', 120_000, async () => {
    const state = (await from.qmp('query-migrate')) as MigrationState;
    if (state.status === 'failed') throw new Error(`migration: ${state['error-desc']}`);
    return state.status === 'completed';
  });
}

const rings = [
  { ring: 'split', option: '' },
  { ring: 'packed', option: ',packed=on' },
].filter(({ ring }) => !(ring === 'packed' && LACKS.packed));

describeWithPeers('live migration', () => {
  for (const { ring, option } of rings) {
    test(`${ring} ring: there and back under load, with nothing lost`, async () => {
      const ws = new Workspace();
      const workers = 4;
      ws.sparse('disk.img', Load.size(workers));
      const place = async (name: string, incoming?: string) => {
        const socket = `${name}-blk.sock`;
        const backend = await startBlk(ws, { image: 'disk.img', socket, numQueues: 2 });
        const more = `,num-queues=2${option}`;
        const args = vhostUserDevice('vhost-user-blk-pci', 'd', socket, more);
        const guest = await Guest.boot(ws, { name, args, ...(incoming ? { incoming } : {}) });
        return { guest, backend };
      };
      let here = await place('first');
      let load = await Load.start(here.guest, workers);
      await sleep(2000);
      for (const name of ['second', 'third']) {
        const there = await place(name, `${name}.migration`);
        await migrate(here.guest, `${name}.migration`);
        await here.guest.kill();
        await here.backend.stop();
        here = there;
        load = load.movedTo(here.guest);
        const before = await load.passes();
        await until(`the load goes on from ${before.join(' ')}`, 60_000, async () => {
          await sleep(500);
          return (await load.passes()).every((n, i) => n > before[i]);
        });
      }
      const regions = await load.finish();
      const image = readFileSync(ws.path('disk.img'));
      for (const { offset, length, sha256 } of regions) {
        const content = image.subarray(offset, offset + length);
        expect(createHash('sha256').update(content).digest('hex')).toBe(sha256);
      }
      const messages = await here.guest.must('dmesg');
      expect(messages).not.toMatch(/I\/O error|BUG: |Oops: /);
      await here.guest.kill();
      await here.backend.stop();
    });
  }
});
