/**
 * Input of device processes under the kernel's own driver: evtest knows the device, the kernel's
 * node delivers exactly what was scripted, also at 10,000 events a second; LEDs; a device process
 * that dies; user loopback through uinput, and what that made as the real device behind another
 * one, unplugged and back. At last figures against uinput.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { check, fact, figure, skip } from './support/checks.mjs';
import { asEvents, asLine, DEVICE, identify, mixedReports } from './support/input-panel.mjs';
import { EV, Reader, ScriptPipe, SYN, writeEvent } from './support/input-stand.mjs';
import { PATIENCE, run, start, waitFor } from './support/programs.mjs';
import { attach, folder, serve, waitForNoDevices } from './support/stand.mjs';
import { insertModule, modprobe, removeModule } from './support/system.mjs';

const SLOW_MS = 200_000;
const LOOPBACK = ['--transport', 'loopback'];
const [KEY_A, KEY_B, CAPS, MISC] = [30, 48, 1, 0x28];

/** What the checks share. */
const stand = {};

async function bringUp() {
  const place = folder('input');
  stand.place = place;
  stand.script = new ScriptPipe(join(place, 'script'), DEVICE);
  stand.socket = join(place, 'socket');
  stand.device = await serve('input', stand.socket, ['--script', stand.script.path]);
  const { program, node } = await attach('input', stand.socket, LOOPBACK);
  if (!/^\/dev\/input\/event\d+$/.test(node ?? '')) throw new Error(`the node is '${node}'`);
  Object.assign(stand, { program, node });
  return node;
}

async function deliverAll() {
  const reader = await Reader.open(stand.node, stand.place);
  const reports = mixedReports(60);
  stand.script.write(...reports.map((events) => asLine(events)));
  await reader.expect(asEvents(reports));
  await reader.close();
  return `${reader.count} events`;
}

/** Five events each half a millisecond. */
/** 20,000 events in reports that are due 10,000 events a second. */
const fastReports = () =>
  Array.from({ length: 4000 }, (_, i) => [
    [EV.REL, 0, i + 1],
    [EV.REL, 1, -i - 1],
    [EV.REL, 8, 1],
    [EV.ABS, MISC, (i + 1) & 1],
  ]);
const fastLines = (reports) =>
  reports.map((events) => `${JSON.stringify(asLine(events, { after: 0.5 }))}\n`).join('');

/** Reads all that was told, and tells how fast it came, by the kernel's clock. */
async function readFast(reader, reports, ms) {
  await reader.expect(asEvents(reports), ms);
  await reader.close();
  const events = reader.events();
  const rate = Math.round(events.length / (events.at(-1)[3] - events[0][3]));
  return { rate, text: `${events.length} events, ${rate} a second` };
}

/** Lines are read while they are due: where all is emulated, that may take longer. */
async function deliverFast() {
  const reader = await Reader.open(stand.node, stand.place);
  const reports = fastReports();
  // Not by this process, which would stand still while the pipe is full.
  const input = fastLines(reports);
  const feed = start(['sh', '-c', `exec cat >${stand.script.path}`], { input });
  const { rate, text } = await readFast(reader, reports, 60_000);
  await feed.ended;
  fact('events_per_second_of_pipe', rate);
  return text;
}

/** The lines of a file were read before. */
async function playFile() {
  const path = join(stand.place, 'script.jsonl');
  const socket = join(stand.place, 'file-socket');
  const reports = fastReports();
  const pauseMs = 5000 * PATIENCE;
  // The pause is for the reader.
  const begin = [{ device: DEVICE }, asLine([[EV.MSC, 4, 1]], { after: pauseMs })];
  const lines = begin.map((line) => `${JSON.stringify(line)}\n`).join('');
  writeFileSync(path, lines + fastLines(reports));
  const device = await serve('input', socket, ['--script', path]);
  const { program, node } = await attach('input', socket, LOOPBACK);
  const reader = await Reader.open(node, stand.place);
  await reader.skipTo([EV.MSC, 4, 1]);
  const { rate, text } = await readFast(reader, reports, 60_000 + pauseMs);
  await program.stop();
  await device.stop();
  fact('events_per_second_of_file', rate);
  return text;
}

async function setLeds() {
  writeEvent(stand.node, EV.LED, CAPS, 1);
  await stand.device.waitForOutput(/LED_CAPSL is on/, 20_000);
  writeEvent(stand.node, EV.LED, CAPS, 0);
  await stand.device.waitForOutput(/LED_CAPSL is off/, 20_000);
}

