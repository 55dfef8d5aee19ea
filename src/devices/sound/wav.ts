/** WAV files: the formats that they have, and their header. */
import { FORMATS, type SampleFormat } from './format.js';

/** The tag of a format, and the width of a sample. What is wider than its values is left out. */
const WAV_FORMATS: readonly (readonly [name: string, tag: number])[] = [
  ['U8', 1],
  ['S16_LE', 1],
  ['S24_3LE', 1],
  ['S32_LE', 1],
  ['FLOAT_LE', 3],
  ['FLOAT64_LE', 3],
  ['A_LAW', 6],
  ['MU_LAW', 7],
];
const EXTENSIBLE = 0xfffe;

const formatNamed = (name: string): SampleFormat => FORMATS.find((format) => format.name === name)!;

/** Codes of the formats that a WAV file can have. */
export const WAV_CODES: readonly number[] = WAV_FORMATS.map(([name]) => formatNamed(name).code);

/** Bytes of a header, as most programs write it. */
export const WAV_HEADER_SIZE = 44;
/** Bytes in which a header is looked for: some programs put titles and the like before the data. */
export const WAV_SEARCH_SIZE = 65536;

export interface WavFormat {
  readonly format: SampleFormat;
  readonly rate: number;
  readonly channels: number;
}

export interface WavHeader extends WavFormat {
  /** Where the frames begin, and how many bytes of them there are. */
  readonly offset: number;
  readonly size: number;
}

const tagOf = (name: string): number => WAV_FORMATS.find((row) => row[0] === name)?.[1] ?? 1;

/** The header for so many bytes of frames; sizes that exceed 32 bits are the largest there are. */
export function encodeWavHeader({ format, rate, channels }: WavFormat, size: number): Uint8Array {
  const bytes = new Uint8Array(WAV_HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  const text = (at: number, value: string): void => bytes.set(Buffer.from(value, 'latin1'), at);
  const frameSize = (format.bits * channels) / 8;
  text(0, 'RIFF');
  view.setUint32(4, Math.min(size + WAV_HEADER_SIZE - 8, 0xffffffff), true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, tagOf(format.name), true);
  view.setUint16(22, channels, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * frameSize, true);
  view.setUint16(32, frameSize, true);
  view.setUint16(34, format.bits, true);
  text(36, 'data');
  view.setUint32(40, Math.min(size, 0xffffffff), true);
  return bytes;
}

/** True when bytes begin as a WAV file does, as far as they go. */
export const looksLikeWav = (bytes: Uint8Array): boolean =>
  'RIFF'.startsWith(Buffer.from(bytes.subarray(0, 4)).toString('latin1'));

/**
 * Reads a header from the first bytes of a file.
 * @returns what is wrong as a text; null when more bytes are needed to tell
 */
export function decodeWavHeader(bytes: Uint8Array): WavHeader | string | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = (at: number): string => Buffer.from(bytes.subarray(at, at + 4)).toString('latin1');
  if (bytes.length < 12) return looksLikeWav(bytes) ? null : 'it is no WAV file';
  if (name(0) !== 'RIFF' || name(8) !== 'WAVE') return 'it is no WAV file';
  let found: WavFormat | null = null;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === 'data') {
      if (found === null) return 'its format is missing';
      return { ...found, offset: at + 8, size };
    }
    if (name(at) === 'fmt ') {
      if (size < 16) return 'its format is too short';
      if (at + 8 + size > bytes.length) break;
      const format = decodeFormat(view, at + 8, size);
      if (typeof format === 'string') return format;
      found = format;
    }
    at += 8 + size + (size % 2);
  }
  return bytes.length < WAV_SEARCH_SIZE ? null : 'it has no frames';
}

function decodeFormat(view: DataView, at: number, size: number): WavFormat | string {
  const tag = view.getUint16(at, true);
  const channels = view.getUint16(at + 2, true);
  const rate = view.getUint32(at + 4, true);
  const bits = view.getUint16(at + 14, true);
  const isExtensible = tag === EXTENSIBLE && size >= 40;
  const validBits = isExtensible ? view.getUint16(at + 18, true) : bits;
  const realTag = isExtensible ? view.getUint16(at + 24, true) : tag;
  const row = WAV_FORMATS.find((r) => r[1] === realTag && formatNamed(r[0]).bits === bits);
  const isWhole = view.getUint16(at + 12, true) === (channels * bits) / 8 && validBits === bits;
  if (row === undefined || !isWhole) return `its format (${realTag}, ${bits} bits) is not served`;
  if (channels === 0 || rate === 0) return 'it has no channels, or no rate';
  return { format: formatNamed(row[0]), rate, channels };
}
