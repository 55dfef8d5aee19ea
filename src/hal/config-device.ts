/** One device of the file: its keys, what they exclude, and its options by the device's schema. */
import { resolve } from 'node:path';
import * as v from 'valibot';
import { isMap, isSeq } from 'yaml';
import { ATTACHABLE_TYPES, TRANSPORT_CHOICES, type TransportChoice } from '../adapter/attach.js';
import { assert } from '../errors.js';
import { type AnyDeviceDefinition, POLL_US_MAX } from '../kit/index.js';
import { type KernelOptions, PORT_MEMORIES } from '../transports/attachment.js';
import {
  type ConfigDocument,
  describeValue,
  type Entry,
  scalarOf,
  sourceOf,
  type Value,
} from './config-document.js';
import type { DeviceConfig, DeviceSource, ImageConfig, RestartLimit } from './config-model.js';
import type { Position, ProblemList } from './config-problems.js';
import {
  kebabCase,
  nearest,
  parseDuration,
  parseSize,
  quoted,
  suggestion,
} from './config-values.js';

/** Names become names of files and folders. */
const NAME = /^[a-z0-9][a-z0-9_-]{0,31}$/i;
const NAME_DOMAIN = 'up to 32 letters, digits, - and _, the first a letter or digit, are needed';

const SECTOR_SIZE = 512;
const SIZE_DOMAIN = 'a whole number of bytes with or without a unit (64MiB, 1G, 500MB) is needed';

const RESTART_DEFAULT: RestartLimit = { limit: 20, withinMs: 60_000 };
const RESTART_LIMIT_MAX = 1_000_000;
const RESTART_WITHIN_MAX_MS = 24 * 3_600_000;
const QUEUE_SIZE_MAX = 1024;
const POOL_MIN = 2 ** 20;
const POOL_MAX = 2 ** 30;
const POOL_STEP = 2 ** 16;
const WAIT_MAX_MS = 600_000;

/** Keys of every device, and those that go with a device of this package only. */
const KERNEL_KEYS = ['memory', 'pool', 'packed', 'queue-size', 'takeover', 'stop'];
const SHARED_KEYS = ['type', 'transport', 'restart', 'backend', 'command', ...KERNEL_KEYS];
const RUN_KEYS = ['packed', 'in-order', 'poll-us'];
const IMAGE_KEYS = ['image', 'size'];

/** The option that `image` stands for. */
const IMAGE_OPTION = 'blkFile';

/** What valibot says of a wrong type where the device has no words of its own. */
const TYPE_DOMAINS: Readonly<Record<string, string>> = {
  boolean: 'true or false is needed',
  number: 'a number is needed',
  string: 'a text is needed',
};

/** Keys that only a device of this package has. */
function ownKeys(definition: AnyDeviceDefinition): string[] {
  const options = Object.keys(definition.options.entries).map(kebabCase);
  const image = options.includes(kebabCase(IMAGE_OPTION)) ? IMAGE_KEYS : [];
  return ['group', ...image, ...options, 'in-order', 'poll-us'];
}

function domainOf(issue: v.BaseIssue<unknown>): string {
  const isOwnMessage = !issue.message.startsWith('Invalid ');
  return isOwnMessage ? issue.message : (TYPE_DOMAINS[issue.expected ?? ''] ?? issue.message);
}

/** `007` and `on` are no texts in YAML until they are in quotes, and `"4"` is no number. */
function quotesHint(expected: string | null, value: Value): string {
  const scalar = scalarOf(value);
  if (expected === 'string' && (typeof scalar === 'number' || typeof scalar === 'boolean')) {
    return `; put it in quotes: "${sourceOf(value)}"`;
  }
  if (expected === 'number' && typeof scalar === 'string' && /^\d+$/.test(scalar)) {
    return '; take the quotes away';
  }
  return '';
}

/** Reads the devices of one file. */
export class DeviceReader {
  private readonly document: ConfigDocument;
  private readonly problems: ProblemList;
  private readonly folder: string;
  private readonly definitions: readonly AnyDeviceDefinition[];

