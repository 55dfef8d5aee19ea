/**
 * The devices of the job `machine`: what the host serves and QEMU shows to the guest. Read on both
 * sides. Each is there with both kinds of rings: QEMU passes on what the device process offers.
 */

import { DEVICE } from './input-panel.mjs';
import { SIMULATED } from './libgpiod.mjs';
import { writeWav } from './wav.mjs';

const RATE = 48000;
/** The longest that is recorded, twice. */
const CAPTURE_SECONDS = 10;

/**
 * @typedef {object} MachineDevice
 * @property {string} name
 * @property {string} type of `vlo serve`
 * @property {string} model QEMU's device
 * @property {'split' | 'packed'} ring
 * @property {number} slot on the guest's first PCI bus
 * @property {string} [input] first line on standard input; what the guest says comes after it
 * @property {(folder: string, control: string) => string[]} options of `vlo serve`: `folder` is
 *   shared with the guest; where `control` is used, what the guest says goes to that socket
 * @property {(folder: string) => void} [prepare] on the host, before the process starts
 */

/** @type {Record<string, Pick<MachineDevice, 'model' | 'input' | 'options' | 'prepare'>>} */
const TYPES = {
  input: {
    model: 'vhost-user-input-pci',
    input: JSON.stringify({ device: DEVICE }),
    options: () => ['--script', '-'],
  },
  gpio: {
    model: 'vhost-user-gpio-pci',
    options: (_, control) => [...SIMULATED, '--control', control],
  },
  sound: {
    model: 'vhost-user-snd-pci',
    options: (folder, control) => [
      ...['--audio-backend', 'wav', '--streams', '4', '--control', control],
      ...['--playback-file', `${folder}/out-{stream}-{take}.wav`],
      ...['--capture-file', `${folder}/in.wav`],
    ],
    prepare: (folder) => writeWav(`${folder}/in.wav`, { frameCount: CAPTURE_SECONDS * RATE }),
  },
};

/** What QEMU itself puts on the bus comes before it. */
const FIRST_SLOT = 0x10;

/** @type {MachineDevice[]} */
export const DEVICES = Object.entries(TYPES)
  .flatMap(([type, more]) => [
    { name: type, type, ring: 'split', ...more },
    { name: `${type}-packed`, type, ring: 'packed', ...more },
  ])
  .map((device, index) => ({ ...device, slot: FIRST_SLOT + index }));
