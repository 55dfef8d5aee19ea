/** The sound device: streams of PCM frames, each to or from a file, a program, or nobody. */
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import { defineDevice, type OpenDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import type { SoundBackEnd } from './backend.js';
import { CommandSound } from './backend-command.js';
import { NullSound } from './backend-null.js';
import { WavSound } from './backend-wav.js';
import { ControlSocket } from './control-socket.js';
import { SoundDevice } from './device.js';
import { ALL_FORMATS, ALL_RATES, FORMATS, maskOf, type PcmOffer, RATES } from './format.js';
import { StreamStore } from './stream-store.js';
import { CHANNELS_MAX } from './wire.js';

const STREAMS_MAX = 16;

/** What `--audio-backend alsa` stands for. */
const ALSA = {
  playbackCommand: 'exec aplay -q -t raw -f {format} -r {rate} -c {channels} -',
  captureCommand: 'exec arecord -q -t raw -f {format} -r {rate} -c {channels} -',
};

const text = (what: string) => v.optional(v.string(`${what} is needed`));
const whole = (min: number, max: number) =>
  v.pipe(
    v.number('a number is needed'),
    v.integer('a whole number is needed'),
    v.minValue(min, `at least ${min} is needed`),
    v.maxValue(max, `at most ${max} is possible`),
  );

interface Options {
  readonly audioBackend?: 'null' | 'wav' | 'command' | 'alsa' | undefined;
  readonly streams: number;
  readonly jacks?: number | undefined;
  readonly channels: number;
  readonly formats?: string | undefined;
  readonly rates?: string | undefined;
  readonly playbackFile?: string | undefined;
  readonly captureFile?: string | undefined;
  readonly loop: boolean;
  readonly playbackCommand?: string | undefined;
  readonly captureCommand?: string | undefined;
}

/** `vlo serve sound`. */
export const sound = defineDevice({
  name: 'sound',
  summary: 'a sound card, over WAV files, programs, or nothing',
  virtioId: VIRTIO_ID.sound,
  options: v.object({
    // Without it the other options say which. In a file of devices, 'backend' alone is a socket.
    audioBackend: v.optional(
      v.picklist(
        ['null', 'wav', 'command', 'alsa'],
        "'null', 'wav', 'command' or 'alsa' is needed",
      ),
    ),
    streams: v.optional(whole(1, STREAMS_MAX), 2),
    jacks: v.optional(whole(0, STREAMS_MAX)),
    channels: v.optional(whole(1, CHANNELS_MAX), 2),
    formats: text('a list of formats as S16_LE,S32_LE'),
    rates: text('a list of rates as 44100,48000'),
    playbackFile: text('a path'),
    captureFile: text('a path'),
    loop: v.optional(v.boolean(), false),
    playbackCommand: text('a command'),
    captureCommand: text('a command'),
    control: text('a path'),
    state: text('a path'),
  }),
  arguments: {
    audioBackend: {
      flags: '--audio-backend <name>',
      description: "'null', 'wav', 'command' or 'alsa' (default: as the options below have it)",
    },
    streams: {
      flags: '--streams <count>',
      description: 'number of streams: playback and capture take turns (default: 2)',
    },
    jacks: { flags: '--jacks <count>', description: 'number of jacks (default: one a stream)' },
    channels: {
      flags: '--channels <count>',
      description: 'most channels of a stream (default: 2)',
    },
    formats: {
      flags: '--formats <list>',
      description: 'formats to offer, as S16_LE,S32_LE (default: all that the back end has)',
    },
    rates: {
      flags: '--rates <list>',
      description: 'rates to offer, as 44100,48000 (default: all)',
    },
    playbackFile: {
      flags: '--playback-file <path>',
      description: 'WAV file to write; {stream} and {take} stand for their numbers',
      isPath: true,
    },
    captureFile: {
      flags: '--capture-file <path>',
      description: 'WAV file to record from',
      isPath: true,
    },
    loop: { flags: '--loop', description: 'begin the file to record from again at its end' },
    playbackCommand: {
      flags: '--playback-command <command>',
      description:
        'program that reads frames; {format}, {rate}, {channels} and {stream} are filled in',
    },
    captureCommand: {
      flags: '--capture-command <command>',
      description: 'program that writes frames',
    },
    control: {
      flags: '--control <path>',
      description: 'Unix socket for commands: status, and a jack that is plugged in or pulled',
      isPath: true,
    },
    state: {
      flags: '--state <path>',
      description: 'file that keeps what the driver has set, for when this process is replaced',
      isPath: true,
    },
  },
  examples: [
    'vlo serve sound --socket-path /tmp/snd.sock --audio-backend alsa --rates 48000',
    'vlo serve sound --socket-path /tmp/snd.sock --playback-file out-{take}.wav',
  ],
  isUnordered: true,
  queues: [
    { name: 'controlq' },
    { name: 'eventq', kind: 'supply' },
    { name: 'txq' },
    { name: 'rxq' },
  ],
  open(options, host) {
    const { streams: streamCount, jacks: jackCount = streamCount, control, state } = options;
    if (jackCount > streamCount) refuse('jacks', `at most one a stream: ${streamCount}`);
    const log = (line: string): void => host.log(line);
    const backEnd = openBackEnd(options, log);
    const store = state === undefined ? undefined : new StreamStore(state, log);
    const device = new SoundDevice(backEnd, { streamCount, jackCount, store }, host);
    const open = device.open();
    if (control === undefined) return open;
    const socket = openSocket(device, open, control);
    return {
      ...open,
      close: () => {
        socket.close();
        return open.close();
      },
    };
  },
});

/** @throws VloError VLO_SOCKET_IN_USE or VLO_SOCKET_PATH; the device is closed then */
function openSocket(device: SoundDevice, open: OpenDevice, path: string): ControlSocket {
  try {
    return new ControlSocket(device, path);
  } catch (error) {
    void open.close();
    throw error;
  }
}

function refuse(option: string, problem: string): never {
  throw new VloError('VLO_OPTION_INVALID', `sound: --${option}: ${problem}`);
}

/** A set of values from a list with commas; null stands for all. */
function parseList(option: string, list: string | undefined, known: readonly string[]): number {
  if (list === undefined) return maskOf([...known.keys()]);
  const names = list.split(',').map((name) => name.trim().toUpperCase());
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined)
    refuse(option, `there is no '${unknown}'; there are ${known.join(', ')}`);
  return maskOf(names.map((name) => known.indexOf(name)));
}

