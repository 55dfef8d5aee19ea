/** Wire facts of the sound device: virtio 1.3 specification, section 5.14. */
import { defineStruct } from '../../virtio/index.js';

/** Indices of the queues. */
export const SND_Q = { CONTROL: 0, EVENT: 1, TX: 2, RX: 3 } as const;

/** Codes of control requests (section 5.14.6). */
export const SND_R = {
  JACK_INFO: 0x0001,
  JACK_REMAP: 0x0002,
  PCM_INFO: 0x0100,
  PCM_SET_PARAMS: 0x0101,
  PCM_PREPARE: 0x0102,
  PCM_RELEASE: 0x0103,
  PCM_START: 0x0104,
  PCM_STOP: 0x0105,
  CHMAP_INFO: 0x0200,
} as const;

/** Codes of events. */
export const SND_EVT = {
  JACK_CONNECTED: 0x1000,
  JACK_DISCONNECTED: 0x1001,
  PCM_PERIOD_ELAPSED: 0x1100,
  PCM_XRUN: 0x1101,
} as const;

/** Status codes of control requests and of I/O messages. */
export const SND_S = { OK: 0x8000, BAD_MSG: 0x8001, NOT_SUPP: 0x8002, IO_ERR: 0x8003 } as const;

/** Directions of streams and channel maps. */
export const SND_D = { OUTPUT: 0, INPUT: 1 } as const;

/** Features of a jack. */
export const JACK_F = { REMAP: 1 << 0 } as const;

/** Features of a stream. */
export const PCM_F = {
  SHMEM_HOST: 1 << 0,
  SHMEM_GUEST: 1 << 1,
  MSG_POLLING: 1 << 2,
  EVT_SHMEM_PERIODS: 1 << 3,
  EVT_XRUNS: 1 << 4,
} as const;

/** Config space (section 5.14.4), without `controls`, which goes with F_CTLS only. */
export const SndConfig = defineStruct({ jacks: 'u32', streams: 'u32', chmaps: 'u32' });

/** Begins every control request and every answer. */
export const SndHeader = defineStruct({ code: 'u32' });

/** JACK_INFO, PCM_INFO and CHMAP_INFO. */
export const SndQuery = defineStruct({ code: 'u32', startId: 'u32', count: 'u32', size: 'u32' });

/** An event. */
export const SndEvent = defineStruct({ code: 'u32', data: 'u32' });

/** Answer of JACK_INFO, for each jack. */
export const JackInfo = defineStruct({
  nid: 'u32',
  features: 'u32',
  defconf: 'u32',
  caps: 'u32',
  connected: 'u8',
  padding: { bytes: 7 },
});

/** JACK_REMAP. */
export const JackRemap = defineStruct({
  code: 'u32',
  jackId: 'u32',
  association: 'u32',
  sequence: 'u32',
});

/** Answer of PCM_INFO, for each stream. */
export const PcmInfo = defineStruct({
  nid: 'u32',
  features: 'u32',
  formats: 'u64',
  rates: 'u64',
  direction: 'u8',
  channelsMin: 'u8',
  channelsMax: 'u8',
  padding: { bytes: 5 },
});

/** PCM_PREPARE, PCM_RELEASE, PCM_START and PCM_STOP, and the begin of PCM_SET_PARAMS. */
export const PcmRequest = defineStruct({ code: 'u32', streamId: 'u32' });

/** What follows in PCM_SET_PARAMS. */
export const PcmSetParams = defineStruct({
  bufferBytes: 'u32',
  periodBytes: 'u32',
  features: 'u32',
  channels: 'u8',
  format: 'u8',
  rate: 'u8',
  padding: 'u8',
});

/** Begins every I/O message, device-readable. */
export const PcmXfer = defineStruct({ streamId: 'u32' });

/** Ends every I/O message, device-writable. */
export const PcmStatus = defineStruct({ status: 'u32', latencyBytes: 'u32' });

/** Answer of CHMAP_INFO, for each channel map. */
export const ChmapInfo = defineStruct({
  nid: 'u32',
  direction: 'u8',
  channels: 'u8',
  positions: { bytes: 18 },
});

/** Most channels that a channel map has room for. */
export const CHANNELS_MAX = 18;

// Positions of channels.
const [MONO, FL, FR, RL, RR, FC, LFE, SL, SR] = [2, 3, 4, 5, 6, 7, 8, 9, 10];

/** Positions by number of channels, in the order in which ALSA has them. */
export const CHANNEL_MAPS: readonly (readonly number[])[] = [
  [MONO!],
  [FL!, FR!],
  [FL!, FR!, RL!, RR!],
  [FL!, FR!, RL!, RR!, FC!, LFE!],
  [FL!, FR!, RL!, RR!, FC!, LFE!, SL!, SR!],
];
