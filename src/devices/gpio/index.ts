/** The GPIO device: lines of a real chip, or of a simulated one. */
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import { type DeviceHost, defineDevice, type OpenDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import type { GpioChip } from './backend.js';
import { RealChip } from './backend-chip.js';
import { SimulatedChip } from './backend-sim.js';
import { GpioDevice } from './device.js';
import { LineSocket } from './line-socket.js';
import { LineStore } from './line-store.js';
import { LineScript } from './script.js';

const text = (what: string) => v.optional(v.string(`${what} is needed`));

interface Options {
  readonly deviceList: string;
  readonly names?: string | undefined;
  readonly control?: string | undefined;
  readonly script?: string | undefined;
  readonly state?: string | undefined;
}

/** `vlo serve gpio`. */
export const gpio = defineDevice({
  name: 'gpio',
  summary: 'lines of a GPIO chip, real or simulated',
  virtioId: VIRTIO_ID.gpio,
  options: v.object({
    deviceList: v.optional(v.string("a chip as '0', a path, a label, or 's8' is needed"), 's8'),
    names: text('a list of names with commas between them'),
    control: text('a path'),
    script: text('a path'),
    state: text('a path'),
  }),
  arguments: {
    deviceList: {
      flags: '-l, --device-list <chip>',
      description: "number, path or label of the chip; 's8' simulates one with 8 lines (default)",
    },
    names: {
      flags: '--names <list>',
      description: 'names of the lines of a simulated chip, with commas between them',
    },
    control: {
      flags: '--control <path>',
      description: 'Unix socket that takes commands for the lines of a simulated chip',
      isPath: true,
    },
    script: {
      flags: '--script <path>',
      description: "file with commands for a simulated chip, or '-' for stdin",
      isPath: true,
    },
    state: {
      flags: '--state <path>',
      description: 'file that keeps what the driver has set, for when this process is replaced',
      isPath: true,
    },
  },
  examples: [
    'vlo serve gpio --socket-path /tmp/gpio.sock --device-list 0',
    'vlo serve gpio --socket-path /tmp/gpio.sock --device-list s4 --names led,button --control /tmp/lines',
  ],
  isUnordered: true,
  queues: [{ name: 'requestq' }, { name: 'eventq' }],
  open: (options, host) => {
    const { deviceList } = options;
    const [, count] = /^s(\d{1,5})$/.exec(deviceList) ?? [];
    if (count !== undefined) return openSimulated(Number(count), options, host);
    for (const key of ['names', 'control', 'script'] as const) {
      if (options[key] !== undefined) refuse(key, "is for a simulated chip ('--device-list s8')");
    }
    if (deviceList.includes(':')) {
      refuse('device-list', 'takes one chip: start a process for each socket');
    }
    const place = /^\d+$/.test(deviceList) ? `/dev/gpiochip${deviceList}` : deviceList;
    return openOn(new RealChip(place, (line) => host.log(line)), options, host);
  },
});

/** @throws VloError VLO_OPTION_INVALID */
function openOn(
  chip: GpioChip,
  { state }: Options,
  host: DeviceHost,
): OpenDevice<'requestq' | 'eventq'> {
  try {
    const log = (line: string): void => host.log(line);
    return new GpioDevice(chip, state === undefined ? null : new LineStore(state, log)).open();
  } catch (error) {
    chip.close();
    throw error;
  }
}

function refuse(option: string, message: string): never {
  throw new VloError('VLO_OPTION_INVALID', `gpio: --${option} ${message}`);
}

/** Names as the specification wants them: ASCII, each only once. */
function parseNames(list: string, lineCount: number): string[] {
  const names = list.split(',').map((name) => name.trim());
  if (names.length > lineCount) refuse('names', `has ${names.length} names for ${lineCount} lines`);
  const used = names.filter((name) => name !== '');
  const isPlain = used.every((name) => /^[\x20-\x7e]{1,31}$/.test(name) && !/[=#]/.test(name));
  if (!isPlain) refuse('names', 'takes up to 31 ASCII characters for each, without = and #');
  if (new Set(used).size < used.length) refuse('names', 'has a name twice');
  return names;
}

function openSimulated(
  lineCount: number,
  options: Options,
  host: DeviceHost,
): OpenDevice<'requestq' | 'eventq'> {
  const { names, control, script } = options;
  if (lineCount < 1 || lineCount > 65535) refuse('device-list', 'takes s1 to s65535');
  const chip = new SimulatedChip(
    lineCount,
    names === undefined ? [] : parseNames(names, lineCount),
  );
  const device = openOn(chip, options, host);
  let socket: LineSocket | null = null;
  let player: LineScript | null = null;
  try {
    if (control !== undefined) socket = new LineSocket(chip, control);
    if (script !== undefined) player = new LineScript(chip, script, (line) => host.log(line));
  } catch (error) {
    socket?.close();
    void device.close();
    throw error;
  }
  return {
    ...device,
    close: () => {
      player?.close();
      socket?.close();
      return device.close();
    },
  };
}
