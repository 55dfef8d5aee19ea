/**
 * GPIO lines of device processes under the kernel's own driver: libgpiod's tools list, set, get and
 * watch them; a simulated chip, and the kernel's gpio-sim as the real one, which is unplugged too.
 * At last figures: what a change of a line costs, compared with gpio-sim itself.
 */

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { check, figure } from './support/checks.mjs';
import { Control, KernelChip } from './support/gpio-chip.mjs';
import {
  EDGE_MS,
  edgesOf,
  expectEqual,
  get,
  info,
  monitor,
  SIMULATED,
  useSimulatedChip,
  watchEdges,
} from './support/libgpiod.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, folder, serve, waitForNoDevices } from './support/stand.mjs';
import { insertModule, modprobe, RUN, removeModule } from './support/system.mjs';

const SLOW_MS = 200_000;
const ROUNDS = 300;
/** Measured through the device process; the next one is the input, then come the kernel's own. */
const OUTPUT_LINE = 4;

/** A device process and its chip in the kernel. */
async function bringUp(options) {
  const place = folder('gpio');
  const socket = join(place, 'socket');
  const stand = { device: await serve('gpio', socket, options) };
  const { program, node } = await attach('gpio', socket, ['--transport', 'loopback']);
  if (!/^\/dev\/gpiochip\d+$/.test(node ?? '')) throw new Error(`the node is '${node}'`);
  stand.chip = node.slice(5);
  stand.end = async () => {
    const status = await program.stop();
    if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${program.stderr}`);
    await stand.device.stop();
  };
  /** The device process dies, and another takes its place. */
  stand.replace = async () => {
    await stand.device.stop('SIGKILL');
    stand.device = await serve('gpio', socket, options);
    const isBack = () => /reconnected/.test(program.stderr);
    await waitFor(isBack, 'adapter that has found the new process', 30_000);
  };
  return stand;
}

async function useSimulated() {
  const place = folder('control');
  const path = join(place, 'lines');
  const words = [...SIMULATED, '--control', path];
  const { chip, end } = await bringUp(words);
  const control = new Control(path);
  const done = await useSimulatedChip(chip, control);
  control.close();
  await end();
  return done;
}

/** The same over a chip that the kernel believes in. */
async function useReal(chip, sim) {
  for (const [line, name] of sim.names.entries()) {
    const row = await info(chip, line);
    const wanted = name === '' ? 'unnamed' : `"${name}"`;
    if (!row.includes(wanted)) throw new Error(`line ${line} is '${row}', not ${wanted}`);
  }
  for (const value of [1, 0]) {
    const holder = start(['gpioset', '-c', chip, `relay=${value}`]);
    await waitFor(async () => /output/.test(await info(chip, 0)), 'output', 20_000);
    await waitFor(() => sim.value(0) === value, `${value} at the relay`, 20_000);
    if (!/virtio-loopback/.test(await info(sim.name, 0))) throw new Error('nobody has the line');
    await holder.stop();
    if (/virtio-loopback/.test(await info(sim.name, 0))) throw new Error('the line was kept');
  }
  for (const value of [1, 0]) {
    sim.pull(1, value);
    expectEqual(await get(chip, 'switch'), value, 'switch');
  }
  const drive = (value) => sim.pull(1, value);
  await watchEdges(chip, 'switch', 'both', [1, 2, 1, 2], drive);
  await watchEdges(chip, 'switch', 'rising', [1, 1], drive);
  await watchEdges(chip, 'switch', 'falling', [2, 2], drive);
  return `${chip} over ${sim.name}: names, set, get, edges`;
}

/** The chip vanishes under a watch and an output; both go on when it is back. */
async function unplug(chip, sim, device) {
  sim.pull(1, 0);
  const watcher = await monitor(chip, 'switch', 2);
  const holder = start(['gpioset', '-c', chip, 'relay=1']);
  await waitFor(() => sim.value(0) === 1, 'relay', 20_000);
  sim.unplug();
  await waitFor(() => /is gone/.test(device.stderr), 'notice that the chip is gone', 20_000);
  const { status, stderr } = await run(['gpioget', '-c', chip, '3'], { status: null });
  if (status === 0) throw new Error('gpioget read a line that is not there');
  sim.plug();
  await waitFor(() => /there again/.test(device.stderr), 'notice that it is back', 20_000);
  await waitFor(() => sim.value(0) === 1, 'relay that is on again', 20_000);
  for (const value of [1, 0]) {
    await sleep(EDGE_MS);
    sim.pull(1, value);
  }
  expectEqual(await edgesOf(watcher), [1, 2], 'edges after the return');
  await holder.stop();
  expectEqual(await get(chip, 'switch'), 0, 'switch');
  return `gpioget meanwhile: ${stderr.trim()}`;
}

/** The device process is killed under a watch and an output; neither notices. */
async function replace(stand, sim) {
  sim.pull(1, 0);
  const watcher = await monitor(stand.chip, 'switch', 2);
  const holder = start(['gpioset', '-c', stand.chip, 'relay=1']);
  await waitFor(() => sim.value(0) === 1, 'relay', 20_000);
  await stand.replace();
  await waitFor(() => sim.value(0) === 1, 'relay that is on again', 20_000);
  for (const value of [1, 0]) {
    await sleep(2 * EDGE_MS);
    sim.pull(1, value);
  }
  expectEqual(await edgesOf(watcher), [1, 2], 'edges through another process');
  await holder.stop();
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Microseconds of a change of an output. */
function measureChanges({ GPIO_LINE }, file, output) {
  const line = file.request(output, GPIO_LINE.OUTPUT, 0, 'lab');
  const started = performance.now();
  for (let i = 0; i < ROUNDS; i += 1) line.set(i & 1);
  const us = ((performance.now() - started) * 1000) / ROUNDS;
  line.close();
  return us;
}

/** Microseconds from a change outside to the edge here. */
async function measureEdges({ GPIO_LINE, waitReadable }, file, sim, input) {
  const flags = GPIO_LINE.INPUT | GPIO_LINE.EDGE_RISING | GPIO_LINE.EDGE_FALLING;
  sim.pull(input, 0);
  const line = file.request(input, flags, 0, 'lab');
  const latencies = [];
  try {
    await sleep(EDGE_MS);
    for (let i = 0; i < ROUNDS / 3; i += 1) {
      const at = performance.now();
      sim.pull(input, 1 - (i & 1));
      if (waitReadable([line.fd], 5000) < 0) throw new Error(`edge ${i} did not come`);
      latencies.push((performance.now() - at) * 1000);
      line.takeEdges(() => {});
      // The interrupt is unmasked again.
      await sleep(5);
    }
  } finally {
    line.close();
  }
  return median(latencies);
}

async function measure(native, chip, sim, output) {
  const file = new native.GpioChipFile(`/dev/${chip}`);
  try {
    const setUs = measureChanges(native, file, output);
    const edgeUs = await measureEdges(native, file, sim, output + 1);
    return { setsPerSecond: Math.round(1e6 / setUs), setUs, edgeUs };
  } finally {
    file.close();
  }
}

/** Lines 4 and 5 through the device process, 6 and 7 of gpio-sim itself. */
async function compare(chip, sim) {
  const native = await import('../../dist/native/index.js');
  const ours = await measure(native, chip, sim, OUTPUT_LINE);
  const theirs = await measure(native, sim.name, sim, OUTPUT_LINE + 2);
  return [
    figure('gpio changes', '1/s', ours.setsPerSecond, theirs.setsPerSecond, 'gpio-sim'),
    figure('gpio edge latency', 'µs', ours.edgeUs, theirs.edgeUs, 'gpio-sim'),
  ].join('; ');
}

export default async function gpio() {
  await check('the modules load', async () => {
    await insertModule();
    await modprobe('gpio-sim');
    await run(['insmod', `${RUN}/gpio-virtio.ko`]);
  });
  await check('a simulated chip under libgpiod', useSimulated, { timeout: SLOW_MS });
  const names = ['relay', 'switch', '', 'spare', '', '', '', ''];
  let sim = null;
  let real = null;
  await check(
    'a real chip comes up',
    async () => {
      sim = await KernelChip.make('lab-chip', names);
      const state = join(folder('state'), 'lines');
      real = await bringUp(['--device-list', 'lab-chip', '--state', state]);
      return `${sim.name} as ${real.chip}`;
    },
    { timeout: SLOW_MS },
  );
  if (real === null) return;
  await check('gpio-sim under libgpiod', () => useReal(real.chip, sim), { timeout: SLOW_MS });
  await check('throughput and latency', () => compare(real.chip, sim), { timeout: SLOW_MS });
  await check('a chip is unplugged', () => unplug(real.chip, sim, real.device), {
    timeout: SLOW_MS,
  });
  await check('a device process is replaced', () => replace(real, sim), { timeout: SLOW_MS });
  await check('no device is left, and the modules go', async () => {
    await real.end();
    await waitForNoDevices();
    sim.remove();
    await run(['rmmod', 'gpio-virtio']);
    await removeModule();
  });
}
