/** Sample formats and frame rates: how wide a sample is, and what silence looks like. */
import type { ChainWriter } from '../../virtio/index.js';

export interface SampleFormat {
  /** Name as ALSA's tools know it, in which the byte order is part of it. */
  readonly name: string;
  /** Value on the wire, and bit number in a set of formats. */
  readonly code: number;
  /** Bits that a sample takes in memory. */
  readonly bits: number;
  /** One sample of silence; zeros where it is left out. */
  readonly silence?: readonly number[];
}

type Row = readonly [name: string, bits: number, silence?: readonly number[]];

const ROWS: readonly Row[] = [
  ['IMA_ADPCM', 4],
  ['MU_LAW', 8, [0x7f]],
  ['A_LAW', 8, [0x55]],
  ['S8', 8],
  ['U8', 8, [0x80]],
  ['S16_LE', 16],
  ['U16_LE', 16, [0, 0x80]],
  ['S18_3LE', 24],
  ['U18_3LE', 24, [0, 0, 0x02]],
  ['S20_3LE', 24],
  ['U20_3LE', 24, [0, 0, 0x08]],
  ['S24_3LE', 24],
  ['U24_3LE', 24, [0, 0, 0x80]],
  ['S20_LE', 32],
  ['U20_LE', 32, [0, 0, 0x08, 0]],
  ['S24_LE', 32],
  ['U24_LE', 32, [0, 0, 0x80, 0]],
  ['S32_LE', 32],
  ['U32_LE', 32, [0, 0, 0, 0x80]],
  ['FLOAT_LE', 32],
  ['FLOAT64_LE', 64],
  ['DSD_U8', 8, [0x69]],
  ['DSD_U16_LE', 16, [0x69, 0x69]],
  ['DSD_U32_LE', 32, [0x69, 0x69, 0x69, 0x69]],
  ['IEC958_SUBFRAME_LE', 32],
];

/** All formats, by their value on the wire. */
export const FORMATS: readonly SampleFormat[] = ROWS.map(([name, bits, silence], code) =>
  silence === undefined ? { name, code, bits } : { name, code, bits, silence },
);

/** Frame rates in hertz, by their value on the wire. */
export const RATES: readonly number[] = [
  5512, 8000, 11025, 16000, 22050, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000, 384000,
  12000, 24000,
];

/** A set of values as the wire has it: one bit for each. */
export const maskOf = (codes: readonly number[]): number =>
  codes.reduce((mask, code) => mask | (1 << code), 0);

export const hasBit = (mask: number, bit: number): boolean => bit < 32 && (mask >>> bit) % 2 === 1;

export const ALL_FORMATS = maskOf(FORMATS.map(({ code }) => code));
export const ALL_RATES = maskOf(RATES.map((_, code) => code));

/** What a stream can do, or may. */
export interface PcmOffer {
  /** Sets of formats and rates. */
  readonly formats: number;
  readonly rates: number;
  readonly channelsMin: number;
  readonly channelsMax: number;
}

/** What a stream was set to. */
export interface PcmParams {
  readonly format: SampleFormat;
  /** Frames a second. */
  readonly rate: number;
  readonly channels: number;
  readonly bufferBytes: number;
  readonly periodBytes: number;
}

/** Bytes that a stream plays or records in a millisecond. */
export const bytesPerMs = ({ format, rate, channels }: PcmParams): number =>
  (format.bits * channels * rate) / 8000;

/** A multiple of all sizes of samples. */
const CHUNK_SIZE = 24 * 128;
const chunks = new Map<SampleFormat, Uint8Array>();

/** A piece of silence in a format. */
function silentChunk(format: SampleFormat): Uint8Array {
  const known = chunks.get(format);
  if (known !== undefined) return known;
  const { silence = [0] } = format;
  const chunk = Uint8Array.from({ length: CHUNK_SIZE }, (_, i) => silence[i % silence.length]!);
  chunks.set(format, chunk);
  return chunk;
}

/** Fills what is left of a recording with silence. */
export function writeSilence(writer: ChainWriter, format: SampleFormat): void {
  const chunk = silentChunk(format);
  const phase = writer.written % 24;
  if (phase !== 0) writer.write(chunk.subarray(phase, 24));
  while (writer.remaining > 0) writer.write(chunk);
}
