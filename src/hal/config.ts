/** `hal.yaml`: the devices that are brought up together. See docs/reference/hal-yaml.md. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { isMap } from 'yaml';
import { DEVICES } from '../devices/catalog.js';
import { VloError } from '../errors.js';
import type { AnyDeviceDefinition } from '../kit/index.js';
import { DeviceReader } from './config-device.js';
import {
  ConfigDocument,
  describeValue,
  type Entry,
  reportLength,
  TEXT_BYTES_MAX,
} from './config-document.js';
import { checkSharing } from './config-images.js';
import type { DeviceConfig, HalConfig, RestartLimit } from './config-model.js';
import { ProblemList } from './config-problems.js';
import { nearest, quoted, suggestion } from './config-values.js';

export { prepareImages } from './config-images.js';
export * from './config-model.js';
export { ConfigError, type Position, type Problem } from './config-problems.js';

const EXAMPLE = 'disk0: { type: blk, image: disk.img, size: 64MiB }';

/** The entries of `devices`; reports what else stands at the top of the file. */
function deviceEntries(document: ConfigDocument, problems: ProblemList): Entry[] {
  const { root } = document;
  if (!isMap(root.node)) {
    const message = `a map with the key 'devices' is needed, not ${describeValue(root)}`;
    problems.add('VLO_CONFIG_VALUE', root.position, message);
    return [];
  }
  let devices: Entry | null = null;
  let isMisspelled = false;
  for (const entry of document.entries(root.node)) {
    if (entry.key === 'devices') {
      devices = entry;
      continue;
    }
    const hint = suggestion(entry.key, ['devices'], 'the only key here');
    const message = `unknown key ${quoted(entry.key)}${hint}`;
    problems.add('VLO_CONFIG_KEY', entry.keyPosition, message);
    isMisspelled ||= nearest(entry.key, ['devices']) !== null;
  }
  if (devices === null) {
    if (isMisspelled) return [];
    problems.add('VLO_CONFIG_KEY', root.position, "the key 'devices' is missing");
    return [];
  }
  const entries = isMap(devices.node) ? document.entries(devices.node) : [];
  if (entries.length > 0 || (isMap(devices.node) && devices.node.items.length > 0)) return entries;
  const what = isMap(devices.node) ? 'an empty map' : describeValue(devices);
  const domain = `a map from names to devices is needed, such as ${EXAMPLE}`;
  const message = `'devices': ${domain}, not ${what}`;
  problems.add('VLO_CONFIG_VALUE', devices.position, message);
  return [];
}

const isSameLimit = (a: RestartLimit, b: RestartLimit): boolean =>
  a.limit === b.limit && a.withinMs === b.withinMs;

/** Devices of a group share a process, so one limit has to do for all of them. */
function checkGroups(devices: readonly DeviceConfig[], problems: ProblemList): void {
  const first = new Map<string, DeviceConfig>();
  for (const device of devices) {
    if (device.group === null) continue;
    const other = first.get(device.group);
    if (other === undefined) {
      first.set(device.group, device);
    } else if (!isSameLimit(device.restart, other.restart)) {
      const message =
        `'${device.name}' shares the process of group '${device.group}' with '${other.name}': ` +
        "give both the same 'restart'";
      problems.add('VLO_CONFIG_VALUE', device.position, message);
    }
  }
}

/**
 * Reads the text of a `hal.yaml`. Relative paths in it are relative to the folder of `file`, which
 * need not exist.
 * @throws ConfigError with all mistakes of the file.
 */
export function parseConfig(
  text: string,
  file: string,
  devices: readonly AnyDeviceDefinition[] = DEVICES,
): HalConfig {
  const problems = new ProblemList();
  const document = new ConfigDocument(text, problems);
  problems.throwIfAny(file);
  const reader = new DeviceReader(document, problems, resolve(dirname(file)), devices);
  const configs = deviceEntries(document, problems)
    .map((entry) => reader.read(entry))
    .filter((config) => config !== null);
  checkSharing(configs, problems);
  checkGroups(configs, problems);
  problems.throwIfAny(file);
  return { file, devices: configs };
}

/** Reads as much as a file of devices may have, and one byte more of what is none. */
function readStart(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    if (fstatSync(fd).isDirectory()) {
      throw new VloError('VLO_CONFIG_MISSING', `'${path}' is a folder; name the file in it`);
    }
    const buffer = Buffer.alloc(TEXT_BYTES_MAX + 1);
    let length = 0;
    for (let count = -1; count !== 0 && length < buffer.length; length += count) {
      count = readSync(fd, buffer, length, buffer.length - length, null);
    }
    return buffer.subarray(0, length);
  } finally {
    closeSync(fd);
  }
}

/** @throws ConfigError where the file is too long, or at the first byte that is no UTF-8. */
function decode(bytes: Buffer, file: string): string {
  const problems = new ProblemList();
  if (bytes.length > TEXT_BYTES_MAX) reportLength(problems);
  problems.throwIfAny(file);
  const text = bytes.toString('utf8');
  if (Buffer.from(text).equals(bytes)) return text;
  const before = text.slice(0, text.indexOf('\uFFFD')).split('\n');
  const position = { line: before.length, column: before[before.length - 1].length + 1 };
  problems.add('VLO_CONFIG_SYNTAX', position, 'this is no UTF-8 text');
  problems.throwIfAny(file);
  return text;
}

/**
 * Reads a `hal.yaml`.
 * @throws VloError VLO_CONFIG_MISSING when there is no such file or it cannot be read.
 * @throws ConfigError with all mistakes of the file.
 */
export function loadConfig(path: string): HalConfig {
  let bytes: Buffer;
  try {
    bytes = readStart(path);
  } catch (cause) {
    if (cause instanceof VloError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    const reason = code === 'ENOENT' ? 'does not exist' : `cannot be read (${code})`;
    throw new VloError('VLO_CONFIG_MISSING', `the file of devices '${path}' ${reason}`, { cause });
  }
  return parseConfig(decode(bytes, path), path);
}
