/** The entropy device: random bytes for the driver's pool. */
import * as v from 'valibot';
import { defineDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import { FileSource } from './backend-file.js';
import { RngDevice } from './device.js';

/** Longest time that a timer can be set to: one that is longer would end at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

const positive = (what: string, max: number) =>
  v.pipe(
    v.number(`${what} is needed`),
    v.integer(`${what} without a fraction is needed`),
    v.minValue(1, `${what} of at least 1 is needed`),
    v.maxValue(max, `${what} of at most ${max} is needed`),
  );

/** `vlo serve rng`. */
export const rng = defineDevice({
  name: 'rng',
  summary: 'random bytes, from the kernel or from a file or device',
  virtioId: VIRTIO_ID.rng,
  options: v.object({
    filename: v.optional(v.string('a path is needed'), '/dev/urandom'),
    maxBytes: v.optional(positive('a number of bytes', Number.MAX_SAFE_INTEGER)),
    period: v.optional(positive('a number of milliseconds', TIMER_MS_MAX), 60_000),
  }),
  arguments: {
    filename: {
      flags: '-f, --filename <path>',
      description: 'file or device to read from',
      isPath: true,
    },
    maxBytes: {
      flags: '-m, --max-bytes <count>',
      description: 'most bytes handed out in a period (default: no limit)',
    },
    period: { flags: '-p, --period <ms>', description: 'length of the period in milliseconds' },
  },
  examples: [
    'vlo serve rng --socket-path /tmp/rng.sock',
    'vlo serve rng --socket-path /tmp/rng.sock --filename /dev/hwrng --max-bytes 1024 --period 1000',
  ],
  queues: [{ name: 'requestq' }],
  open(options, host) {
    const source = new FileSource(options.filename);
    const bytesMax = options.maxBytes ?? Number.POSITIVE_INFINITY;
    const log = (line: string): void => host.log(line);
    return new RngDevice(source, { bytesMax, periodMs: options.period, log }).open();
  },
});
