/** Whether data of other requests reaches an ordinary user: see stale-reader.mjs. */

import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { run } from './programs.mjs';

const NOBODY = 65534;
const SECRET_BYTES = 4 * 2 ** 20;
const PASSES = 2;

/** A file that only root may read. */
export class Secret {
  /** @param {string} path on the device in question @param {string} text of which it is full */
  constructor(path, text) {
    this.path = path;
    this.text = text;
  }

  /** @param {string} path */
  static async make(path) {
    const text = `only root reads ${createHash('sha256').update(path).digest('hex')};`;
    await writeFile(path, text.repeat(Math.ceil(SECRET_BYTES / text.length)), { mode: 0o600 });
    return new Secret(path, text);
  }

  /** Root reads it, so that its text has been wherever requests leave data. */
  async spread() {
    for (let pass = 0; pass < PASSES; pass += 1) {
      const words = [`if=${this.path}`, 'of=/dev/null', 'bs=128k', 'iflag=direct', 'status=none'];
      await run(['dd', ...words]);
    }
  }
}

/**
 * Reads a file as an ordinary user, with O_DIRECT.
 * @param {string} path
 * @param {number} size of the buffer
 * @param {Secret} secret
 */
export async function readAsNobody(path, size, secret) {
  const { stdout } = await run([
    ...['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'],
    ...['node', 'lab/jobs/support/stale-reader.mjs', path, `${size}`, secret.text],
  ]);
  const result = JSON.parse(stdout);
  if (result.uid !== NOBODY) throw new Error(`the reader was user ${result.uid}`);
  return result;
}

/** The buffer behind what was read is as it was. */
export function mustBeUntouched({ changed, hasSecret }, size) {
  if (changed === 0) return;
  const whose = hasSecret ? 'among them the text of a file that only root may read' : '';
  throw new Error(`${changed} of ${size} bytes behind the end were changed ${whose}`.trim());
}
