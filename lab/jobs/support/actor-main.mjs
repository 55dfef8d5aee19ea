/**
 * A process that makes calls of the module as it is told to: a line of JSON for each, and a line
 * back. Its user, capabilities and limits are those that it was started with. A file of the module
 * that it has inherited is number 0 of its files.
 *
 *   {"open": true}                              -> {"file": 0} or {"error": "EACCES"}
 *   {"file": 0, "call": "START", "value": {}}   -> {"error": null}
 *   {"file": 0, "close": true}                  -> {}
 */

import { createInterface } from 'node:readline';
import { featureBytes } from '../../../dist/transports/loopback/control.js';
import { ModuleFile } from './module-file.mjs';

const [inherited] = process.argv.slice(2);
const files = inherited === undefined ? [] : [new ModuleFile(Number(inherited))];

/** JSON has no bytes: a list of numbers stands for them, and a text for a feature word. */
function decode(value) {
  const entries = Object.entries(value).map(([name, field]) => {
    if (Array.isArray(field)) return [name, Uint8Array.from(field)];
    return [name, typeof field === 'string' ? featureBytes(BigInt(field)) : field];
  });
  return Object.fromEntries(entries);
}

function answer({ open, file, close, attach, call, value = {} }) {
  if (open) {
    try {
      files.push(ModuleFile.open());
    } catch (error) {
      return { error: error.code };
    }
    return { file: files.length - 1 };
  }
  if (close) {
    files[file].close();
    return {};
  }
  if (attach !== undefined) return { error: files[file].attach(attach) };
  return { error: files[file].call(call, decode(value)).error };
}

process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`);
}
