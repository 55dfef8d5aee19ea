/** Checks of our back end alone: its start, its memory, and that it rests when nothing is asked. */

import { join } from 'node:path';
import { cpuTimeDuring, residentMegabytes } from './machine.mjs';
import { PROJECT, READY, sleep, startOurs } from './programs.mjs';

/** @typedef {import('./programs.mjs').Workbench} Workbench */

/**
 * @typedef {object} Solo one line of the table; less is better
 * @property {string} [title] instead of the row's
 * @property {string} [unit]
 * @property {number} [bar]
 * @property {number} [aim]
 * @property {number[]} values
 * @property {string[]} commands
 * @property {string[]} [notes]
 */

const STARTS = 10;
const MEMORY = { bar: 80, aim: 55 };
/** After the last request it may look at its rings for so long, and then no more. */
const QUIET_AFTER_MS = 100;

/**
 * From spawn to the line that says it is ready; each start is a process of its own.
 * @param {Workbench} bench
 * @param {boolean} smoke
 * @returns {Promise<Solo[]>}
 */
export async function startToListening(bench, smoke) {
  const values = [];
  const program = join(PROJECT, 'dist/cli/vlo.js');
  const files = ['--socket-path', bench.path('7.sock'), '--blk-file', bench.path('disk.img')];
  const command = [process.execPath, program, 'serve', 'blk', ...files];
  // The first start of all reads the program from the disk, and is not counted.
  for (let i = smoke ? 0 : -1; i < (smoke ? 1 : STARTS); i += 1) {
    let ready = 0;
    const onOutput = ({ stderr }) => {
      if (READY.test(stderr)) ready ||= performance.now();
    };
    const server = bench.start(command, { timeoutMs: 10_000, bare: true, onOutput });
    await server.until(() => ready > 0, 10_000);
    if (i >= 0) values.push(ready - server.started);
    await server.stop(true);
  }
  return [{ values, commands: [bench.show(command)] }];
}

/**
 * Memory after a second, then CPU time over two seconds; no front end has connected.
 * @param {Workbench} bench
 * @param {boolean} smoke
 * @returns {Promise<Solo[]>}
 */
export async function idleServer(bench, smoke) {
  const memory = [];
  const cpu = [];
  const notes = [];
  let command = '';
  for (let i = 0; i < (smoke ? 1 : 3); i += 1) {
    const server = await startOurs(bench, '7a-ours');
    command = server.command;
    await sleep(1000);
    memory.push(residentMegabytes(server.program.pid));
    const { ticks, us } = await cpuTimeDuring(server.program.pid, 2000);
    cpu.push(ticks / 2);
    notes.push(`idle for 2 s: ${us} µs of CPU time`);
    await server.program.stop(true);
  }
  const commands = [command];
  return [
    { title: 'vlo serve blk: idle memory', unit: 'MB', ...MEMORY, values: memory, commands },
    {
      title: 'vlo serve blk: idle CPU (1 tick/s: 1 %)',
      unit: 'ticks/s',
      bar: 0,
      aim: 0,
      values: cpu,
      commands,
      notes,
    },
  ];
}

/**
 * CPU time over one second, beginning 100 ms after the last request: once with the client still
 * connected, which is when a back end would go on looking at its rings, and once with it gone.
 * @param {Workbench} bench
 * @param {boolean} smoke
 * @returns {Promise<Solo[]>}
 */
export async function cpuAfterRequests(bench, smoke) {
  const server = await startOurs(bench, '3b-ours');
  const image = ['--image-opts', 'driver=virtio-blk-vhost-user,path=/sock/3b-ours.sock'];
  image[1] += ',cache.direct=on';
  const reads = Array.from({ length: 200 }, (_, i) => ['-c', `read ${i * 4}k 4k`]).flat();
  const client = ['stdbuf', '-oL', 'qemu-io', ...image, ...reads, '-c', 'sleep 1500'];
  const bench1 = ['qemu-img', 'bench', '-c', smoke ? '2000' : '20000', '-d', '1', ...image];
  const [connected, gone] = [[], []];
  const notes = [];
  for (let i = 0; i < (smoke ? 1 : 3); i += 1) {
    await bench.startPeer(bench1).output();
    await sleep(QUIET_AFTER_MS);
    const after = await cpuTimeDuring(server.program.pid, 1000);
    gone.push(after.ticks);

    const program = bench.startPeer(client);
    const lastRead = `bytes at offset ${199 * 4096}\n`;
    await program.until(() => program.stdout.includes(lastRead), 10_000);
    await sleep(QUIET_AFTER_MS);
    const during = await cpuTimeDuring(server.program.pid, 1000);
    if (!program.running) throw program.failure('ended before the measurement');
    connected.push(during.ticks);
    await program.output();
    notes.push(`in 1 s: ${during.us} µs with the client connected, ${after.us} µs with it gone`);
  }
  await server.program.stop(true);
  const shown = bench.show(client).replace(/( -c read \S+ 4k)+/, ' -c "read ..." (200 times)');
  const title = 'CPU 100 ms after the last request';
  return [
    { title: `${title}, client idle`, values: connected, commands: [server.command, shown], notes },
    {
      title: `${title}, client gone`,
      values: gone,
      commands: [server.command, bench.show(bench1)],
    },
  ];
}
