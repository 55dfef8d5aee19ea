/**
 * loopback against VDUSE without an adapter on its way: qemu-storage-daemon behind loopback, as a
 * vhost-user back end, and behind VDUSE, which it speaks itself. `vlo bench transports` runs the
 * same vhost-user process behind both, and over VDUSE its interrupts pass the adapter; here they
 * do not. Prints medians of interleaved rounds and their ratio; judges nothing.
 *
 *   npm run lab -- native-vduse [-- --rounds 3 --seconds 3]
 */

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { check, fact, print } from './support/checks.mjs';
import { run } from './support/programs.mjs';
import { attach, folder, makeImage, serveWithQemu } from './support/stand.mjs';
import { insertModule, modprobe } from './support/system.mjs';
import { exportOverVduse } from './support/vduse-export.mjs';

const SIZE = 64 * 2 ** 20;
const FIO_MS = 120_000;

const WORK = [
  { title: '4 KiB random read, depth 1', rw: 'randread', bs: '4k', iodepth: 1 },
  { title: '4 KiB random read, depth 32', rw: 'randread', bs: '4k', iodepth: 32 },
  { title: '4 KiB random write, depth 1', rw: 'randwrite', bs: '4k', iodepth: 1 },
  { title: '4 KiB random write, depth 32', rw: 'randwrite', bs: '4k', iodepth: 32 },
  { title: '128 KiB sequential read, depth 8', rw: 'read', bs: '128k', iodepth: 8 },
];

/** An image without holes: reading one costs less. */
async function fullImage(place, name) {
  const image = makeImage(join(place, name), SIZE);
  await run(['dd', 'if=/dev/urandom', `of=${image}`, 'bs=1M', 'count=64', 'status=none']);
  return image;
}

async function overLoopback(place) {
  const socket = join(place, 'socket');
  await serveWithQemu(socket, await fullImage(place, 'loopback.img'));
  const words = ['--transport', 'loopback', '--name', 'loopback'];
  return (await attach('blk', socket, words)).node;
}

async function iops(node, { rw, bs, iodepth }, seconds) {
  const { stdout } = await run(
    [
      ...['fio', '--name=bench', `--filename=${node}`, `--rw=${rw}`, `--bs=${bs}`],
      ...[`--iodepth=${iodepth}`, '--ioengine=io_uring', '--direct=1', '--time_based'],
      ...[`--runtime=${seconds}`, '--ramp_time=1', '--output-format=json', '--norandommap'],
    ],
    { timeout: FIO_MS },
  );
  const [{ read, write }] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
  return read.iops + write.iops;
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

export default async function nativeVduse(words) {
  const { values } = parseArgs({
    args: words,
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '3' },
    },
  });
  const nodes = {};
  await check('qemu-storage-daemon behind loopback and behind VDUSE', async () => {
    for (const name of ['virtio_blk', 'vduse', 'virtio_vdpa']) await modprobe(name);
    await insertModule();
    const place = folder('native');
    nodes.loopback = await overLoopback(place);
    const { node } = await exportOverVduse('native', await fullImage(place, 'vduse.img'));
    nodes.vduse = node;
    return `${nodes.loopback}, ${nodes.vduse}`;
  });
  for (const work of WORK) {
    await check(work.title, async () => {
      const rates = { loopback: [], vduse: [] };
      for (let round = 0; round < Number(values.rounds); round += 1) {
        for (const [name, list] of Object.entries(rates)) {
          list.push(Math.round(await iops(nodes[name], work, Number(values.seconds))));
        }
      }
      fact(work.title, rates);
      const [loopback, vduse] = [median(rates.loopback), median(rates.vduse)];
      print(`     loopback ${rates.loopback.join(', ')}; VDUSE ${rates.vduse.join(', ')} IOPS`);
      return `loopback ${loopback}, VDUSE ${vduse}: ${(loopback / vduse).toFixed(2)}x`;
    });
  }
}
