/** A HAL with many devices: how soon all are ready, the memory they take, and that they rest. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cpuTimeDuring, residentMegabytes } from './machine.mjs';
import { PROJECT, sleep } from './programs.mjs';

/** @typedef {import('./programs.mjs').Workbench} Workbench */
/** @typedef {import('./solo.mjs').Solo} Solo */

const READY = /: up: \d+ devices/;
const IDLE_MS = 3000;
/** Time in milliseconds after the last request in which a loop may still look at its ring. */
const SETTLE_MS = 1000;

/** @param {Workbench} bench @param {number} count @param {string | null} group */
function writeConfig(bench, count, group) {
  const devices = Array.from({ length: count }, (_, i) => {
    const shared = group === null ? '' : `, group: ${group}`;
    return `  disk${i}: { type: blk, image: disk${i}.img, size: 64MiB${shared} }\n`;
  });
  const path = bench.path('hal.yaml');
  writeFileSync(path, `devices:\n${devices.join('')}`);
  return path;
}

/**
 * Brings a HAL up once.
 * @param {Workbench} bench
 * @param {number} count
 * @param {string | null} group
 */
async function runOnce(bench, count, group) {
  const config = writeConfig(bench, count, group);
  const vlo = [process.execPath, join(PROJECT, 'dist/cli/vlo.js')];
  const command = [...vlo, 'up', config, '--run-dir', bench.path('run')];
  let ready = 0;
  const onOutput = ({ stderr }) => {
    if (READY.test(stderr)) ready ||= performance.now();
  };
  const program = bench.start(command, { timeoutMs: 120_000, bare: true, onOutput });
  await program.until(() => ready > 0, 60_000);
  await sleep(SETTLE_MS);
  const status = bench.start([...vlo, 'status', '--json', '--run-dir', bench.path('run')]);
  const { devices } = JSON.parse(await status.output());
  const pids = [...new Set(devices.map((device) => device.backEnd.process.pid))];
  const memory = [program.pid, ...pids].map(residentMegabytes);
  const used = await Promise.all([program.pid, ...pids].map((pid) => cpuTimeDuring(pid, IDLE_MS)));
  await program.stop(true);
  return {
    command: bench.show(command),
    ms: ready - program.started,
    total: memory.reduce((a, b) => a + b),
    hal: memory[0],
    ticks: used.reduce((sum, { ticks }) => sum + ticks, 0),
  };
}

/** @type {Readonly<Record<string, { bar?: number, aim?: number }>>} */
const START = { 10: { bar: 3000, aim: 1500 } };
const MEMORY = { alone: { bar: 80, aim: 55 }, group: { bar: 15, aim: 5 } };

/**
 * Time until all devices are ready, resident memory for each (all processes, divided by the
 * devices), and CPU time when idle, for several numbers of devices, each alone and in one group.
 * @param {Workbench} bench
 * @param {boolean} smoke
 * @returns {Promise<Solo[]>}
 */
export async function manyDevices(bench, smoke) {
  const table = [];
  for (const count of smoke ? [2] : [1, 10, 50]) {
    for (const group of [null, 'g']) {
      const runs = [];
      for (let i = 0; i < (smoke ? 1 : 3); i += 1) runs.push(await runOnce(bench, count, group));
      const where = group === null ? '' : ', one group';
      const title = `vlo up, ${count} devices${where}`;
      const commands = [runs[0].command];
      table.push({
        ...{ title: `${title}: all ready`, unit: 'ms', commands, ...START[count] },
        values: runs.map(({ ms }) => ms),
      });
      table.push({
        ...{ title: `${title}: memory for each`, unit: 'MB', commands },
        // With one device the HAL's own process is not shared by anything.
        ...(count === 1 ? {} : MEMORY[group === null ? 'alone' : 'group']),
        values: runs.map(({ total }) => total / count),
        notes: [`${title}: ${Math.round(runs[0].hal)} MB of it are the HAL's process`],
      });
      if (count !== 10) continue;
      table.push({
        ...{ title: `${title}: idle CPU, 3 s`, unit: 'ticks', bar: 0, aim: 0, commands },
        values: runs.map(({ ticks }) => ticks),
      });
    }
  }
  return table;
}

export const HAL_ROWS = [{ id: '10', title: 'vlo up', unit: '', solo: manyDevices }];
