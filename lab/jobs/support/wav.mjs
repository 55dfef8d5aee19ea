/** WAV files of random frames, and how two of them differ. */

import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';

export const HEADER_SIZE = 44;
/** Formats of a WAV file: tag and bytes of a sample. */
const FORMATS = {
  U8: [1, 1],
  S16_LE: [1, 2],
  S24_3LE: [1, 3],
  S32_LE: [1, 4],
  FLOAT_LE: [3, 4],
};

/** Writes a WAV file of random frames. */
export function writeWav(path, { format = 'S16_LE', rate = 48000, channels = 2, frameCount }) {
  const [tag, width] = FORMATS[format];
  const size = frameCount * channels * width;
  const header = Buffer.alloc(HEADER_SIZE);
  header.write('RIFF', 0, 'latin1');
  header.writeUInt32LE(size + 36, 4);
  header.write('WAVEfmt ', 8, 'latin1');
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(tag, 20);
  header.writeUInt16LE(channels, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE(rate * channels * width, 28);
  header.writeUInt16LE(channels * width, 32);
  header.writeUInt16LE(width * 8, 34);
  header.write('data', 36, 'latin1');
  header.writeUInt32LE(size, 40);
  writeFileSync(path, Buffer.concat([header, randomBytes(size)]));
  return path;
}

/** Where two files differ. */
export function difference(sent, heard) {
  const end = Math.min(sent.length, heard.length);
  let at = 0;
  while (at < end && sent[at] === heard[at]) at += 1;
  return `${heard.length} bytes of ${sent.length}; they differ from byte ${at} on`;
}
