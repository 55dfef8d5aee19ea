/** The input device: keyboards, mice, tablets and touch screens, real or scripted. */
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import { type DeviceHost, defineDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import type { InputSource } from './backend.js';
import { EvdevSource } from './backend-evdev.js';
import { openScript } from './backend-script.js';
import { PROFILE_NAMES, PROFILES, type ProfileName } from './description.js';
import { InputDevice } from './device.js';

interface Options {
  readonly evdevPath?: string | undefined;
  readonly noGrab: boolean;
  readonly script?: string | undefined;
  readonly profile: ProfileName;
  readonly repeat: boolean;
}

/** @throws VloError VLO_OPTION_INVALID, VLO_SOURCE_ACCESS */
function openSource(options: Options, host: DeviceHost): InputSource | Promise<InputSource> {
  const { evdevPath: path, script } = options;
  const log = (line: string): void => host.log(line);
  if ((path === undefined) === (script === undefined)) {
    const message = 'input: give exactly one of --evdev-path and --script';
    throw new VloError('VLO_OPTION_INVALID', message);
  }
  if (path !== undefined) return new EvdevSource({ path, isGrabbed: !options.noGrab, log });
  const description = PROFILES[options.profile];
  return openScript({ path: script!, description, isRepeated: options.repeat, log });
}

/** `vlo serve input`. */
export const input = defineDevice({
  name: 'input',
  summary: 'a keyboard, mouse or touch screen: a real one, or a script',
  virtioId: VIRTIO_ID.input,
  options: v.object({
    evdevPath: v.optional(v.string('a path is needed')),
    noGrab: v.optional(v.boolean(), false),
    script: v.optional(v.string('a path is needed')),
    profile: v.optional(
      v.picklist(PROFILE_NAMES, `one of ${PROFILE_NAMES.join(', ')} is needed`),
      'keyboard',
    ),
    repeat: v.optional(v.boolean(), false),
  }),
  arguments: {
    evdevPath: {
      flags: '-p, --evdev-path <path>',
      description: 'event device: /dev/input/event5',
      isPath: true,
    },
    noGrab: { flags: '-n, --no-grab', description: 'leave the events to other programs as well' },
    script: {
      flags: '--script <path>',
      description: 'file, named pipe, or - (standard input) with a JSON object on each line',
      isPath: true,
    },
    profile: {
      flags: '--profile <name>',
      description: `what the script is, unless it says so: ${PROFILE_NAMES.join(', ')}`,
    },
    repeat: { flags: '--repeat', description: 'play the script again when it is over' },
  },
  capabilities: ['evdev-path', 'no-grab'],
  examples: [
    'vlo serve input --socket-path /tmp/kbd.sock --evdev-path /dev/input/event3',
    `echo '{"key": "KEY_A", "at": 2000}' > keys.jsonl && ` +
      'vlo serve input --socket-path /tmp/kbd.sock --script keys.jsonl',
  ],
  queues: [{ name: 'eventq', kind: 'supply' }, { name: 'statusq' }],
  async open(options, host) {
    return new InputDevice(await openSource(options, host), host).open();
  },
});