  /** Relative paths are taken from `folder`; what is wrong goes to `problems`. */
  constructor(
    document: ConfigDocument,
    problems: ProblemList,
    folder: string,
    definitions: readonly AnyDeviceDefinition[],
  ) {
    this.document = document;
    this.problems = problems;
    this.folder = folder;
    this.definitions = definitions;
  }

  /** Reads one entry of `devices`; null when it is not even a map with a known type. */
  read(device: Entry): DeviceConfig | null {
    this.checkName('the name of a device', device.key, device.keyPosition);
    if (!isMap(device.node)) {
      this.wrongValue(device, 'a map is needed, such as { type: rng }');
      return null;
    }
    const keys = new Map(this.document.entries(device.node).map((entry) => [entry.key, entry]));
    const foreign = this.foreignType(keys);
    const definition = foreign === null ? this.definition(device, keys) : null;
    this.checkKeys(keys, definition);
    const transport = this.transport(keys.get('transport'));
    const restart = this.restart(keys.get('restart'));
    const kernel = this.kernel(keys);
    const type = foreign ?? definition?.name;
    if (type === undefined) return null;
    return {
      name: device.key,
      type,
      transport,
      kernel,
      group: this.group(keys.get('group')),
      ...this.source(device, keys, definition),
      restart,
      position: device.keyPosition,
    };
  }

  private wrongValue(value: Value & { key?: string }, domain: string, hint = ''): void {
    const subject = value.key === undefined ? '' : `${quoted(value.key)}: `;
    const message = `${subject}${domain}, not ${describeValue(value)}${hint}`;
    this.problems.add('VLO_CONFIG_VALUE', value.position, message);
  }

  private checkName(what: string, name: string, position: Position): void {
    if (NAME.test(name)) return;
    const message = `${what}: ${NAME_DOMAIN}, not ${quoted(name)}`;
    this.problems.add('VLO_CONFIG_VALUE', position, message);
  }

  /** A type that this package has no device of, and that others' back ends may be of. */
  private foreignType(keys: ReadonlyMap<string, Entry>): string | null {
    const entry = keys.get('type');
    const type = entry === undefined ? null : scalarOf(entry);
    if (!keys.has('backend') && !keys.has('command')) return null;
    if (typeof type !== 'string' || this.definitions.some(({ name }) => name === type)) return null;
    return ATTACHABLE_TYPES.includes(type) ? type : null;
  }

  private definition(device: Entry, keys: ReadonlyMap<string, Entry>): AnyDeviceDefinition | null {
    const types = this.definitions.map(({ name }) => name);
    const entry = keys.get('type');
    if (entry === undefined) {
      if (this.isMisspelled('type', keys, null)) return null;
      const message = `${quoted(device.key)}: 'type' is missing; types: ${types.join(', ')}`;
      this.problems.add('VLO_CONFIG_KEY', device.keyPosition, message);
      return null;
    }
    const type = scalarOf(entry);
    if (typeof type !== 'string') {
      this.wrongValue(entry, `one of ${types.join(', ')} is needed`);
      return null;
    }
    const definition = this.definitions.find(({ name }) => name === type);
    if (definition !== undefined) return definition;
    const guess = nearest(type, types);
    const isOthers = ATTACHABLE_TYPES.includes(type);
    const hint = isOthers
      ? "others' are given by 'backend' or 'command'; "
      : guess === null
        ? ''
        : `did you mean '${guess}'? `;
    const message = `there is no device type ${quoted(type)}; ${hint}types: ${types.join(', ')}`;
    this.problems.add('VLO_DEVICE_UNKNOWN', entry.position, message);
    return null;
  }

  /** Where the type is not known, the keys of any device fit. */
  private validKeys(definition: AnyDeviceDefinition | null): string[] {
    const definitions = definition === null ? this.definitions : [definition];
    return [...SHARED_KEYS, ...new Set(definitions.flatMap(ownKeys))];
  }

  /** A key is not missing, too, where it is reported as an unknown one that was meant to be it. */
  private isMisspelled(
    key: string,
    keys: ReadonlyMap<string, Entry>,
    definition: AnyDeviceDefinition | null,
  ): boolean {
    const valid = this.validKeys(definition);
    return [...keys.keys()].some(
      (given) => !valid.includes(given) && nearest(given, valid) === key,
    );
  }