/** A key is held when the device process dies; its successor does not know of it. */
async function replaceDevice() {
  const reader = await Reader.open(stand.node, stand.place);
  stand.script.write({ key: 'KEY_A', value: 1 });
  const held = [[EV.KEY, KEY_A, 1], SYN];
  await reader.expect(held);
  await stand.device.stop('SIGKILL');
  stand.script.introduce();
  stand.device = await serve('input', stand.socket, ['--script', stand.script.path]);
  const released = [...held, [EV.KEY, KEY_A, 0]];
  await waitFor(() => reader.count > released.length, 'release of the key', 30_000);
  stand.script.write({ key: 'KEY_B', value: 1 }, { key: 'KEY_B', value: 0 });
  const seen = () => reader.events().map((event) => event.slice(0, 3).join(' '));
  await waitFor(() => seen().includes(`1 ${KEY_B} 0`), 'keys of the next process', 30_000);
  const keys = seen().filter((event) => event.startsWith('1 '));
  const wanted = [`1 ${KEY_A} 1`, `1 ${KEY_A} 0`, `1 ${KEY_B} 1`, `1 ${KEY_B} 0`];
  if (keys.join() !== wanted.join()) throw new Error(`keys: ${keys.join()}`);
  await setLeds();
  await reader.close();
}

async function takeDown() {
  const status = await stand.program.stop();
  if (status !== 0) throw new Error(`vlo attach ended with ${status}: ${stand.program.stderr}`);
  await waitForNoDevices();
}

/** The user transport: the node is uinput's. */
async function attachUser() {
  const words = ['--transport', 'user', '--run-dir', join(stand.place, 'run')];
  const { program, node } = await attach('input', stand.socket, words);
  if (!/^\/dev\/input\/event\d+$/.test(node ?? '')) {
    throw new Error(`the node is '${node}': ${program.stderr}`);
  }
  return { program, node };
}

function needUinput() {
  if (!stand.hasUinput) skip('this kernel has no uinput');
}

async function userLoopback() {
  needUinput();
  stand.user = await attachUser();
  const reader = await Reader.open(stand.user.node, stand.place);
  const reports = mixedReports(20);
  stand.script.write(...reports.map((events) => asLine(events)));
  await reader.expect(asEvents(reports));
  await reader.close();
  return stand.user.node;
}

/** What uinput made is the real device behind a second device process. */
async function passThrough() {
  needUinput();
  const socket = join(stand.place, 'evdev');
  stand.evdev = await serve('input', socket, ['--evdev-path', stand.user.node]);
  const { program, node } = await attach('input', socket, LOOPBACK);
  Object.assign(stand, { program, node });
  const { stdout } = await run(['cat', '/proc/bus/input/devices']);
  const names = stdout.match(/Name="Lab panel"/g) ?? [];
  if (names.length !== 2) throw new Error(`not two panels: ${stdout}`);
  const [reader, deprived] = [
    await Reader.open(node, stand.place),
    await Reader.open(stand.user.node, stand.place),
  ];
  const reports = mixedReports(40, 101);
  stand.script.write(...reports.map((events) => asLine(events)));
  await reader.expect(asEvents(reports));
  if (deprived.count > 0) throw new Error('a grabbed device told others of its events');
  await Promise.all([reader.close(), deprived.close()]);
  const before = stand.device.stderr.length;
  writeEvent(node, EV.LED, CAPS, 1);
  const lit = () => /LED_CAPSL is on/.test(stand.device.stderr.slice(before));
  await waitFor(lit, 'LED, the whole way', 20_000);
  return `${node} behind ${stand.user.node}`;
}

async function unplug() {
  needUinput();
  const reader = await Reader.open(stand.node, stand.place);
  stand.script.write({ key: 'KEY_A', value: 0 }, { key: 'KEY_A', value: 1 });
  const seen = () => reader.events().map((event) => event.slice(0, 3).join(' '));
  await waitFor(() => seen().includes(`1 ${KEY_A} 1`), 'key', 20_000);
  const { node } = stand.user;
  await stand.user.program.stop();
  await stand.evdev.waitForOutput(/is lost \(unplugged\)/, 20_000);
  const isReleased = () => seen().lastIndexOf(`1 ${KEY_A} 0`) > seen().lastIndexOf(`1 ${KEY_A} 1`);
  await waitFor(isReleased, 'release of the key', 20_000);
  stand.user = await attachUser();
  if (stand.user.node !== node) throw new Error(`${node} came back as ${stand.user.node}`);
  await stand.evdev.waitForOutput(/is back/, 20_000);
  await sleep(100);
  stand.script.write({ key: 'KEY_B', value: 1 }, { key: 'KEY_B', value: 0 });
  await waitFor(() => seen().includes(`1 ${KEY_B} 0`), 'keys after the return', 20_000);
  await reader.close();
}

