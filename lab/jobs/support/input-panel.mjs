/** A panel that a script plays: a device of all kinds at once, and what is seen of it. */

import { EV, SYN } from './input-stand.mjs';
import { start } from './programs.mjs';

const [KEY_A, KEY_B] = [30, 48];
const [SLOT, POSITION_X, TRACKING_ID] = [0x2f, 0x35, 0x39];

/** A device of all kinds at once; the many contacts make evdev's buffer for a reader a long one. */
export const DEVICE = {
  ...{ name: 'Lab panel', serial: 'LAB-1', bustype: 3, vendor: 0x1234, product: 0x5678 },
  ...{ version: 0x0102, properties: ['INPUT_PROP_DIRECT'] },
  keys: ['KEY_A', 'KEY_B', 'BTN_TOUCH', 'BTN_LEFT'],
  rel: ['REL_X', 'REL_Y', 'REL_WHEEL'],
  abs: {
    ABS_X: { min: -100, max: 4095, fuzz: 4, flat: 15, res: 10 },
    ABS_MISC: { max: 1 },
    ABS_MT_SLOT: { max: 31 },
    ABS_MT_POSITION_X: { max: 65535 },
    ABS_MT_POSITION_Y: { max: 65535 },
    ABS_MT_TRACKING_ID: { max: 65535 },
  },
  ...{ msc: ['MSC_SCAN'], switches: ['SW_LID'], leds: ['LED_CAPSL', 'LED_NUML'] },
};

const EVTEST = [
  'Input device ID: bus 0x3 vendor 0x1234 product 0x5678 version 0x102',
  'Input device name: "Lab panel"',
  'Event code 30 (KEY_A)',
  'Event code 330 (BTN_TOUCH)',
  'Event code 8 (REL_WHEEL)',
  /\(ABS_X\)\s+Value\s+0\s+Min\s+-100\s+Max\s+4095\s+Fuzz\s+4\s+Flat\s+15\s+Resolution\s+10/,
  /Event code 47 \(ABS_MT_SLOT\)\s+Value\s+0\s+Min\s+0\s+Max\s+31/,
  'Event code 57 (ABS_MT_TRACKING_ID)',
  'Event code 4 (MSC_SCAN)',
  'Event code 0 (SW_LID)',
  'Event code 1 (LED_CAPSL)',
  'Property type 1 (INPUT_PROP_DIRECT)',
];

/**
 * evtest on a node: it says what the panel is, and prints a key.
 * @param {string} node
 * @param {(line: object) => void} write tells the device's script
 */
export async function identify(node, write) {
  const program = start(['stdbuf', '-oL', 'evtest', node]);
  await program.waitForOutput(/Testing/, 20_000);
  for (const text of EVTEST) {
    const isThere = text instanceof RegExp ? text.test(program.stdout) : null;
    if (!(isThere ?? program.stdout.includes(text))) {
      throw new Error(`no '${text}' in what evtest says:\n${program.stdout}`);
    }
  }
  write({ key: 'KEY_A' });
  await program.waitForOutput(/EV_KEY\), code 30 \(KEY_A\), value 0/, 20_000);
  await program.stop('SIGINT');
  return `${EVTEST.length} facts and a key`;
}

/**
 * Reports of every kind. The kernel leaves out what does not change, such as a contact of a number
 * that was there: all of it changes, where `from` is odd and greater than before.
 */
export function mixedReports(rounds, from = 1) {
  const reports = [];
  for (let i = from; i < from + rounds; i += 1) {
    const odd = i & 1;
    reports.push([[EV.KEY, KEY_A, odd]]);
    reports.push([
      [EV.REL, 0, -i],
      [EV.REL, 1, i],
    ]);
    reports.push([
      [EV.MSC, 4, i],
      [EV.KEY, KEY_B, odd],
      [EV.SW, 0, odd],
    ]);
    // Less than 8 of a step would be smoothed: fuzz is 4.
    reports.push([[EV.ABS, 0, i * 10]]);
    reports.push([
      [EV.ABS, SLOT, i % 32],
      [EV.ABS, TRACKING_ID, i],
      [EV.ABS, POSITION_X, i * 7],
    ]);
  }
  return reports;
}

export const asLine = (events, more = {}) => ({ events, ...more });
export const asEvents = (reports) => reports.flatMap((events) => [...events, SYN]);