  /** Reports unknown keys, and keys that exclude each other. */
  private checkKeys(
    keys: ReadonlyMap<string, Entry>,
    definition: AnyDeviceDefinition | null,
  ): void {
    const valid = this.validKeys(definition);
    const source = keys.get('backend') ?? keys.get('command');
    for (const entry of keys.values()) {
      if (!valid.includes(entry.key)) {
        // `image` is the name to use; the other one is understood.
        const shown = valid.filter((key) => key !== 'blk-file');
        const message = `unknown key ${quoted(entry.key)}${suggestion(entry.key, shown, 'keys')}`;
        this.problems.add('VLO_CONFIG_KEY', entry.keyPosition, message);
      } else if (source !== undefined && !SHARED_KEYS.includes(entry.key)) {
        this.excluded(entry, source, 'it is for devices of this package');
      }
    }
    const [backend, command] = [keys.get('backend'), keys.get('command')];
    const restart = keys.get('restart');
    if (backend !== undefined && command !== undefined) {
      this.excluded(command, backend, 'either someone else runs the back end, or it is run here');
    }
    if (backend !== undefined && restart !== undefined) {
      this.excluded(restart, backend, 'someone else runs that process');
    }
  }

  private excluded(entry: Entry, other: Entry, reason: string): void {
    const pair = `'${entry.key}' does not go with '${other.key}'`;
    const message = `${pair} (${reason}): take one of them out`;
    this.problems.add('VLO_CONFIG_KEY', entry.keyPosition, message);
  }

  private transport(entry: Entry | undefined): TransportChoice {
    if (entry === undefined) return 'auto';
    const given = scalarOf(entry);
    const transport = TRANSPORT_CHOICES.find((name) => name === given);
    if (transport !== undefined) return transport;
    const guess = typeof given === 'string' ? nearest(given, TRANSPORT_CHOICES) : null;
    const hint = guess === null ? '' : `; did you mean '${guess}'?`;
    this.wrongValue(entry, `one of ${TRANSPORT_CHOICES.join(', ')} is needed`, hint);
    return 'auto';
  }

  private restart(entry: Entry | undefined): RestartLimit {
    if (entry === undefined) return RESTART_DEFAULT;
    if (scalarOf(entry) === 'never') return { ...RESTART_DEFAULT, limit: 0 };
    if (!isMap(entry.node)) {
      this.wrongValue(entry, "'never' or { limit: 5, within: 10s } is needed");
      return RESTART_DEFAULT;
    }
    let { limit, withinMs } = RESTART_DEFAULT;
    for (const part of this.document.entries(entry.node)) {
      if (part.key === 'limit') {
        limit = this.wholeNumber(part, RESTART_LIMIT_MAX) ?? limit;
      } else if (part.key === 'within') {
        withinMs = this.duration(part) ?? withinMs;
      } else {
        const hint = suggestion(part.key, ['limit', 'within'], 'keys');
        const message = `unknown key ${quoted(part.key)}${hint}`;
        this.problems.add('VLO_CONFIG_KEY', part.keyPosition, message);
      }
    }
    return { limit, withinMs };
  }

  private duration(entry: Entry): number | null {
    const duration = parseDuration(scalarOf(entry));
    if (duration !== null && duration <= RESTART_WITHIN_MAX_MS) return duration;
    const domain = 'a whole number with ms, s, min or h, from 1ms to 24h, is needed';
    this.wrongValue(entry, domain);
    return null;
  }

