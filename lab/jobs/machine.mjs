/**
 * The guest as a virtual machine of our device processes: they run on the host, QEMU is their front
 * end (vhost-user-input-pci, -gpio-pci, -snd-pci), and the kernel's own drivers find them on the
 * PCI bus, with split and with packed rings. The module is not needed. QEMU has nothing for console
 * and CAN: its vhost-user-device-pci, which takes any type, cannot be created in 10.0.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { check, fact } from './support/checks.mjs';
import { asEvents, asLine, identify, mixedReports } from './support/input-panel.mjs';
import { EV, Reader, writeEvent } from './support/input-stand.mjs';
import { get, useSimulatedChip } from './support/libgpiod.mjs';
import { GuestDevice } from './support/machine.mjs';
import { DEVICES } from './support/machine-devices.mjs';
import { run, waitFor } from './support/programs.mjs';
import { folder } from './support/stand.mjs';
import { ARCH, modprobe, RUN } from './support/system.mjs';
import { difference, HEADER_SIZE, writeWav } from './support/wav.mjs';

const CHECK = { timeout: ARCH === 'x86-64' ? 60_000 : 200_000 };
const CAPS = 1;
const RATE = 48000;
const PERIODS = ['--period-size=960', '--buffer-size=7680'];

/** One report of many events: they arrive together. */
const LONG_REPORT = Array.from({ length: 11 }, (_, i) => [EV.ABS, 0x35 + (i & 1), 50_000 - i]);

const guestDevices = DEVICES.map((device) => new GuestDevice(device));

/** All devices have their drivers, and the rings that they were to have. */
async function look() {
  const features = {};
  for (const device of guestDevices) {
    await device.waitForNode();
    features[device.name] = device.ringFeatures();
    if (features[device.name].includes('packed') !== (device.ring === 'packed')) {
      throw new Error(`${device.name}: rings with ${features[device.name]}`);
    }
  }
  fact('ring features', features);
  return guestDevices.map(({ name, node }) => `${name} ${node}`).join(', ');
}

/** Events are exactly those that the host tells. */
async function readEvents(device, reports) {
  const reader = await Reader.open(device.node, folder('input'));
  // A new driver is told first what the keys and axes are now.
  const first = [EV.MSC, 4, 4711];
  device.write(asLine([first]));
  await reader.skipTo(first);
  device.write(...reports.map((events) => asLine(events)));
  await reader.expect(asEvents(reports), 40_000);
  await reader.close();
  return `${reader.count} events`;
}

async function setLeds(device) {
  const from = device.log.length;
  writeEvent(device.node, EV.LED, CAPS, 1);
  await device.waitForLog(/LED_CAPSL is on/, from);
  writeEvent(device.node, EV.LED, CAPS, 0);
  await device.waitForLog(/LED_CAPSL is off/, from);
}

async function useInput(device) {
  const facts = await identify(device.node, (line) => device.write(line));
  const count = await readEvents(device, [...mixedReports(60), LONG_REPORT]);
  await setLeds(device);
  return `${device.node}: ${facts}, ${count}, LEDs`;
}

/** The file that the host made of what was played last on the first stream. */
function lastTake(device) {
  const takes = readdirSync(device.folder)
    .map((name) => Number(/^out-0-(\d+)\.wav$/.exec(name)?.[1] ?? 0))
    .sort((a, b) => a - b);
  return device.path(`out-0-${takes.at(-1)}.wav`);
}

const pcm = (device) => `hw:${device.node},0`;

/** What aplay plays is in a file of the host's, byte for byte. */
async function play(device, seconds) {
  const file = writeWav(join(folder('sound'), 'song.wav'), { frameCount: seconds * RATE });
  const { stderr } = await run(['aplay', '-D', pcm(device), ...PERIODS, file]);
  if (/xrun|underrun/i.test(stderr)) throw new Error(stderr);
  const [sent, heard] = [file, lastTake(device)].map((path) => readFileSync(path));
  if (!sent.equals(heard)) throw new Error(difference(sent, heard));
  return `${sent.length} bytes played`;
}

/** What arecord records is a file of the host's. */
async function record(device, seconds) {
  const copy = join(folder('sound'), 'copy.wav');
  const { stderr } = await run([
    ...['arecord', '-D', pcm(device), '-f', 'S16_LE', '-r', `${RATE}`, '-c', '2'],
    ...['-d', `${seconds}`, ...PERIODS, copy],
  ]);
  if (/overrun/i.test(stderr)) throw new Error(stderr);
  const [source, got] = [device.path('in.wav'), copy].map((path) =>
    readFileSync(path).subarray(HEADER_SIZE),
  );
  if (got.length < seconds * RATE * 4) throw new Error(`only ${got.length} bytes`);
  if (!got.equals(source.subarray(0, got.length))) throw new Error(difference(source, got));
  return `${got.length} bytes recorded`;
}

/** Events of the device: a jack is pulled and plugged in. */
async function pullJack(device) {
  const isOn = async () => {
    const words = ['cget', "iface=CARD,name='Line Out Jack'"];
    return /values=on/.test((await run(['amixer', '-c', device.node, ...words])).stdout);
  };
  if (!(await isOn())) throw new Error('the jack is off at first');
  await device.say('jack 0 off');
  await waitFor(async () => !(await isOn()), 'event of a plug that was pulled');
  await device.say('jack 0 on');
  await waitFor(isOn, 'event of a plug');
  return 'jacks';
}

async function useSound(device) {
  const played = await play(device, 3);
  const recorded = await record(device, 3);
  return `card ${device.node}: ${played}, ${recorded}, ${await pullJack(device)}`;
}

const USES = {
  input: useInput,
  gpio: (device) => useSimulatedChip(device.node, device),
  sound: useSound,
};

/** Another round with the same device process: reset, features, queues. */
const AGAIN = {
  input: (device) => readEvents(device, mixedReports(3)),
  gpio: async (device) => {
    for (const value of [1, 0]) {
      await device.say(`set button=${value}`);
      if ((await get(device.node, 'button')) !== value) throw new Error(`button is not ${value}`);
    }
    return 'button read';
  },
  sound: (device) => play(device, 1),
};

async function rebind(device) {
  await device.rebind();
  return AGAIN[device.type](device);
}

export default async function machine() {
  const areThere = await check('the drivers find their devices', async () => {
    for (const name of ['evdev', 'virtio_input']) await modprobe(name);
    // Its second for each answer may be too short where all is emulated.
    await modprobe('virtio_snd', 'msg_timeout_ms=30000');
    await run(['insmod', `${RUN}/gpio-virtio.ko`]);
    return look();
  });
  if (!areThere) return;
  for (const device of guestDevices) {
    await check(`${device.type}, ${device.ring} rings`, () => USES[device.type](device), CHECK);
  }
  for (const device of guestDevices) {
    const title = `${device.type}, ${device.ring} rings: the driver lets go and comes back`;
    await check(title, () => rebind(device), CHECK);
  }
  await check('the drivers go', async () => {
    for (const name of ['virtio_input', 'virtio_snd', 'gpio-virtio']) await run(['rmmod', name]);
    for (const { virtio } of guestDevices) {
      if (existsSync(join(virtio, 'driver'))) throw new Error(`${virtio} has a driver`);
    }
  });
}
