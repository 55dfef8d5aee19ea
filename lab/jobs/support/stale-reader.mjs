/**
 * Reads the beginning of a file with O_DIRECT into a buffer that is filled with a pattern, and says
 * what became of the buffer, as JSON: bytes or error of the read; how many bytes behind its end are
 * other than before; whether a secret is among them.
 *
 *   node stale-reader.mjs FILE SIZE SECRET
 *
 * The lab runs it as an ordinary user: no data of other requests may reach one.
 */

import { closeSync, constants, openSync, readSync } from 'node:fs';
import { Mapping } from '../../../dist/native/index.js';

const PATTERN = 0xa5;

const [file, sizeText, secret] = process.argv.slice(2);
const size = Number(sizeText);
const mapping = Mapping.anonymous(size);
const buffer = Buffer.from(mapping.window(0).buffer, 0, size);
buffer.fill(PATTERN);
let length = 0;
let error = null;
const fd = openSync(file, constants.O_RDONLY | constants.O_DIRECT);
try {
  length = readSync(fd, buffer, 0, size, 0);
} catch (reason) {
  error = reason.code;
}
closeSync(fd);
const rest = buffer.subarray(length);
const result = {
  ...{ uid: process.getuid(), length, error },
  text: buffer.toString('latin1', 0, Math.min(length, 16)),
  changed: rest.filter((byte) => byte !== PATTERN).length,
  hasSecret: rest.includes(secret),
};
process.stdout.write(`${JSON.stringify(result)}\n`);