  private wholeNumber(entry: Entry, max: number): number | null {
    const value = scalarOf(entry);
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) {
      return value;
    }
    const domain = `a whole number from 0 to ${max} is needed`;
    this.wrongValue(entry, domain, quotesHint('number', entry));
    return null;
  }

  /** What a kernel transport is told. */
  private kernel(keys: ReadonlyMap<string, Entry>): KernelOptions {
    const given = KERNEL_KEYS.map((key) => keys.get(key));
    const [memory, pool, packed, queueSize, takeover, stop] = given;
    const kernel: { -readonly [K in keyof KernelOptions]: KernelOptions[K] } = {};
    if (memory !== undefined) {
      const known = PORT_MEMORIES.find((name) => name === scalarOf(memory));
      if (known === undefined) this.wrongValue(memory, `${PORT_MEMORIES.join(' or ')} is needed`);
      else kernel.memory = known;
    }
    if (pool !== undefined) {
      const size = parseSize(scalarOf(pool));
      if (size === null || size % POOL_STEP !== 0 || size > POOL_MAX || size < POOL_MIN) {
        this.wrongValue(pool, 'a size from 1MiB to 1GiB, in steps of 64KiB, is needed');
      } else kernel.poolSize = size;
    }
    if (packed !== undefined) kernel.packed = this.flag(packed) ?? false;
    if (queueSize !== undefined) {
      const size = this.wholeNumber(queueSize, QUEUE_SIZE_MAX);
      const isPower = size !== null && size >= 2 && (size & (size - 1)) === 0;
      if (isPower) kernel.queueSize = size;
      else if (size !== null) this.wrongValue(queueSize, 'a power of two from 2 is needed');
    }
    if (takeover !== undefined) Object.assign(kernel, this.wait('takeoverMs', takeover));
    if (stop !== undefined) Object.assign(kernel, this.wait('stopMs', stop));
    return kernel;
  }

  /** A time for which the kernel may wait; nothing for a wrong one. */
  private wait(name: 'takeoverMs' | 'stopMs', entry: Entry): KernelOptions {
    const value = scalarOf(entry);
    const ms = value === 0 ? 0 : parseDuration(value);
    if (ms !== null && ms <= WAIT_MAX_MS) return { [name]: ms };
    this.wrongValue(entry, 'expected 0, or a whole number with ms, s or min, up to 10min');
    return {};
  }

  private flag(entry: Entry): boolean | null {
    const value = scalarOf(entry);
    if (typeof value === 'boolean') return value;
    this.wrongValue(entry, TYPE_DOMAINS.boolean);
    return null;
  }

  private group(entry: Entry | undefined): string | null {
    if (entry === undefined) return null;
    const group = scalarOf(entry);
    if (typeof group !== 'string') {
      this.wrongValue(entry, 'a name is needed', quotesHint('string', entry));
      return null;
    }
    this.checkName("'group'", group, entry.position);
    return group;
  }

  /** What stands behind the device; where keys exclude each other, the first of these rules. */
  private source(
    device: Entry,
    keys: ReadonlyMap<string, Entry>,
    definition: AnyDeviceDefinition | null,
  ): Pick<DeviceConfig, 'source' | 'image'> {
    const [backend, command] = [keys.get('backend'), keys.get('command')];
    if (command !== undefined) {
      const source: DeviceSource = { kind: 'command', command: this.command(command) };
      if (backend === undefined) return { source, image: null };
    }
    if (backend !== undefined) {
      return { source: { kind: 'backend', socket: this.path(backend) ?? '' }, image: null };
    }
    assert(definition !== null, 'a device of another package has a back end');
    const options = this.options(device, keys, definition);
    const source: DeviceSource = { kind: 'own', options, run: this.run(keys) };
    return { source, image: this.image(keys, options) };
  }

  /** An absolute path; null and a problem for what names no file. */
  private path(entry: Entry): string | null {
    const path = scalarOf(entry);
    if (typeof path === 'string' && path !== '' && !path.includes('\0')) {
      return resolve(this.folder, path);
    }
    this.wrongValue(entry, 'a path is needed', quotesHint('string', entry));
    return null;
  }

  private command(entry: Entry): string[] {
    const example = '[program, --socket-path, "{socket}"]';
    const items = isSeq(entry.node) ? this.document.items(entry.node) : [];
    if (items.length === 0) {
      this.wrongValue(entry, `a list is needed, such as ${example}`);
      return [];
    }
    const isText = (text: unknown): text is string =>
      typeof text === 'string' && !text.includes('\0');
    for (const item of items) {
      if (isText(scalarOf(item))) continue;
      const hint = isMap(item.node) ? '; "{socket}" needs quotes' : quotesHint('string', item);
      this.wrongValue(item, `'${entry.key}': a text is needed`, hint);
    }
    const command = items.map(scalarOf);
    if (!command.every(isText)) return [];
    if (command[0] === '') this.wrongValue(items[0], `'${entry.key}': a program is needed`);
    if (!command.some((text) => text.includes('{socket}'))) {
      const message = `'command': "{socket}" is missing, for the path of the socket: ${example}`;
      this.problems.add('VLO_CONFIG_VALUE', entry.position, message);
    }
    return command;
  }

  private run(keys: ReadonlyMap<string, Entry>): RunSettings {
    const [packed, inOrder, pollUs] = RUN_KEYS.map((key) => keys.get(key));
    const run: RunSettings = {};
    if (packed !== undefined) run.packed = this.flag(packed) ?? true;
    if (inOrder !== undefined) run.inOrder = this.flag(inOrder) ?? false;
    if (pollUs !== undefined) run.pollUs = this.wholeNumber(pollUs, POLL_US_MAX) ?? 0;
    return run;
  }

  /** The device's own options, as given; its schema checks them and later fills in defaults. */
  private options(
    device: Entry,
    keys: ReadonlyMap<string, Entry>,
    definition: AnyDeviceDefinition,
  ): Record<string, unknown> {
    const options: Record<string, unknown> = {};
    const entries = new Map<string, Entry>();
    for (const name of Object.keys(definition.options.entries)) {
      const entry = name === IMAGE_OPTION ? this.imageEntry(keys) : keys.get(kebabCase(name));
      if (entry === undefined) continue;
      const value = this.document.plain(entry);
      const isPath = definition.arguments[name]?.isPath === true && typeof value === 'string';
      options[name] = isPath ? (this.path(entry) ?? value) : value;
      entries.set(name, entry);
    }
    const result = v.safeParse(definition.options, options);
    for (const issue of result.issues ?? []) {
      const name = `${issue.path?.[0]?.key}`;
      const entry = entries.get(name);
      if (entry === undefined) this.missingOption(device, keys, definition, name);
      else this.wrongValue(entry, domainOf(issue), quotesHint(issue.expected, entry));
    }
    return options;
  }

  private missingOption(
    device: Entry,
    keys: ReadonlyMap<string, Entry>,
    definition: AnyDeviceDefinition,
    name: string,
  ): void {
    const key = name === IMAGE_OPTION ? 'image' : kebabCase(name);
    if (this.isMisspelled(key, keys, definition)) return;
    const what = `${quoted(device.key)}: '${key}' is missing`;
    const message = `${what}: ${definition.name} needs it, or else 'backend' or 'command'`;
    this.problems.add('VLO_CONFIG_KEY', device.keyPosition, message);
  }

  private imageEntry(keys: ReadonlyMap<string, Entry>): Entry | undefined {
    const [image, alias] = [keys.get('image'), keys.get(kebabCase(IMAGE_OPTION))];
    if (image !== undefined && alias !== undefined) {
      this.excluded(alias, image, 'they are two names of the same key');
    }
    return image ?? alias;
  }

  private image(
    keys: ReadonlyMap<string, Entry>,
    { [IMAGE_OPTION]: path, readOnly }: Record<string, unknown>,
  ): ImageConfig | null {
    const size = keys.get('size');
    const bytes = size === undefined ? null : this.size(size);
    const entry = keys.get('image') ?? keys.get(kebabCase(IMAGE_OPTION));
    if (entry === undefined || typeof path !== 'string') return null;
    return {
      path,
      size: bytes,
      readOnly: readOnly === true,
      position: entry.position,
      sizePosition: (size ?? entry).position,
    };
  }

  private size(entry: Entry): number | null {
    const size = parseSize(scalarOf(entry));
    if (size === null) {
      this.wrongValue(entry, SIZE_DOMAIN);
      return null;
    }
    if (size % SECTOR_SIZE === 0) return size;
    const rounded = Math.ceil(size / SECTOR_SIZE) * SECTOR_SIZE;
    const hint = `; the next one is ${rounded}`;
    this.wrongValue(entry, `a multiple of ${SECTOR_SIZE} bytes is needed`, hint);
    return null;
  }
}

/** How a device process is run, while it is gathered. */
interface RunSettings {
  packed?: boolean;
  inOrder?: boolean;
  pollUs?: number;
}