/** Options that only one kind of back end has. */
const OWN_OPTIONS = {
  wav: { playbackFile: 'playback-file', captureFile: 'capture-file' },
  command: { playbackCommand: 'playback-command', captureCommand: 'capture-command' },
} as const;

function openBackEnd(options: Options, log: (line: string) => void): SoundBackEnd {
  const { streams, playbackFile = null, captureFile = null, loop } = options;
  const { playbackCommand = null, captureCommand = null } = options;
  const hasFile = playbackFile !== null || captureFile !== null;
  const hasCommand = playbackCommand !== null || captureCommand !== null;
  const { audioBackend: backend = hasFile ? 'wav' : hasCommand ? 'command' : 'null' } = options;
  const limits: PcmOffer = {
    formats:
      ALL_FORMATS &
      parseList(
        'formats',
        options.formats,
        FORMATS.map(({ name }) => name),
      ),
    rates: ALL_RATES & parseList('rates', options.rates, RATES.map(String)),
    channelsMin: 1,
    channelsMax: options.channels,
  };
  for (const [owner, names] of Object.entries(OWN_OPTIONS)) {
    for (const [key, name] of Object.entries(names)) {
      const isGiven = options[key as keyof Options] !== undefined;
      if (isGiven && backend !== owner) refuse(name, `it is for '--audio-backend ${owner}'`);
    }
  }
  if (loop && captureFile === null) refuse('loop', '--capture-file is needed');
  if (streams > 2 && playbackFile?.includes('{stream}') === false) {
    refuse('playback-file', "'{stream}' is needed: there is more than one stream for playback");
  }
  if (backend === 'wav') {
    const wav = new WavSound({ playbackFile, captureFile, loop, limits });
    if (wav.offer(0).formats === 0) refuse('formats', 'a WAV file has none of these');
    return wav;
  }
  if (backend === 'null') return new NullSound(limits);
  const commands = backend === 'alsa' ? ALSA : { playbackCommand, captureCommand };
  return new CommandSound({ ...commands, limits, log });
}