/** Reports of three events as fast as they go, until the last one, which is a key, is read. */
async function measure(place, node, tellAll) {
  const reader = await Reader.open(node, place);
  const startedAt = performance.now();
  await tellAll();
  const marker = Buffer.from([1, 0, KEY_B, 0, 1, 0, 0, 0]);
  await waitFor(() => reader.bytes.includes(marker), 'last event', 60_000);
  const lastAt = reader.events().at(-1)[3];
  const seconds = lastAt - (performance.timeOrigin + startedAt) / 1000;
  await reader.close();
  return seconds;
}

const REPORTS = 10_000;
/** Events of all reports: two movements and the end of each. */
const EVENTS = REPORTS * 3;

async function figures() {
  needUinput();
  const { UinputFile } = await import('../../dist/native/index.js');
  const { input } = await import('../../dist/devices/index.js');
  const { NullInput } = await import('../../dist/devices/input/backend-null.js');
  const { InputDevice } = await import('../../dist/devices/input/device.js');
  const { describeDevice } = await import('../../dist/devices/input/script.js');
  const { DeviceProcess } = await import('../../dist/kit/index.js');
  const { BackEndServer } = await import('../../dist/vhost-user/index.js');
  const place = folder('figures');
  const native = new UinputFile('/dev/uinput', () => {});
  native.addCodes(EV.KEY, [KEY_A, KEY_B]);
  native.addCodes(EV.REL, [0, 1]);
  const ids = { bustype: 6, vendor: 0, product: 0, version: 1 };
  const node = native.create('Lab uinput', ids);
  const nativeSeconds = await measure(place, node, () => {
    native.put(2, ...SYN);
    for (let i = 1; i <= REPORTS; i += 1) {
      native.put(0, EV.REL, 0, i);
      native.put(1, EV.REL, 1, i);
      native.write(3);
    }
    native.put(0, EV.KEY, KEY_B, 1);
    native.put(1, ...SYN);
    native.write(2);
  });
  native.close();
  const source = new NullInput(describeDevice(DEVICE));
  // Options that pass its own schema, and that nobody looks at.
  const definition = { ...input, open: (_options, host) => new InputDevice(source, host).open() };
  const device = await DeviceProcess.open(definition, { script: '-' });
  const path = join(place, 'socket');
  const server = new BackEndServer(device, { path });
  device.listener = server;
  await server.start();
  const attached = await attach('input', path, LOOPBACK);
  const seconds = await measure(place, attached.node, () => {
    for (let i = 1; i <= REPORTS; i += 1) source.tell([EV.REL, 0, i], [EV.REL, 1, i]);
    source.tell([EV.KEY, KEY_B, 1]);
  });
  await attached.program.stop();
  await server.close();
  await device.close();
  const [ours, theirs] = [seconds, nativeSeconds].map((time) => Math.round(EVENTS / time));
  return figure('input', 'events/s', ours, theirs, 'uinput');
}

const slowCheck = (name, action) => check(name, action, { timeout: SLOW_MS });

export default async function input() {
  await check('the modules load', async () => {
    for (const name of ['virtio_input', 'evdev']) await modprobe(name);
    // Debian's kernel for riscv64 has no uinput.
    stand.hasUinput = (await run(['modprobe', 'uinput'], { status: null })).status === 0;
    await insertModule();
  });
  await slowCheck('a scripted device appears', bringUp);
  await check('evtest knows it', () => identify(stand.node, (line) => stand.script.write(line)));
  await check('events are exactly the scripted ones', deliverAll);
  await check('10,000 events a second, from a pipe', deliverFast);
  await slowCheck('10,000 events a second, from a file', playFile);
  await check('LEDs reach the device', setLeds);
  await slowCheck('a device process dies: no key stays pressed', replaceDevice);
  await check('it is taken down', takeDown);
  await slowCheck('user loopback makes an event device', userLoopback);
  await slowCheck('a real event device, grabbed, with its LEDs', passThrough);
  await slowCheck('the real device is unplugged, and comes back', unplug);
  await check('all is taken down', async () => {
    await takeDown();
    await stand.evdev?.stop();
    await stand.user?.program.stop();
    await stand.device.stop();
    stand.script.close();
  });
  await slowCheck('figures', figures);
  await check('no device is left, and the module goes', async () => {
    await waitForNoDevices();
    await removeModule();
  });
}
