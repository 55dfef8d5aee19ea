/**
 * CAN devices under Linux's virtio_can: two on a simulated bus, one on an interface of the kernel,
 * and one in user loopback. can-utils (cansend, candump, cangen, canfdtest) are the judges.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  addBus,
  HEARD_AFTER,
  heard,
  link,
  measure,
  send,
  statistic,
} from './support/can-tools.mjs';
import { check, figure } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { attach, folder, serve, VLO, waitForNoDevices } from './support/stand.mjs';
import { ARCH, insertModule, modprobe, RUN, removeModule } from './support/system.mjs';

const IS_FOREIGN = ARCH !== 'x86-64';
const READY_MS = 200_000;
const FRAMES = IS_FOREIGN ? 2000 : 10_000;
const TEST_FRAMES = IS_FOREIGN ? 200 : 1000;

/** Frames of each kind, as cansend takes them and candump shows them. */
const KINDS = [
  '123#',
  '7FF#0102030405060708',
  '1FFFFFFF#DEADBEEF',
  '321#R',
  '00ABCDEF#R8',
  '456##011223344556677889900AABB',
  `00000001##0${'5A'.repeat(64)}`,
];

/** cansend wants flags after `##`; what candump -L shows of them depends on its version. */
const plain = (frame) => frame.replace(/##./, '##').replace(/#R0?$/, '#R');

async function exchange(from, to) {
  const listening = await heard(to, KINDS.length);
  for (const frame of KINDS) await send(from, frame);
  const frames = await listening.frames;
  const expected = KINDS.map(plain);
  const seen = frames.map(plain);
  if (JSON.stringify(seen) !== JSON.stringify(expected)) throw new Error(`heard ${seen}`);
}

/** A HAL with two devices on one bus; resolves with it and the names of the interfaces. */
async function bringUp() {
  const place = folder('hal');
  const device = 'type: can, bus: engine, group: engine, transport: loopback';
  const file = join(place, 'hal.yaml');
  writeFileSync(file, `devices:\n  a: { ${device} }\n  b: { ${device} }\n`);
  const words = ['--run-dir', join(place, 'run')];
  const hal = start([...VLO, 'up', file, ...words]);
  const status = () => {
    try {
      return JSON.parse(readFileSync(join(place, 'run/status.json'), 'utf8')).devices;
    } catch {
      return [];
    }
  };
  const devices = await waitFor(
    () => {
      if (hal.status !== null) throw new Error(`vlo up ended: ${hal.stderr}`);
      const found = status();
      return found.length === 2 && found.every(({ state }) => state === 'ready') ? found : null;
    },
    'two devices that are ready',
    READY_MS,
  );
  const names = devices.map(({ presentation }) => presentation);
  if (!names.every((name) => /^can\d+$/.test(name))) throw new Error(`interfaces ${names}`);
  return { hal, names, status };
}

async function testRoundTrips(a, b, words) {
  const echo = start(['canfdtest', ...words, b]);
  await sleep(HEARD_AFTER);
  const { stdout, stderr } = await run(['canfdtest', '-g', '-l', `${TEST_FRAMES}`, ...words, a], {
    timeout: 100_000,
  });
  echo.killAll();
  const text = `${stdout}${stderr}`.replaceAll('\r', '\n').trim().split('\n').at(-1);
  return `${TEST_FRAMES} frames and back: ${text}`;
}

/** The device process dies: the driver knows nothing of it, and nobody sets the links up again. */
async function killDevice({ status, names: [a, b] }) {
  const { pid } = status()[0].backEnd.process;
  process.kill(pid, 'SIGKILL');
  await waitFor(
    () => {
      const found = status();
      const isNew = found.every(
        ({ backEnd, state }) => backEnd.process?.pid !== pid && state === 'ready',
      );
      return isNew ? found : null;
    },
    'a new device process',
    READY_MS,
  );
  await exchange(a, b);
  await exchange(b, a);
}

async function busOff(bus, can) {
  const state = async () => (await run(['ip', '-details', 'link', 'show', can])).stdout;
  await send(bus, '20000040#0000000000000000');
  await waitFor(async () => /state BUS-OFF/.test(await state()), 'state BUS-OFF');
  await run(['ip', 'link', 'set', can, 'type', 'can', 'restart']);
  await waitFor(async () => /state ERROR-ACTIVE/.test(await state()), 'state ERROR-ACTIVE');
  await exchange(can, bus);
  await exchange(bus, can);
}

async function interfaceAway(bus, can, device) {
  await link(bus, 'down');
  const errors = await heard(can, 1, [`${can},0:0,#FFFFFFFF`]);
  await device.waitForOutput(/is down/);
  await send(can, '123#11');
  const [error] = await errors.frames;
  if (!error.startsWith('20000004#')) throw new Error(`heard ${error}`);
  const before = device.stderr.length;
  await run(['ip', 'link', 'del', bus]);
  await addBus(bus);
  await link(bus, 'up');
  await waitFor(() => /is up again/.test(device.stderr.slice(before)), 'interface that is back');
  await exchange(can, bus);
  await exchange(bus, can);
  return `meanwhile candump shows ${error}`;
}

/** Sends as fast as it goes, from one interface to the other, and counts. */
async function compare(a, b, native) {
  const seconds = await measure(a, b, FRAMES, []);
  const lost = seconds.sent - seconds.received;
  if (lost !== 0) throw new Error(`${lost} of ${seconds.sent} frames were lost`);
  const plainVcan = await measure(native, native, FRAMES, []);
  const rates = figure('can', 'frames/s', seconds.rate, plainVcan.rate, 'vcan');
  return `${FRAMES} frames in order, none lost; ${rates}`;
}

const slowCheck = (name, action) => check(name, action, { timeout: READY_MS });

async function simulatedBus() {
  let stand = null;
  await slowCheck('vlo up brings two controllers on a bus up', async () => {
    stand = await bringUp();
    for (const name of stand.names) await link(name, 'up');
    return stand.names.join(', ');
  });
  if (stand === null) return;
  const [a, b] = stand.names;
  await check('cansend and candump: frames of all kinds, both ways', async () => {
    await exchange(a, b);
    await exchange(b, a);
  });
  await check('canfdtest, classic', () => testRoundTrips(a, b, []));
  await check('canfdtest, FD', () => testRoundTrips(a, b, ['-d']));
  await check('cangen at full speed', () => compare(a, b, 'vcan1'));
  await slowCheck('the device process is killed', () => killDevice(stand));
  await check('a controller that is down hears and sends nothing', async () => {
    await link(b, 'down');
    const before = statistic(b, 'rx_packets');
    await send(a, '123#11');
    await link(b, 'up');
    await exchange(a, b);
    const count = statistic(b, 'rx_packets') - before;
    if (count !== KINDS.length) throw new Error(`${count} frames`);
  });
  await slowCheck('vlo up ends', async () => {
    const status = await stand.hal.stop();
    if (status !== 0) throw new Error(`status ${status}: ${stand.hal.stderr}`);
    await waitForNoDevices();
  });
}

async function kernelInterface() {
  const socket = join(folder('can'), 'socket');
  let stand = null;
  await slowCheck('a controller on an interface of the kernel', async () => {
    const device = await serve('can', socket, ['--can-devices', 'vcan0']);
    const { program, node } = await attach('can', socket, ['--transport', 'loopback']);
    await link(node, 'up');
    stand = { device, program, can: node };
    await exchange('vcan0', node);
    await exchange(node, 'vcan0');
    return `${node} on vcan0`;
  });
  if (stand === null) return;
  const { device, program, can } = stand;
  await check('cangen to an interface of the kernel', async () => {
    const { sent, received, rate } = await measure(can, 'vcan0', FRAMES, []);
    if (sent !== received) throw new Error(`${received} of ${sent} frames`);
    return `${sent} frames in order, ${rate} frames/s, each confirmed by the bus`;
  });
  await check('bus-off, and a restart', () => busOff('vcan0', can));
  await check('the interface vanishes and returns', () => interfaceAway('vcan0', can, device));
  await slowCheck('the adapter and the device end', async () => {
    await program.stop();
    await waitForNoDevices();
  });
  await slowCheck('user loopback: a vcan interface', async () => {
    const user = await attach('can', socket, ['--transport', 'user']);
    await exchange(user.node, 'vcan0');
    await exchange('vcan0', user.node);
    const { sent, received, rate } = await measure(user.node, 'vcan0', FRAMES, ['-g', '0.2']);
    await user.program.stop();
    await device.stop();
    return `${user.node}; ${received} of ${sent} frames at ${rate} frames/s`;
  });
}

export default async function can() {
  await check('the modules load', async () => {
    for (const name of ['can-dev', 'can-raw', 'vcan']) await modprobe(name);
    await run(['insmod', join(RUN, 'virtio_can.ko')]);
    await insertModule();
    for (const name of ['vcan0', 'vcan1']) {
      await addBus(name);
      await link(name, 'up');
    }
  });
  await simulatedBus();
  await kernelInterface();
  await slowCheck('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
